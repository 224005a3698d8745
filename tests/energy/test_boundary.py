"""What counts as training, and what runs beside it without counting."""

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.serverapp.strategy import FedAvg
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.loggers.logger import DummyLogger

from jobs import ONE, make_job, simulated, split_of, trained
from scfl_green.data.reading.cells import Cells
from scfl_green.energy.hardware import MemoryInUse
from scfl_green.energy.ledger import Ledger, Reading
from scfl_green.energy.meter import EnergyMeter
from scfl_green.models.actinn import ACTINN
from scfl_green.runs.fine_tuning import finetune
from scfl_green.runs.regimes import central
from scfl_green.runs.tracking import Tracker
from scfl_green.training.budget import CarbonBudget
from scfl_green.training.checkpoint import Checkpoint
from scfl_green.training.hooks import Hook, Step
from scfl_green.training.job import Job

EPOCHS = 4


def burn(cpu_seconds: float) -> None:
    end = time.process_time() + cpu_seconds
    while time.process_time() < end:
        pass


class Logs(Hook):
    """A logger that takes longer than training: ``busy`` CPU seconds after every step, or after one alone."""

    def __init__(self, busy: float, alone: int | None = None) -> None:
        self.busy, self.alone = busy, alone

    def after(self, step: Step) -> None:
        burn(self.busy * (self.alone in (None, step.number)))


@pytest.mark.parametrize(
    "train", [partial(central, epochs=EPOCHS), partial(simulated, rounds=EPOCHS)], ids=["central", "federated"]
)
def test_loggers_and_checkpoints_are_no_training(
    few: Cells, meter: EnergyMeter, tmp_path: Path, train: Callable[[Job], object]
) -> None:
    checkpoint = Checkpoint(tmp_path)
    train(make_job(few, meter, hooks={"logs": Logs(0.3)}, save=checkpoint.save))
    meter.read()
    assert meter.total("tracking").cpu_seconds >= 0.3 * EPOCHS
    assert meter.total("checkpoint").cpu_seconds > 0
    # Training takes a twentieth of that: it would be seen at once if it were charged for any of it.
    assert meter.total("fit").cpu_seconds < 0.3 * EPOCHS
    alone = make_job(few, meter)
    before = meter.total("fit").cpu_seconds
    train(alone)
    meter.read()
    assert meter.total("fit").cpu_seconds - before == pytest.approx(before, rel=0.5, abs=0.2)


class SlowAverage(FedAvg):
    """Takes longer to average than its clients to train."""

    def aggregate_train(self, *args: Any) -> Any:
        burn(0.3)
        return super().aggregate_train(*args)


class SlowValidation(ACTINN):
    """Takes longer to validate than to train."""

    def on_validation_epoch_start(self) -> None:
        burn(0.3)

    def validated(self, batches: Any) -> dict[str, float]:
        burn(0.3)
        return super().validated(batches)


def test_what_a_federation_needs_counts_beside_its_clients_training(few: Cells, meter: EnergyMeter) -> None:
    simulated(make_job(few, meter), SlowAverage(**ONE), rounds=2)
    meter.read()
    assert meter.total("aggregate", round=1).cpu_seconds >= 0.3
    assert meter.total("aggregate").cpu_seconds >= 0.6
    assert {(e.round, e.client) for e in meter.entries.values() if e.phase == "messages"} >= {
        (e.round, e.client) for e in meter.entries.values() if e.phase == "fit"
    }
    for name in ("energy_kwh", "emissions_kg", "cpu_seconds"):
        parts = [getattr(meter.total(phase), name) for phase in ("fit", "messages", "aggregate")]
        assert all(part > 0 for part in parts)
        assert getattr(meter.trained(), name) == pytest.approx(sum(parts))


@pytest.mark.parametrize("used", [False, True], ids=["watched", "used"])
@pytest.mark.parametrize("train", [partial(central, epochs=2), partial(simulated, rounds=2)], ids=["central", "fed"])
def test_validation_counts_where_something_uses_it(
    few: Cells, meter: EnergyMeter, train: Callable[[Job], object], used: bool
) -> None:
    hooks = {"budget": CarbonBudget(grams=1e6)} if used else {}
    before = meter.trained().cpu_seconds
    train(make_job(few, meter, hooks=hooks, model=SlowValidation))
    meter.read()
    assert (meter.trained().cpu_seconds - before > 0.6) == used
    assert (meter.total("validate").cpu_seconds > 0.6) != used


def test_validation_that_a_callback_monitors_is_used(few: Cells, meter: EnergyMeter) -> None:
    early = partial(EarlyStopping, "validation/loss")
    central(make_job(few, meter, callbacks=lambda: [early()], model=SlowValidation), epochs=2)
    meter.read()
    assert meter.total("fit").cpu_seconds > 0.6
    assert meter.total("validate").cpu_seconds < 0.1


def test_clients_wait_for_the_slowest_of_their_round_on_their_own_line(few: Cells) -> None:
    ledger = Ledger()
    for client, seconds in {"a": 3.0, "b": 1.0}.items():
        ledger.charge(("fit", 1, client), wall=2 * seconds, cpu=seconds)  # on a busy machine
        ledger.charge(("validate", 1, client), wall=1.0, cpu=0.5)
    ledger.share_out(Reading(1.0, 0.0, 0.0), kg_per_kwh=lambda client: 0.5)
    for _ in range(2):
        ledger.add_idle(1, watts=18.0, kg_per_kwh=lambda client: 0.5)
    idle = {entry.client: entry for entry in ledger.entries.values() if entry.phase == "idle"}
    assert {client: entry.seconds for client, entry in idle.items()} == {"a": 0.0, "b": 2.0}
    assert idle["b"].energy_kwh == pytest.approx(2 * 18 / 3.6e6)
    assert idle["b"].emissions_kg == pytest.approx(idle["b"].energy_kwh / 2)
    assert ledger.trained().energy_kwh == ledger.total("fit").energy_kwh
    meters = [EnergyMeter("DEU", idle_watts=100.0, count_idle=count) for count in (False, True)]
    for one, counts in zip(meters, (False, True), strict=True):
        simulated(make_job(few, one), rounds=1)
        one.close()
        assert one.total("idle").energy_kwh > 0
        more = one.trained().energy_kwh - one.total("fit", "messages", "aggregate").energy_kwh
        assert more == pytest.approx(one.total("idle").energy_kwh if counts else 0.0, abs=1e-15)


def test_memory_draws_by_what_the_run_uses(meter: EnergyMeter) -> None:
    assert "ram: 0.375 W a GB in use" in meter.mode
    (ram,) = [hardware for hardware in meter._tracker._hardware if isinstance(hardware, MemoryInUse)]
    before = ram.total_power().W
    used = np.ones(2**27 // 8 * 4)
    assert ram.total_power().W - before == pytest.approx(3 / 8 * used.nbytes / 2**30, rel=0.1)


class Probe(DummyLogger):
    """A logger that writes down which phase was open whenever it was called."""

    def __init__(self, meter: EnergyMeter) -> None:
        super().__init__()
        self.meter, self.phases = meter, set[str]()

    def log_metrics(self, *args: object, **kwargs: object) -> None:
        self.phases.add(self.meter._open[-1][0])

    log_hyperparams = save = finalize = log_metrics


@pytest.mark.parametrize("saves", [False, True], ids=["alone", "with checkpoints"])
@pytest.mark.parametrize(
    "train",
    [partial(central, epochs=2), partial(simulated, rounds=2), partial(finetune, epochs=2)],
    ids=["central", "federated", "both arms of fine-tuning"],
)
def test_no_logger_is_called_while_training_is_measured(
    few: Cells, meter: EnergyMeter, tmp_path: Path, train: Callable[[Job], object], saves: bool
) -> None:
    """So that the energy of training is the same with and without loggers, on any machine."""
    probe = Probe(meter)
    with Tracker(tmp_path, meter, {"seed": 1}, lambda: {"probe": probe}) as tracker:
        save = {"save": Checkpoint(tmp_path / "checkpoints").save} if saves else {}
        split = split_of(few, newcomers=1)
        job = make_job(few, meter, split, hooks={"progress": tracker}, **save)
        job.start = trained(job)
        train(job)
    assert probe.phases == {"tracking", "other"}  # the latter when it is finalised
    assert ("checkpoint", 0, "") in meter.entries or not saves


def test_equal_epochs_cost_the_same_when_a_logger_starts_late(few: Cells, meter: EnergyMeter) -> None:
    spent: list[float] = []

    class Watch(Hook):
        def after(self, step: Step) -> None:
            spent.append(step.used.energy_kwh)

    central(make_job(few, meter, hooks={"watch": Watch(), "logs": Logs(0.5, alone=4)}), epochs=8)
    epochs = np.diff(spent)
    assert epochs.max() < 5 * np.median(epochs)


def test_a_process_that_a_logger_starts_is_not_charged_to_training(meter: EnergyMeter) -> None:
    busy = "import time\ninput()\nwhile time.process_time() < 1: pass\nprint('done', flush=True)\ntime.sleep(60)"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", busy], **pipes) as child:  # type: ignore[call-overload]
        try:
            meter.read()
            with meter.phase("fit"):
                child.stdin.write("\n")
                child.stdin.flush()
                child.stdout.readline()
            meter.read()
        finally:
            child.kill()
    assert meter.total("tracking").cpu_seconds > 0.8
    assert meter.total("fit").cpu_seconds < 0.2
    assert meter.total("tracking").energy_cpu_kwh > 4 * meter.total("fit").energy_cpu_kwh


@pytest.mark.parametrize("place", ["folder", "home", "environment"])
def test_nobody_elses_settings_of_codecarbon_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    settings = {"force_cpu_power": 500, "force_ram_power": 300, "pue": 2}
    monkeypatch.chdir(tmp_path)
    if place == "environment":
        for name, value in settings.items():
            monkeypatch.setenv(f"CODECARBON_{name.upper()}", str(value))
    else:
        lines = ["[codecarbon]", *(f"{name}={value}" for name, value in settings.items())]
        (tmp_path / ".codecarbon.config").write_text("\n".join(lines))
        if place == "home":
            monkeypatch.setenv("HOME", str(tmp_path))
            (tmp_path / "work").mkdir()
            monkeypatch.chdir(tmp_path / "work")
    meter = EnergyMeter("DEU")
    try:
        assert "500 W" not in meter.mode
        assert "300 W" not in meter.mode
        assert meter._tracker._pue == 1
    finally:
        meter.close()
