"""The federation: real Flower apps and messages, and the laws of averaging."""

import random
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import message_to_proto
from flwr.serverapp.strategy import FedAdam, FedAvg, FedProx, FedYogi

from jobs import ONE, SPLIT, Recorder, federate, make_job, simulated, split_of
from scfl_green.data.clients import iid
from scfl_green.data.partition import Part, Split
from scfl_green.data.reading.cells import Cells
from scfl_green.energy.meter import EnergyMeter
from scfl_green.errors import InputError
from scfl_green.federated.apps import client_app, server_app
from scfl_green.federated.federation import Federation
from scfl_green.federated.grid import LocalGrid
from scfl_green.federated.messages import packed
from scfl_green.federated.strategy import CheckedStrategy
from scfl_green.training.job import Weights


def same(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("clients", [2, 3, 4, 8, 20])
def test_the_same_seed_gives_the_same_bits(few: Cells, meter: EnergyMeter, clients: int) -> None:
    split = iid(few, clients=clients, **SPLIT)
    random.seed(1)
    first = federate(make_job(few, meter, split))
    random.seed(2)  # Flower samples its nodes, and so their order, from the global generator
    assert same(first, federate(make_job(few, meter, split)))
    assert not same(first, federate(make_job(few, meter, split, seed=2)))


def reply_to(grid: LocalGrid, node: int, values: np.ndarray, n_cells: int) -> Message:
    request = Message(RecordDict({"config": ConfigRecord()}), dst_node_id=node, message_type="train")
    content = {"arrays": ArrayRecord([values]), "metrics": MetricRecord({"num-examples": n_cells})}
    return Message(RecordDict(content), reply_to=request)


def test_averages_do_not_depend_on_the_order_of_replies(few: Cells, meter: EnergyMeter) -> None:
    grid = LocalGrid(ClientApp(), ["a", "b", "c", "d", "e"], meter)
    rng = np.random.default_rng(0)
    values = [rng.normal(size=1000).astype(np.float32) * 10.0**k for k in range(5)]
    cells = [3, 50, 700, 11, 90]
    strategy = CheckedStrategy(FedAvg(**ONE))
    strategy.configure_train(1, ArrayRecord([values[0]]), ConfigRecord(), grid)

    def average(order: list[int]) -> np.ndarray:
        replies = [reply_to(grid, node + 1, values[node], cells[node]) for node in order]
        arrays, _ = strategy.aggregate_train(1, replies)
        return next(iter(arrays.values())).numpy()

    one, other = average([0, 1, 2, 3, 4]), average([3, 0, 4, 2, 1])
    np.testing.assert_array_equal(one, other)
    assert one.dtype == np.float32
    exact = np.average(np.stack(values).astype(np.float64), axis=0, weights=cells)
    np.testing.assert_array_equal(one, exact.astype(np.float32))


def test_equal_clients_average_to_what_one_of_them_learns(few: Cells, meter: EnergyMeter) -> None:
    part = Part.pooled([*split_of(few).clients.values()])
    alone = federate(make_job(few, meter, Split({"a": replace(part, name="a")}, {})))
    # The same cells in the same order under four names: a client's shuffling is seeded by its name.
    app_parts = [replace(part, name="a")] * 4
    job = make_job(few, meter, Split({"a": app_parts[0]}, {}))
    together = Federation(FedAvg(**ONE), 2, 1).train(job, app_parts).weights
    for name in alone:
        torch.testing.assert_close(together[name], alone[name], rtol=1e-6, atol=1e-7)


def test_clients_weigh_as_many_as_their_training_cells(few: Cells, meter: EnergyMeter) -> None:
    job = make_job(few, meter)
    start = job.initial
    parts = list(job.split.clients.values())
    fits = [job.fit(part, start, epochs=1, round_number=1) for part in parts]
    cells = [len(part.train) for part in parts]
    result = federate(job, rounds=1)
    for name, value in result.items():
        expected = sum(w[name].double() * n for (w, _), n in zip(fits, cells, strict=True)) / sum(cells)
        torch.testing.assert_close(value, expected.float(), rtol=1e-6, atol=1e-8)


def test_messages_are_copied_and_counted(meter: EnergyMeter) -> None:
    app = ClientApp()
    seen = []

    @app.train()
    def train(message: Message, context: Context) -> Message:
        seen.append(message.content["arrays"])
        return Message(RecordDict({"metrics": MetricRecord({"num-examples": 1})}), reply_to=message)

    grid = LocalGrid(app, ["site"], meter)
    sent = ArrayRecord([np.ones(10_000, dtype=np.float32)])
    content = RecordDict({"arrays": sent, "config": ConfigRecord({"server-round": 3})})
    (reply,) = grid.send_and_receive([Message(content, dst_node_id=1, message_type="train")])
    assert seen[0] is not sent
    np.testing.assert_array_equal(next(iter(seen[0].values())).numpy(), np.ones(10_000))
    assert reply.metadata.src_node_id == 1
    entry = meter.entries["fit", 3, "site"]
    assert 40_000 < entry.bytes_down < 41_000
    assert 0 < entry.bytes_up < 300


def test_messages_travel_in_flowers_own_form(meter: EnergyMeter) -> None:
    LocalGrid(ClientApp(), [], meter)  # a message needs a sender
    arrays = {"w": Array(np.ones((2, 3), np.float32)), "b": Array(np.array(1.5)), "none": Array(np.empty((0, 4)))}
    records = {
        "arrays": ArrayRecord(arrays),
        "config": ConfigRecord({"server-round": 3, "name": "x", "on": True}),
        "nothing": ArrayRecord({}),
        "metrics": MetricRecord({"loss": 0.5, "num-examples": 7, "several": [1.0, 2.0]}),
    }
    asked = Message(RecordDict(records), dst_node_id=1, message_type="train")
    failed = Message(Error(1, "why"), reply_to=asked)
    for message in (asked, failed, Message(RecordDict(), reply_to=asked)):
        assert packed(message) == message_to_proto(message).SerializeToString()


def test_a_clients_exception_ends_the_run(few: Cells, meter: EnergyMeter) -> None:
    job = make_job(few, meter)
    app = client_app(job, [])
    grid = LocalGrid(app, ["nobody"], meter)
    server = server_app(job, CheckedStrategy(FedAvg(**ONE), evaluate=False), rounds=1, local_epochs=1)
    with pytest.raises(InputError, match=r"0 of 1 clients replied well.*client 1: error 2"):
        server(grid, Context(run_id=0, node_id=0, node_config={}, state=RecordDict(), run_config={}))


def test_fedprox_holds_clients_near_the_global_weights(few: Cells, meter: EnergyMeter) -> None:
    job = make_job(few, meter)
    start = job.initial

    def moved(strategy: FedAvg) -> float:
        result = federate(job, strategy, rounds=1, local_epochs=3)
        return sum(float((result[name] - start[name]).square().sum()) for name in start)

    free, held = moved(FedAvg(**ONE)), moved(FedProx(proximal_mu=1.0, **ONE))
    assert moved(FedProx(proximal_mu=0.0, **ONE)) == free
    assert held < free
    assert moved(FedProx(proximal_mu=1000.0, **ONE)) < held


@pytest.mark.parametrize("strategy", [partial(FedAdam, eta=0.01), partial(FedYogi, eta=0.01)])
def test_adaptive_strategies_learn_repeatably(few: Cells, meter: EnergyMeter, strategy) -> None:
    job = make_job(few, meter)
    first, second = (federate(job, strategy(**ONE)) for _ in range(2))
    assert same(first, second)
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in first.values())
    assert not same(first, federate(job))


def test_every_round_is_reported_with_both_kinds_of_metrics(few: Cells, meter: EnergyMeter) -> None:
    federate(make_job(few, meter, hooks={"recorder": (recorder := Recorder())}), rounds=3)
    assert [(s.unit, s.number, s.total, s.last) for s in recorder.steps] == [("round", n, 3, n == 3) for n in (1, 2, 3)]
    both = {"train/accuracy", "validation/accuracy", "validation/weighted_f1"}
    assert all(both <= metrics.keys() for metrics in recorder.metrics)


def test_a_federation_without_validation_cells_trains_all_the_same(few: Cells, meter: EnergyMeter) -> None:
    job = make_job(few, meter, split_of(few, validation=0.0), hooks={"recorder": (recorder := Recorder())})
    federate(job)
    assert "train/accuracy" in recorder.metrics[-1]
    assert "validation/accuracy" not in recorder.metrics[-1]


def test_parts_pool_to_all_their_cells(few: Cells) -> None:
    parts = list(split_of(few).clients.values())
    pooled = Part.pooled(parts)
    assert len(pooled.train) == sum(len(part.train) for part in parts)


def test_clients_of_few_training_cells_are_refused(few: Cells, meter: EnergyMeter) -> None:
    job = make_job(few, meter)
    parts = list(job.split.clients.values())
    sizes = sorted(len(part.train) for part in parts)
    smallest = min(parts, key=lambda part: len(part.train))
    with pytest.raises(InputError, match=rf"={sizes[1]} training cells: {smallest.name} \({sizes[0]}\);.*min_cells=0"):
        simulated(job, min_cells=sizes[1])
    assert not job.meter.entries
    simulated(job, min_cells=sizes[0])
