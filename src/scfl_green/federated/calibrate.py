"""Calibration of a federation's weights, asked of every client by Flower's query messages."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from scfl_green.data.partition import Part
from scfl_green.federated.grid import LocalGrid
from scfl_green.federated.once import WeightsOnce, numpy_of
from scfl_green.federated.site import HoldWeights
from scfl_green.federated.workers import WorkersGrid
from scfl_green.models.prune import Weights
from scfl_green.training.calibrate import Arrays, Ask, answer
from scfl_green.training.job import Job

TYPE = "query.calibrate"


def calibration_app(job: Job, parts: Sequence[Part]) -> ClientApp:
    """A ClientApp that answers questions about the weights of a message from the node's part (``partition-id``)."""
    app = ClientApp(mods=[HoldWeights()])

    @app.query("calibrate")
    def calibrate(message: Message, context: Context) -> Message:
        part = parts[int(context.node_config["partition-id"])]
        weights = dict(message.content["arrays"].to_torch_state_dict())
        told = answer(job, part, weights, numpy_of(message.content["question"]))
        return Message(RecordDict({"answer": _record(told)}), reply_to=message)

    return app


@contextmanager
def by_message(
    job: Job, weights: Weights, parts: Sequence[Part], *, n_workers: int, timeout_seconds: float
) -> Iterator[Ask]:
    """Ask clients of a federation in this process (``training.calibrate.Survey``). The weights travel with the first
    question alone; clients that fail, or exceed the time-out, do not answer."""
    setup = calibration_app(job, parts), [part.name for part in parts], job.meter
    grid = LocalGrid(*setup) if n_workers == 1 else WorkersGrid(*setup, n_workers)
    once, record = WeightsOnce(grid), ArrayRecord(weights)

    def ask(question: Arrays) -> Iterator[tuple[str, Arrays]]:
        asked = _record(question)
        content = {"arrays": record, "question": asked, "config": ConfigRecord()}
        messages = [Message(RecordDict({**content}), dst_node_id=n, message_type=TYPE) for n in grid.get_node_ids()]
        for reply in once.send_and_receive(messages, timeout=timeout_seconds):
            answered = None if reply.has_error() else reply.content.array_records.get("answer")
            yield grid.clients[reply.metadata.src_node_id], {} if answered is None else numpy_of(answered)

    try:
        yield ask
    finally:
        grid.close()


def _record(arrays: Arrays) -> ArrayRecord:
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})
