"""What a federation learns before it trains: sums by gene, asked of every client by Flower's query messages."""

from collections.abc import Callable, Sequence
from functools import reduce
from operator import add

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from scfl_green.data.features.sums import GeneSums
from scfl_green.data.partition import Part
from scfl_green.energy.meter import EnergyMeter
from scfl_green.federated.grid import LocalGrid

FIELDS = ("n", "linear", "logged")


def statistics_app(parts: Sequence[Part], sums_of: Callable[[Part], GeneSums]) -> ClientApp:
    """A ClientApp that tells the sums of the training cells of the part that the node's ``partition-id`` names."""
    app = ClientApp()

    @app.query()
    def gene_sums(message: Message, context: Context) -> Message:
        sums = sums_of(parts[int(context.node_config["partition-id"])])
        arrays = ArrayRecord({field: Array(getattr(sums, field)) for field in FIELDS})
        return Message(RecordDict({"arrays": arrays}), reply_to=message)

    return app


def ask_for_sums(grid: Grid) -> GeneSums:
    """The server's side: the sums of all nodes, added up."""
    content = RecordDict({"config": ConfigRecord()})
    asked = [Message(content, dst_node_id=node, message_type="query") for node in grid.get_node_ids()]
    replies = (reply.content["arrays"] for reply in grid.send_and_receive(asked))
    return reduce(add, (GeneSums(*(arrays[field].numpy() for field in FIELDS)) for arrays in replies))


def by_query(parts: Sequence[Part], sums_of: Callable[[Part], GeneSums], *, meter: EnergyMeter) -> GeneSums:
    """The sums of all parts, each of which is a client of a federation in this process."""
    return ask_for_sums(LocalGrid(statistics_app(parts, sums_of), [part.name for part in parts], meter))
