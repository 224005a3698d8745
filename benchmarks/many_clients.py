"""200 clients, 20 rounds of ACTINN on the embedded dataset, against the hand-written loop."""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.federated import of_case
from benchmarks.measure import Row
from benchmarks.setting import embedded, setting

TARGET = 1.5


def rows(quick: bool, cache: Path) -> Iterator[Row]:
    clients, rounds = (10, 1) if quick else (200, 20)
    # No validation: of 16 cells a client has 13 to train on, a step an epoch; three local epochs, as by default.
    dataset = embedded(cache, "split=iid", f"split.clients={clients}", "split.validation=0")
    with setting(dataset, f"federation.rounds={rounds}") as ours:
        yield from of_case(f"actinn, batch 32, {clients} clients x {rounds} rounds", ours, 1, TARGET)
