"""The complete federated regime (messages, Lightning, meter, checks, files) against the hand-written loop."""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.floor import AGREE, Floor, check_agreement
from benchmarks.measure import Row, Times, compared, interleaved
from benchmarks.setting import Setting, first_clients, made_up, setting

TARGET = 1.15
# Framework, batch size, clients, rounds: as many as minutes allow. The first case is the main one.
CASES = [
    ("actinn", 128, 11, 2),
    ("actinn", 32, 11, 1),
    ("actinn", 16, 11, 1),
    ("scdlc", 32, 4, 1),
    ("sccdcg", 32, 4, 1),
    ("scsmd", 32, 4, 1),
]
SECONDS = 8.0


def rows(quick: bool, cache: Path) -> Iterator[Row]:
    dataset = made_up(cache, 2000, 300, 11) if quick else made_up(cache, 20_000, 3000, 11)
    for model, batch, clients, rounds in CASES:
        for epochs in (1,) if quick else (1, 3):
            changed = [f"model={model}", f"data.batch_size={batch}", f"federation.local_epochs={epochs}"]
            what = f"{model}, batch {batch}, {clients} clients, {epochs} local epochs"
            with setting(
                first_clients(dataset, 3 if quick else clients), *changed, f"federation.rounds={rounds}"
            ) as ours:
                yield from of_case(what, ours, 1 if quick else 5, split=(model, batch, epochs) == (*CASES[0][:2], 1))


def of_case(what: str, ours: Setting, repeats: int, target: float = TARGET, split: bool = False) -> Iterator[Row]:
    """``split``: also where the rest goes."""
    floor = Floor(ours)
    ways = {"floor": floor.run, "ours": ours.run} | ({"fits": lambda: fits(ours)} if split else {})
    times = interleaved(ways, repeats, SECONDS)
    apart = check_agreement(what, times["ours"], times["floor"])
    yield from compared(what, times["ours"], "hand-written loop", times["floor"], target)
    yield Row(f"{what}, largest difference of a weight", apart, "", "hand-written loop", target=AGREE)
    if split:
        yield from overhead(what, ours, times)


def fits(ours: Setting) -> None:
    """The fits and validations of a federation without any messages: what Lightning and the meter cost."""
    job, of = ours.job, ours.cfg.federation
    for round_number in range(1, of.rounds + 1):
        for part in ours.dataset.split.clients.values():
            weights, _ = job.fit(part, job.initial, epochs=of.local_epochs, round_number=round_number)
        for part in ours.dataset.split.clients.values():
            if len(part.validation):
                job.validate(part, weights, round_number)
        job.meter.read()


def overhead(what: str, ours: Setting, times: dict[str, Times]) -> Iterator[Row]:
    client_rounds = ours.cfg.federation.rounds * len(ours.dataset.split.clients)

    def milliseconds(more: str, less: str) -> float:
        return (times[more].median("cpu") - times[less].median("cpu")) / client_rounds * 1e3

    each = times["floor"].median("cpu") / client_rounds * 1e3
    for name, ms in (
        ("the loop itself", each),
        ("Lightning and meter add", milliseconds("fits", "floor")),
        ("messages, checks, mean and files add", milliseconds("ours", "fits")),
    ):
        yield Row(f"{what}: {name}", ms, "CPU ms a client and round", "hand-written loop", ms / each)
