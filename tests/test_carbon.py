"""The meter: every joule in one place, nothing left running."""

import time

import pytest
import pytorch_lightning as pl

from jobs import make_job
from scfl_green.carbon import EnergyMeter, MeasureEmissions, check_country
from scfl_green.data.cells import Cells
from scfl_green.data.datamodule import CellDataModule
from scfl_green.errors import InputError
from scfl_green.score import eaps


def work(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_phases_add_up_to_what_the_tracker_measured(meter: EnergyMeter, monkeypatch: pytest.MonkeyPatch) -> None:
    readings, stop = [], meter._tracker.stop_task
    monkeypatch.setattr(meter._tracker, "stop_task", lambda: readings.append(stop()) or readings[-1])
    with meter.phase("fit", 1, "a"):
        work(0.3)
        with meter.phase("validate", 1, "a"):
            work(0.1)
    meter.read()
    with meter.phase("fit", 2, "b"):
        work(0.2)
    meter.read()
    entries = meter.entries.values()
    assert len(readings) == 2
    assert sum(e.energy_kwh for e in entries) == pytest.approx(sum(r.energy_consumed for r in readings), rel=1e-9)
    assert sum(e.emissions_kg for e in entries) == pytest.approx(sum(r.emissions for r in readings), rel=1e-6)


def test_an_inner_phase_pauses_the_outer_one(meter: EnergyMeter) -> None:
    with meter.phase("fit"):
        work(0.1)
        with meter.phase("validate"):
            work(0.3)
    meter.read()
    assert meter.total("fit").cpu_seconds == pytest.approx(0.1, abs=0.05)
    assert meter.total("validate").cpu_seconds == pytest.approx(0.3, abs=0.05)
    assert meter.total("validate").energy_cpu_kwh > meter.total("fit").energy_cpu_kwh


def test_a_raising_phase_is_closed(meter: EnergyMeter) -> None:
    def fails() -> None:
        with meter.phase("fit", 1, "a"):
            meter.phase("validate").__enter__()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert len(meter._open) == 1


class Raises(pl.Callback):
    def on_train_batch_end(self, *args: object) -> None:
        raise RuntimeError("in the middle of a fit")


def test_the_callback_works_with_any_trainer_and_survives_an_exception(few: Cells, meter: EnergyMeter) -> None:
    job = make_job(few, meter)
    part = next(iter(job.split.clients.values()))
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }

    def fit(*callbacks: pl.Callback) -> None:
        data = CellDataModule(job.features, part, 16, [1])
        measured = [MeasureEmissions(meter, client="site"), *callbacks]
        pl.Trainer(max_epochs=2, accelerator="cpu", callbacks=measured, **quiet).fit(job.model, datamodule=data)

    fit()
    meter.read()
    assert meter.total("fit", client="site").energy_kwh > 0
    assert meter.total("validate", client="site").energy_kwh > 0
    with pytest.raises(RuntimeError, match="in the middle"):
        fit(Raises())
    assert len(meter._open) == 1


def test_given_watts_are_used_and_said() -> None:
    meter = EnergyMeter("FRA", cpu_watts=100, ram_watts=3)
    try:
        assert "cpu_load at 100 W" in meter.mode or "constant at 100 W" in meter.mode
        assert "ram: 3 W" in meter.mode
    finally:
        meter.close()


def test_a_country_must_be_known() -> None:
    assert check_country("FRA") == "FRA"
    with pytest.raises(InputError, match=r"carbon\.country=XYZ"):
        check_country("XYZ")


def test_eaps() -> None:
    assert eaps(0.9, 0.001) == pytest.approx(900)
    assert eaps(0.9, 0.0) is None
