"""Kill it anywhere: what was finished is kept, and the same command ends with the same bits."""

import json
import logging
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM, FedYogi, Strategy

from conftest import ROOT, compose_config
from jobs import ADAM, ONE, federate, in_child, make_job, trained
from program import start_program
from scfl_green.data.reading.cells import Cells
from scfl_green.energy.intensity import Intensity
from scfl_green.energy.meter import EnergyMeter
from scfl_green.federated.carbon_aware import CarbonAware
from scfl_green.federated.federation import Federation
from scfl_green.files import locked
from scfl_green.models.base import CellClassifier
from scfl_green.models.prune import Weights
from scfl_green.models.scdlc import ScDLC
from scfl_green.runs.each_site import local
from scfl_green.runs.fine_tuning import finetune
from scfl_green.runs.newcomer import FineTuning
from scfl_green.runs.regimes import Outcome, central, federated
from scfl_green.runs.run import run
from scfl_green.training.budget import CarbonBudget
from scfl_green.training.checkpoint import Checkpoint
from scfl_green.training.ending import BestEnd
from scfl_green.training.hooks import Hook, Hooks, State, Step
from scfl_green.training.job import Job
from scfl_green.training.pruning import Prune

ROUNDS = 4
TIMED = ("idle", "waiting", "seconds", "energy", "emissions", "eaps", "load", "too_short")

Make = Callable[..., Job]


class Steps(Hook):
    """The numbers of the steps so far, those of a killed run included."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def after(self, step: Step) -> None:
        self.numbers.append(step.number)

    def state_dict(self) -> State:
        return {"numbers": self.numbers}

    def load_state_dict(self, state: State) -> None:
        self.numbers = state["numbers"]


def done(job: Job, part: str = "federation") -> int:
    """The rounds that a killed run had finished."""
    return len(job.saved[part]["hooks"]["steps"]["numbers"]) if part in job.saved else 0


@pytest.fixture(scope="module")
def shared_meter() -> EnergyMeter:
    meter = EnergyMeter("DEU")
    yield meter
    meter.close()


@pytest.fixture(scope="module")
def make(few: Cells, shared_meter: EnergyMeter) -> Make:
    """Makes the same small job again and again, with a checkpoint in a folder; its dropout makes seeds matter."""
    tiny = replace(few, **{name: getattr(few, name)[::3] for name in ("counts", "labels", "clients", "donors")})
    prepared = make_job(tiny, shared_meter)

    def make(folder: Path | None, **changed: Any) -> Job:
        shared_meter.read()
        shared_meter.entries, shared_meter.unread = {}, {}
        torch.manual_seed(0)
        model = ScDLC(n_genes=100, n_types=len(few.types), hidden=16, optimizer=ADAM)
        checkpoint = Checkpoint(folder)
        shared_meter.load_state_dict(checkpoint.parts.get("energy", {}))
        hooks = Hooks({**changed.pop("hooks", {}), "steps": Steps()})
        return replace(prepared, model=model, saved=checkpoint.parts, save=checkpoint.save, hooks=hooks, **changed)

    return make


@dataclass
class Place:
    """Before (or after) a call of a function, where a process kills itself the n-th time that it comes by."""

    owner: Any
    name: str
    after: bool = False

    def kill_at(self, n: int) -> list[int]:
        passed = [0]
        real = getattr(self.owner, self.name)

        def come_by(*args: Any, **kwargs: Any) -> Any:
            result = real(*args, **kwargs) if self.after else None
            passed[0] += 1
            if passed[0] == n:
                os.kill(os.getpid(), signal.SIGKILL)
            return result if self.after else real(*args, **kwargs)

        setattr(self.owner, self.name, come_by)
        return passed


PLACES = {
    "before a client's fit": Place(Job, "fit"),
    "in an epoch": Place(CellClassifier, "_step"),
    "after a client's fit": Place(Job, "fit", after=True),
    "before validation": Place(Job, "validate"),
    "before averaging": Place(FedAvg, "aggregate_train"),
    "after averaging": Place(FedAvg, "aggregate_train", after=True),
    "when a round ends": Place(Job, "step"),
    "writing a file of a checkpoint": Place(os, "fsync"),
    "before a checkpoint has its name": Place(Path, "replace"),
    "before the one before it is removed": Place(Path, "iterdir"),
}


def federation(job: Job, strategy: Strategy | None = None) -> Weights:
    return federate(job, strategy, ROUNDS)


def same(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def used(job: Job) -> list[tuple[Any, ...]]:
    """What the ledger says that does not depend on the clock."""
    return sorted(
        (entry["phase"], entry["round"], entry["client"], *(entry[of] for of in ("bytes_up", "bytes_down", "cells")))
        for entry in map(asdict, job.meter.entries.values())
        if entry["phase"] in ("prepare", "fit", "validate")
    )


@pytest.fixture(scope="module")
def reference(make: Make, tmp_path_factory: pytest.TempPathFactory) -> tuple[Weights, list[Any], dict[str, int]]:
    """The weights of a federation that is not killed, its ledger, and how often it comes by each place."""
    path = tmp_path_factory.mktemp("reference") / "passed.json"

    def count() -> None:
        passed = {name: place.kill_at(-1) for name, place in PLACES.items()}
        federation(make(path.parent / "kept"))
        path.write_text(json.dumps({name: times[0] for name, times in passed.items()}))

    assert in_child(count) == 0
    job = make(None)
    return federation(job), used(job), json.loads(path.read_text())


@pytest.mark.parametrize(
    ("place", "killed_in"),
    [
        pytest.param(place, killed_in, marks=[pytest.mark.slow] if (n + killed_in) % ROUNDS else [])
        for n, place in enumerate(PLACES)
        for killed_in in range(1, ROUNDS + 1)
    ],
)
def test_a_federation_killed_anywhere_ends_with_the_same_bits(
    make: Make, reference: Any, tmp_path: Path, place: str, killed_in: int
) -> None:
    weights, ledger, passed = reference
    n = int(passed[place] * (killed_in - 0.5) / ROUNDS) + 1

    def killed() -> None:
        PLACES[place].kill_at(n)
        federation(make(tmp_path / "kept"))

    assert in_child(killed) == -signal.SIGKILL
    job = make(tmp_path / "kept")
    assert done(job) in (killed_in - 1, killed_in)
    assert same(federation(job), weights)
    assert used(job) == ledger
    assert job.hooks.members["steps"].numbers == [1, 2, 3, 4]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "flipped": lambda folder: flip(folder / "federation.pt"),
    "flipped state": lambda folder: flip(folder / "energy.pt"),
    "truncated": lambda folder: os.truncate(folder / "federation.pt", 100),
    "emptied": lambda folder: os.truncate(folder / "SHA256SUMS", 0),
    "a file deleted": lambda folder: (folder / "energy.pt").unlink(),
    "manifest deleted": lambda folder: (folder / "SHA256SUMS").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_falls_back_one_round_and_says_so(
    make: Make, reference: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    in_child(lambda: (Place(Checkpoint, "save", after=True).kill_at(3), federation(make(tmp_path))))
    DAMAGES[damage](tmp_path / "3")
    job = make(tmp_path)
    assert done(job) == 2
    assert f"{tmp_path / '3'}: a damaged checkpoint" in caplog.text
    assert same(federation(job), reference[0])


def test_with_no_whole_checkpoint_a_run_begins_anew(make: Make, reference: Any, tmp_path: Path) -> None:
    in_child(lambda: (Place(Checkpoint, "save", after=True).kill_at(3), federation(make(tmp_path))))
    for folder in tmp_path.iterdir():
        flip(folder / "energy.pt")
    job = make(tmp_path)
    assert not job.saved
    assert same(federation(job), reference[0])


@pytest.mark.parametrize(
    "strategy",
    [
        partial(FedAdam, eta=0.01, **ONE),
        partial(FedYogi, eta=0.01, **ONE),
        partial(FedAvgM, server_momentum=0.9, **ONE),
        partial(FedAvg, fraction_train=0.5, **ONE),
    ],
    ids=["FedAdam", "FedYogi", "FedAvgM", "half of the clients"],
)
def test_the_servers_state_and_its_choice_of_clients_go_on(
    make: Make, tmp_path: Path, strategy: Callable[[], Strategy]
) -> None:
    whole = federation(make(None), strategy())
    in_child(lambda: (Place(Checkpoint, "save", after=True).kill_at(2), federation(make(tmp_path), strategy())))
    job = make(tmp_path)
    assert done(job) == 2
    assert same(federation(job, strategy()), whole)


@pytest.mark.parametrize("saves", [2, *(pytest.param(saves, marks=pytest.mark.slow) for saves in (1, 3))])
def test_the_choice_of_clean_sites_and_the_clock_go_on(
    make: Make, shared_meter: EnergyMeter, tmp_path: Path, saves: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    hours = [f"{n},{zone},{(300 + 10 * n) / share}" for zone, share in (("DE", 1), ("SE", 9)) for n in range(24)]
    (file := tmp_path / "hours.csv").write_text("\n".join(["hour,zone,g_per_kwh", *hours]))

    def clock_at(start: str) -> Intensity:
        """The same electricity for a process that begins at another time."""
        monkeypatch.setattr(
            shared_meter, "intensity", Intensity("DEU", {"Muraro et al. 2016": "SWE"}, str(file), start)
        )
        return shared_meter.intensity

    def strategy() -> CarbonAware:
        return CarbonAware(slack_hours=5.0, **ONE | {"min_train_nodes": 2})

    def after(job: Job) -> tuple[Weights, list[Any]]:
        weights = federation(job, strategy())
        return weights, [(*row[:3], round(row[-1], 9)) for row in sent(job)]

    def sent(job: Job) -> list[tuple[Any, ...]]:
        return [(e.phase, e.round, e.client, e.gb_kg_per_kwh) for e in job.meter.entries.values() if e.bytes_down]

    whole = clock_at("2024-06-01T20:30Z")
    weights, moved = after(make(None))
    assert whole.clock.waited_hours == pytest.approx(3.5, abs=0.01)  # until midnight

    def killed() -> None:
        clock_at("2024-06-01T20:30Z")
        Place(Checkpoint, "save", after=True).kill_at(saves)
        federation(make(tmp_path / "saved"), strategy())

    assert in_child(killed) == -signal.SIGKILL
    again = clock_at("2024-06-01T14:10Z")
    job = make(tmp_path / "saved")
    assert done(job) == saves
    rest, moved_again = after(job)
    assert same(rest, weights)
    assert again.clock.waited_hours == pytest.approx(3.5, abs=0.01)
    assert [row for row in moved_again if row[0] != "prepare"] == [row for row in moved if row[0] != "prepare"]


def test_a_server_that_forgot_its_state_would_end_elsewhere(make: Make, tmp_path: Path) -> None:
    strategy = partial(FedAvgM, server_momentum=0.9, **ONE)
    whole = federation(make(None), strategy())
    in_child(lambda: (Place(Checkpoint, "save", after=True).kill_at(2), federation(make(tmp_path), strategy())))
    job = make(tmp_path)
    job.saved["federation"]["strategy"] = {}
    assert not same(federation(job, strategy()), whole)


def without_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if not key.startswith(TIMED)} for row in rows]


EPOCHS = 4
HALF = {"hooks": {"prune": Prune(0.5, after_round=2, after_epoch=2)}}
REGIMES: dict[str, tuple[Callable[[Job], Outcome], Callable[[], dict[str, Any]]]] = {
    "central": (partial(central, epochs=EPOCHS), dict),
    "central, pruned": (partial(central, epochs=EPOCHS), lambda: HALF),
    "central, best weights": (partial(central, epochs=EPOCHS), lambda: {"hooks": {"end": BestEnd()}}),
    "each site alone, pruned": (partial(local, epochs=2), lambda: {"hooks": {"prune": Prune(0.5, 1, after_epoch=1)}}),
    "fine-tuned": (partial(finetune, epochs=EPOCHS, finetuning=FineTuning(patience=2, curve=True)), dict),
    "fine-tuned, stopped early": (partial(finetune, epochs=12, finetuning=FineTuning(patience=2)), dict),
    "federated, pruned": (partial(federated, federation=Federation(FedAvg(**ONE), EPOCHS, 1)), lambda: HALF),
    "federated, within a budget": (
        partial(federated, federation=Federation(FedAvg(**ONE), EPOCHS, 1)),
        lambda: {"hooks": {"budget": CarbonBudget(grams=1e9, window=1), "end": BestEnd()}},
    ),
}


# The others are made of the same parts.
OFTEN = ("central", "each site alone, pruned", "fine-tuned", "federated, pruned", "federated, within a budget")


@pytest.mark.parametrize(
    "regime", [pytest.param(name, marks=[] if name in OFTEN else [pytest.mark.slow]) for name in REGIMES]
)
def test_any_regime_goes_on_after_any_checkpoint(make: Make, tmp_path: Path, regime: str) -> None:
    fit, changes = REGIMES[regime]

    def job(folder: Path | None) -> Job:
        made = make(folder, **changes())
        if regime.startswith("fine-tuned"):
            (newcomer, *clients) = made.split.clients.values()
            made.split = replace(made.split, clients={c.name: c for c in clients}, newcomers={newcomer.name: newcomer})
            made.start = trained(made)
        if regime.startswith("each site"):
            made.split = replace(made.split, clients=dict([*made.split.clients.items()][:2]))
        return made

    whole = fit(job(None))

    def killed_at(saves: int) -> bool:
        return in_child(lambda: (Place(Checkpoint, "save", after=True).kill_at(saves), fit(job(tmp_path)))) != 0

    saves = 1
    while killed_at(saves):
        begun = job(tmp_path)
        assert begun.saved
        again = fit(begun)
        for model, known in zip(again.models, whole.models, strict=True):
            assert same(model.weights, known.weights)
        assert without_times(again.rows) == without_times(whole.rows)
        assert (again.epochs, again.rounds) == (whole.epochs, whole.rounds)
        shutil.rmtree(tmp_path)
        saves += 1
    assert saves > EPOCHS


def test_a_private_federation_goes_on_with_what_its_clients_have_spent(make: Make, tmp_path: Path) -> None:
    pytest.importorskip("opacus", reason="the extra privacy is not installed")
    from scfl_green.training.dp.dp_sgd import DPSGD

    def job(folder: Path | None) -> Job:
        privacy = DPSGD(noise_multiplier=2.0, max_grad_norm=1.0, epsilon=50.0, delta=1e-4)
        return make(folder, fitter=privacy, hooks={"privacy": privacy})

    whole = job(None)
    federation(whole)
    in_child(lambda: (Place(Checkpoint, "save", after=True).kill_at(2), federation(job(tmp_path))))
    again = job(tmp_path)
    federation(again)
    assert again.fitter.rows == whole.fitter.rows
    assert again.fitter.histories == whole.fitter.histories


QUICK = ["federation.rounds=3", "federation.local_epochs=1", "data.n_genes=200", "logger=none", "trainer=cpu"]


@pytest.mark.parametrize(
    ("regime", "saves", "steps"),
    [
        ("federated", 2, 3),
        pytest.param("central", 2, 3, marks=pytest.mark.slow),
        pytest.param("local", 5, 12, marks=pytest.mark.slow),
    ],
)
def test_the_record_of_a_run_that_was_killed_is_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, regime: str, saves: int, steps: int
) -> None:
    """A site alone makes a fourth checkpoint at its end: at the fifth, the second site has ended its second epoch."""
    overrides = [*QUICK, f"regime={regime}", "trainer.max_epochs=3", "model=scdlc"]
    whole = run(compose_config(tmp_path / "whole", *overrides))
    cfg = compose_config(tmp_path / "killed", *overrides)
    assert in_child(lambda: (Place(Checkpoint, "save", after=True).kill_at(saves), run(cfg))) == -signal.SIGKILL
    with caplog.at_level(logging.INFO):
        again = run(cfg)
    unit = "round" if regime == "federated" else "epoch"
    assert re.findall(rf"resuming after {unit} (\d+)", caplog.text) == [str(saves)]
    (before,) = without_times([whole])
    assert without_times([again]) == [before]
    folder, other = tmp_path / "killed/run", tmp_path / "whole/run"
    weights = [path.relative_to(folder) for path in folder.rglob("weights.safetensors")]
    assert len(weights) == (4 if regime == "local" else 1)
    assert all((folder / path).read_bytes() == (other / path).read_bytes() for path in weights)
    assert list(pd.read_csv(folder / "metrics.csv")[unit]) == list(range(1, steps + 1))
    counted = pd.read_csv(folder / "energy.csv").query("phase in ('fit', 'messages', 'aggregate')")
    assert counted["energy_kwh"].sum() == pytest.approx(again["energy_kwh"])
    assert not (folder / "checkpoints").exists()


@pytest.mark.slow
def test_a_job_of_a_sweep_gives_the_same_bits_as_alone(tmp_path: Path) -> None:
    ended = start_program(tmp_path, "-m", "seed=1,2", "name=two", *QUICK)
    assert ended.returncode == 0, ended.stderr
    run(compose_config(tmp_path / "alone", "seed=2", *QUICK))
    (second,) = tmp_path.glob("logs/sweeps/two/*-s2*/weights.safetensors")
    assert second.read_bytes() == (tmp_path / "alone/run/weights.safetensors").read_bytes()


def start(folder: Path, *overrides: str, **how: Any) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "train.py"), "federation.rounds=30", "logger=none", "trainer=cpu", *overrides]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    return subprocess.Popen(command, cwd=folder, **pipes, **how)


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_ctrl_c_ends_politely_and_leaves_no_process(tmp_path: Path, workers: int) -> None:
    with start(tmp_path, f"trainer.parallel_clients={workers}") as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("round 3/30"):
                os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all processes
                break
        _, told = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    assert told == "stopped: the same command resumes after the last finished round or epoch\n"
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    assert list(tmp_path.glob("logs/runs/*/checkpoints/*/*/SHA256SUMS"))


def test_a_second_process_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    with start(tmp_path) as first:
        assert first.stdout is not None
        next(line for line in first.stdout if line.startswith("round 1/30"))
        _, told = (second := start(tmp_path)).communicate(timeout=60)
        assert second.returncode == 1
        assert "another process is at this run" in told
        assert len(told.splitlines()) == 1
        next(line for line in first.stdout if line.startswith("round 3/30"))
        first.send_signal(signal.SIGINT)
        first.communicate(timeout=60)
    assert list(tmp_path.glob("logs/runs/*/checkpoints/*/*/SHA256SUMS"))


def test_a_worker_that_outlives_its_run_keeps_nobody_out(tmp_path: Path) -> None:
    def killed_beside_a_busy_worker() -> None:
        with locked(tmp_path):
            if os.fork() == 0:
                time.sleep(20)
            os._exit(9)

    assert in_child(killed_beside_a_busy_worker) == 9
    with locked(tmp_path):
        pass


def test_a_full_disk_ends_in_one_line_with_the_checkpoint_before_it_whole(tmp_path: Path) -> None:
    # A file of more than 100 kB finds no room: the weights of the default model have 800 kB, its logs fewer.
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (100_000, 100_000))
    _, told = start(tmp_path, preexec_fn=limit).communicate(timeout=120)
    assert told.startswith("error: no room to write (")
    assert len(told.splitlines()) == 1
    kept = Checkpoint(tmp_path / "kept")
    kept.save({"weights": {"values": torch.zeros(100)}, "loop": {"round": 1}})

    def full() -> None:
        limit()
        try:
            kept.save({"weights": {"values": torch.zeros(50_000)}})
        except OSError:
            os._exit(28)

    assert in_child(full) == 28
    assert Checkpoint(tmp_path / "kept").parts["loop"] == {"round": 1}
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["1"]


def test_a_checkpoint_holds_what_was_put_into_it(tmp_path: Path) -> None:
    kept = Checkpoint(tmp_path)
    values = {"values": torch.arange(6.0), "by_name": {1: (0.1 + 0.2, "ä", None)}}
    kept.save({"one": values})
    kept.save({"other": {"n": 2}})
    again = Checkpoint(tmp_path)
    assert torch.equal(again.parts["one"].pop("values"), values.pop("values"))
    assert again.parts == {"one": values, "other": {"n": 2}}
