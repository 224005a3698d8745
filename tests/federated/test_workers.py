"""Clients in worker processes: the same bits, their own clocks, and none that hangs or dies harms the others."""

import os
import signal
import time
from collections.abc import Callable

import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from jobs import make_job, simulated
from scfl_green.data.reading.cells import Cells
from scfl_green.energy.meter import EnergyMeter
from scfl_green.errors import InputError
from scfl_green.federated.workers import WorkersGrid
from scfl_green.models.scdlc import ScDLC

ONE = {"min_train_nodes": 1, "min_evaluate_nodes": 1, "min_available_nodes": 1}
NAMES = ["first", "second", "third", "fourth"]


def test_any_number_of_workers_gives_the_same_bits(few: Cells, meter: EnergyMeter) -> None:
    learnt = []
    for workers in (1, 2, 3):
        meter.read()
        before = meter.total("fit")
        job = make_job(few, meter, model=ScDLC)
        parts = list(job.split.clients.values())
        learnt.append(simulated(job, parallel_clients=workers).weights)
        used = meter.total("fit")
        assert used.cells - before.cells == 2 * sum(len(part.train) for part in parts)
        assert used.cpu_seconds > before.cpu_seconds
        assert used.energy_cpu_kwh > before.energy_cpu_kwh
        assert used.bytes_up > before.bytes_up
    assert all(torch.equal(one[name], learnt[0][name]) for one in learnt for name in one)


def answers(misbehave: Callable[[], None], meter: EnergyMeter, workers: int, times: int = 1) -> list[set[int]]:
    """The nodes that reply, each time they are asked, where the second one misbehaves."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        if context.node_id == 2:
            misbehave()
        return Message(RecordDict({"metrics": MetricRecord({"node": context.node_id})}), reply_to=message)

    grid = WorkersGrid(app, NAMES, meter, workers)
    content = RecordDict({"config": ConfigRecord()})
    try:
        heard = []
        for _ in range(times):
            asked = [Message(content, dst_node_id=node, message_type="train") for node in grid.get_node_ids()]
            replies = list(grid.send_and_receive(asked, timeout=2.0))
            assert [reply.metadata.src_node_id for reply in replies] == sorted(r.metadata.src_node_id for r in replies)
            heard.append({reply.metadata.src_node_id for reply in replies})
        return heard
    finally:
        grid.close()
        assert not grid.workers


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("misbehave", [lambda: time.sleep(60), lambda: os._exit(9)], ids=["hangs", "dies"])
def test_a_client_that_hangs_or_dies_is_left_out_each_time(
    meter: EnergyMeter, misbehave: Callable[[], None], workers: int
) -> None:
    started = time.monotonic()
    assert answers(misbehave, meter, workers, times=2) == [{1, 3, 4}, {1, 3, 4}]
    assert time.monotonic() - started < 20


def test_a_users_mistake_in_a_worker_ends_the_run(meter: EnergyMeter) -> None:
    def mistake() -> None:
        raise InputError("no such column")

    with pytest.raises(InputError, match="no such column"):
        answers(mistake, meter, workers=2)


def test_a_worker_killed_between_rounds_is_replaced(meter: EnergyMeter) -> None:
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        return Message(RecordDict({"metrics": MetricRecord({"node": context.node_id})}), reply_to=message)

    grid = WorkersGrid(app, NAMES, meter, 2)

    def replied() -> set[int]:
        content = RecordDict({"config": ConfigRecord()})
        asked = [Message(content, dst_node_id=node, message_type="train") for node in grid.get_node_ids()]
        return {reply.metadata.src_node_id for reply in grid.send_and_receive(asked, timeout=10.0)}

    try:
        assert replied() == {1, 2, 3, 4}
        os.kill(grid.workers[0].process.pid, signal.SIGKILL)
        grid.workers[0].process.join()
        assert replied() == {1, 2, 3, 4}
    finally:
        grid.close()
