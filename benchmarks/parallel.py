"""Two clients of a round at a time, each in a process of its own, against one after the other."""

from collections.abc import Iterator, Sequence
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch

from benchmarks.floor import Floor
from benchmarks.measure import Row, interleaved
from benchmarks.setting import made_up, setting

CLIENTS, TARGET = 11, 1.6


def rows(quick: bool, cache: Path) -> Iterator[Row]:
    dataset = made_up(cache, 2000, 300, CLIENTS) if quick else made_up(cache, 20_000, 3000, CLIENTS)
    shape = ["federation.rounds=2", "federation.local_epochs=1"]
    with setting(dataset, *shape) as one, setting(dataset, *shape, "trainer.parallel_clients=2") as two:
        parts = list(one.dataset.split.clients.values())
        halves = Floor(one, parts[::2]), Floor(one, parts[1::2])
        loops = {"loop": Floor(one).run, "loop in two": partial(side_by_side, halves)}
        times = interleaved({"one": one.run, "two": two.run} | loops, 1 if quick else 5)
    same = all(torch.equal(value, times["one"].returned[name]) for name, value in times["two"].returned.items())
    if not same:
        raise AssertionError("trainer.parallel_clients=2 gave other weights than 1")
    one_by_one = "trainer.parallel_clients=1"
    sooner = times["one"].over(times["two"])
    yield Row(
        f"parallel_clients=2, {CLIENTS} clients, wall", times["two"].median(), "s", one_by_one, sooner, TARGET, True
    )
    # What two cores of this machine can gain at most.
    gained = times["loop"].over(times["loop in two"])
    what = "hand-written loop, half the clients in each of two processes"
    yield Row(what, times["loop in two"].median(), "s", "in one process", gained)
    cost = times["two"].over(times["one"], "cpu")
    yield Row("parallel_clients=2, CPU of all processes", times["two"].median("cpu"), "s", one_by_one, cost)
    yield Row("parallel_clients=2, weights equal to the bit", float(same), "", one_by_one, target=1, at_least=True)


def side_by_side(loops: Sequence[Floor]) -> None:
    processes = [get_context("fork").Process(target=loop.run) for loop in loops]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
