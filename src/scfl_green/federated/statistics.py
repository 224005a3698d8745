"""Gene sums of a federation before training, requested from every client by Flower's query messages."""

from collections.abc import Iterator, Sequence

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from scfl_green.data.features.asked import Answer
from scfl_green.data.features.sums import Packed
from scfl_green.data.partition import Part
from scfl_green.energy.meter import EnergyMeter
from scfl_green.federated.grid import LocalGrid
from scfl_green.federated.once import numpy_of


def statistics_app(parts: Sequence[Part], answer: Answer) -> ClientApp:
    """A ClientApp that answers a question for the node's part (``partition-id``)."""
    app = ClientApp()

    @app.query()
    def gene_sums(message: Message, context: Context) -> Message:
        part = parts[int(context.node_config["partition-id"])]
        return Message(_content(answer(part, numpy_of(message.content["arrays"]))), reply_to=message)

    return app


def by_query(parts: Sequence[Part], question: Packed, answer: Answer, *, meter: EnergyMeter) -> Iterator[Packed]:
    """Put a question to all parts, each a client of a federation in this process."""
    grid = LocalGrid(statistics_app(parts, answer), [part.name for part in parts], meter)
    content = _content(question)
    content["config"] = ConfigRecord()
    queries = [Message(content, dst_node_id=node, message_type="query") for node in grid.get_node_ids()]
    return (numpy_of(reply.content["arrays"]) for reply in grid.send_and_receive(queries))


def _content(arrays: Packed) -> RecordDict:
    return RecordDict({"arrays": ArrayRecord({name: Array(values) for name, values in arrays.items()})})
