"""The complete federated regime (messages, Lightning, meter, checks, files) against the hand-written loop."""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.floor import Floor, check_agreement
from benchmarks.measure import Row, Times, compared, interleaved
from benchmarks.setting import Setting, made_up, setting

TARGET = 1.15
# Framework, batch size, rounds: as many as a minute or two allow.
CASES = [("actinn", 128, 3), ("actinn", 32, 2), ("actinn", 16, 1), ("scdlc", 32, 1), ("sccdcg", 32, 1), ("scsmd", 32, 1)]


def rows(quick: bool, cache: Path) -> Iterator[Row]:
    cells, genes, clients, repeats = (2000, 300, 4, 1) if quick else (20_000, 3000, 11, 3)
    dataset = made_up(cache, cells, genes, clients)
    for model, batch, rounds in CASES:
        for epochs in (1,) if quick else (1, 3):
            changed = [f"model={model}", f"data.batch_size={batch}", f"federation.local_epochs={epochs}"]
            with setting(dataset, *changed, f"federation.rounds={rounds}") as ours:
                yield from of_case(f"{model}, batch {batch}, {epochs} local epochs", ours, repeats)


def of_case(what: str, ours: Setting, repeats: int, target: float = TARGET) -> Iterator[Row]:
    floor = Floor(ours)
    times = interleaved({"floor": floor.run, "fits": lambda: fits(ours), "ours": ours.run}, repeats)
    apart = check_agreement(what, times["ours"], times["floor"])
    yield from compared(what, times["ours"], "hand-written loop", times["floor"], target)
    yield Row(f"{what}, largest difference of a weight", apart, "", "hand-written loop")
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
