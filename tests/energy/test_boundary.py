"""What counts as training, and what runs beside it without counting."""

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from pytorch_lightning.loggers.logger import DummyLogger

from jobs import make_job, simulated, split_of, trained
from scfl_green.data.reading.cells import Cells
from scfl_green.energy.meter import EnergyMeter
from scfl_green.runs.regimes import central, finetune
from scfl_green.runs.tracking import Tracker
from scfl_green.training.checkpoint import Checkpoint
from scfl_green.training.hooks import Hook, Step
from scfl_green.training.job import Job

EPOCHS = 4


class Logs(Hook):
    """A logger that takes longer than training: ``busy`` CPU seconds after every step, or after one alone."""

    def __init__(self, busy: float, alone: int | None = None) -> None:
        self.busy, self.alone = busy, alone

    def after(self, step: Step) -> None:
        end = time.process_time() + self.busy * (self.alone in (None, step.number))
        while time.process_time() < end:
            pass


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
    busy = "import time\nwhile time.process_time() < 1: pass\nprint('done', flush=True)\ntime.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", busy], stdout=subprocess.PIPE, text=True) as child:
        try:
            with meter.phase("fit"):
                assert child.stdout is not None
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
