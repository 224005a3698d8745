"""A round's averaging: our checks and float64 means against Flower's FedAvg alone, of the same replies."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from benchmarks.measure import Row, Times, interleaved
from benchmarks.setting import composed, metered
from scfl_green.energy.meter import EnergyMeter
from scfl_green.federated.grid import LocalGrid
from scfl_green.federated.strategy import CheckedStrategy

ALONE = "FedAvg alone"


def rows(quick: bool, cache: Path) -> Iterator[Row]:
    sizes = (
        [(100_000, 10)] if quick else [(100_000, 10), (1_000_000, 10), (3_000_000, 10), (100_000, 100), (300_000, 100)]
    )
    logging.getLogger("flwr").setLevel(logging.WARNING)  # set by Flower when it is imported
    with metered(composed()) as meter:
        for parameters, clients in sizes:
            yield from _of_size(parameters, clients, meter, 1 if quick else 5)


def _of_size(parameters: int, clients: int, meter: EnergyMeter, repeats: int) -> Iterator[Row]:
    """As many weights as that, in eight tensors."""
    sent = ArrayRecord({f"layer{i}": torch.randn(parameters // 8) for i in range(8)})
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        weights = {name: value + 0.01 for name, value in message.content["arrays"].to_torch_state_dict().items()}
        content = {"arrays": ArrayRecord(weights), "metrics": MetricRecord({"num-examples": 100})}
        return Message(RecordDict(content), reply_to=message)

    grid = LocalGrid(app, [str(client) for client in range(clients)], meter)

    def replies() -> tuple[FedAvg, CheckedStrategy, list[Message]]:
        # New ones each time, since a strategy may change them in place.
        fedavg = FedAvg(min_train_nodes=1, min_available_nodes=1, min_evaluate_nodes=1)
        checked = CheckedStrategy(fedavg, evaluate=False)
        asked = checked.configure_train(1, sent, ConfigRecord(), grid)
        return fedavg, checked, list(grid.send_and_receive(asked))

    def timed(choose: Callable[[FedAvg, CheckedStrategy], FedAvg | CheckedStrategy]) -> Times:
        fedavg, checked, received = replies()
        return interleaved({"": lambda: choose(fedavg, checked).aggregate_train(1, received)}, 1)[""]

    alone, ours = Times(), Times()
    for _ in range(repeats):
        for times, once in ((alone, timed(lambda fedavg, _: fedavg)), (ours, timed(lambda _, checked: checked))):
            times.wall += once.wall
            times.cpu += once.cpu
    up, down = meter.moved()
    what = f"{parameters:,} weights of {clients} clients"
    yield Row(f"{what}: mean and checks", ours.median("cpu") * 1e3, "CPU ms a round", ALONE, ours.over(alone, "cpu"))
    yield Row(
        f"{what}: the same a client and million weights", ours.median("cpu") * 1e9 / clients / parameters, "CPU ms"
    )
    raw = 4 * parameters * clients
    yield Row(
        f"{what}: sent and received",
        (up + down) / (2 * repeats) / 1e6,
        "MB a round",
        "float32 weights twice",
        (up + down) / (4 * repeats * raw),
    )
    meter.entries.clear()
