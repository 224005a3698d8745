"""The meter: every joule in one place, nothing left running."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
from codecarbon.core import hardware_cache

from jobs import make_job
from scfl_green.data.features.datamodule import CellDataModule
from scfl_green.data.reading.cells import Cells
from scfl_green.energy.callback import MeasureEmissions
from scfl_green.energy.country import carbon_intensity, known_country
from scfl_green.energy.hardware import detect_hardware
from scfl_green.energy.ledger import Ledger, Reading
from scfl_green.energy.meter import EnergyMeter
from scfl_green.errors import InputError


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


def test_given_watts_are_used_and_said_and_a_guess_is_called_one(meter: EnergyMeter) -> None:
    given = EnergyMeter("FRA", cpu_watts=100, ram_watts=3)
    try:
        assert "x 100 W (given)" in given.mode
        assert "ram: constant 3 W (given)" in given.mode
    finally:
        given.close()
    assert "(given)" not in meter.mode
    assert "guessed" in meter.mode or "of a " in meter.mode


def test_a_country_must_be_known() -> None:
    assert carbon_intensity("FRA") < carbon_intensity("DEU") == pytest.approx(0.38095)
    with pytest.raises(InputError, match=r"carbon\.country=XYZ: .* use a code such as DEU"):
        carbon_intensity("XYZ")


@pytest.mark.parametrize(
    ("word", "codes"),
    [
        ("UK", ["GBR"]), ("DE", ["DEU"]), ("deu", ["DEU"]), ("Germany", ["DEU"]), ("germny", ["DEU"]),
        ("England", ["GBR"]), ("Russia", ["RUS"]), ("Korea", ["KOR", "PRK"]), ("", []), ("Nowhere", []),
    ],
)  # fmt: skip
def test_a_country_that_is_no_code_is_told_its_code(word: str, codes: list[str]) -> None:
    with pytest.raises(InputError, match="ISO 3166") as raised:
        known_country(word)
    assert sorted(re.findall(r"([A-Z]{3}) \(", str(raised.value))) == codes


@pytest.mark.parametrize("energy", [None, 0.0, -1.0])
def test_a_tracker_that_measured_nothing_is_an_error(
    meter: EnergyMeter, monkeypatch: pytest.MonkeyPatch, energy: float | None
) -> None:
    parts = {"energy_consumed": energy, "cpu_energy": energy, "gpu_energy": 0.0, "ram_energy": 0.0}
    used = None if energy is None else SimpleNamespace(**parts)
    monkeypatch.setattr(meter._tracker, "stop_task", lambda: used)
    with pytest.raises(RuntimeError, match="measured"):
        meter.read()


def measured(meter: EnergyMeter, name: str, seconds: float) -> float:
    meter.read()
    with meter.phase("fit", 1, name):
        work(seconds)
    meter.read()
    return meter.total("fit", client=name).energy_kwh


def test_busy_neighbours_hardly_change_what_work_costs(meter: EnergyMeter) -> None:
    alone = measured(meter, "alone", 1.0)
    # In the background of a shell that has ended: neighbours are no children of this process, which would count.
    busy = f"{shlex.quote(sys.executable)} -c 'while True: pass' >/dev/null & echo $!"
    neighbours = [subprocess.check_output(["sh", "-c", busy], text=True) for _ in range(2)]
    try:
        beside = measured(meter, "beside", 1.0)
    finally:
        for process in neighbours:
            os.kill(int(process), signal.SIGKILL)
    assert beside == pytest.approx(alone, rel=0.25)


def test_two_clients_in_turn_cost_what_one_does_that_works_twice_as_long(meter: EnergyMeter) -> None:
    two = measured(meter, "a", 0.7) + measured(meter, "b", 0.7)
    assert two == pytest.approx(measured(meter, "c", 1.4), rel=0.15)


def test_a_reading_is_shared_out_whole() -> None:
    ledger = Ledger()
    ledger.charge(("fit", 1, "a"), wall=3.0, cpu=2.0)
    ledger.charge(("fit", 1, "b"), wall=1.0, cpu=1.0)
    ledger.share_out(Reading(cpu_kwh=8.0, gpu_kwh=0.0, ram_kwh=4.0), kg_per_kwh=lambda client: 0.5)
    assert sum(entry.energy_kwh for entry in ledger.entries.values()) == pytest.approx(12.0)
    a, b, idle = (ledger.entries[key] for key in [("fit", 1, "a"), ("fit", 1, "b"), ("waiting", 0, "")])
    assert (a.energy_cpu_kwh, b.energy_cpu_kwh) == (pytest.approx(16 / 3), pytest.approx(8 / 3))
    assert (a.energy_ram_kwh, b.energy_ram_kwh) == (pytest.approx(2.0), pytest.approx(1.0))
    assert idle.energy_kwh == pytest.approx(1.0)
    assert a.emissions_kg == pytest.approx(0.5 * (16 / 3 + 2))
    assert (a.task, idle.task) == ("fit/round-1/a", "waiting")


def test_the_meter_takes_the_hardware_that_was_looked_up_before() -> None:
    hardware_cache.clear_cache()
    detect_hardware("DEU", 65.0, None)
    end = time.monotonic() + 60
    while not hardware_cache._plans and time.monotonic() < end:
        time.sleep(0.05)
    known = dict(hardware_cache._plans)
    meter = EnergyMeter("DEU", 65.0)
    meter.close()
    assert len(known) == 1
    assert known == hardware_cache._plans
    assert "65 W (given)" in meter.mode
