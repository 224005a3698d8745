"""Gene sums of a federation before training, requested from every client by Flower's query messages."""

from collections.abc import Callable, Sequence
from functools import reduce
from operator import add

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from scfl_green.data.features.sums import GeneSums
from scfl_green.data.partition import Part
from scfl_green.energy.meter import EnergyMeter
from scfl_green.federated.grid import LocalGrid

FIELDS = ("n", "linear", "logged")


def statistics_app(parts: Sequence[Part], sums_of: Callable[[Part], GeneSums]) -> ClientApp:
    """A ClientApp that returns the gene sums over the training cells of the node's part (``partition-id``)."""
    app = ClientApp()

    @app.query()
    def gene_sums(message: Message, context: Context) -> Message:
        sums = sums_of(parts[int(context.node_config["partition-id"])])
        arrays = ArrayRecord({field: Array(getattr(sums, field)) for field in FIELDS})
        return Message(RecordDict({"arrays": arrays}), reply_to=message)

    return app


def by_query(parts: Sequence[Part], sums_of: Callable[[Part], GeneSums], *, meter: EnergyMeter) -> GeneSums:
    """Request the gene sums of all parts, each a client of a federation in this process, and add them up."""
    grid = LocalGrid(statistics_app(parts, sums_of), [part.name for part in parts], meter)
    content = RecordDict({"config": ConfigRecord()})
    queries = [Message(content, dst_node_id=node, message_type="query") for node in grid.get_node_ids()]
    replies = (reply.content["arrays"] for reply in grid.send_and_receive(queries))
    return reduce(add, (GeneSums(*(arrays[field].numpy() for field in FIELDS)) for arrays in replies))
