"""The energy meter: what each phase, round and client used, and what that emits."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Any

import psutil
import pytorch_lightning as pl
from codecarbon import OfflineEmissionsTracker
from codecarbon.external.hardware import CPU
from codecarbon.input import DataSource

from scfl_green.errors import InputError

PREPARE, FIT, VALIDATE, OTHER = "prepare", "fit", "validate", "other"


@dataclass
class Entry:
    """One line of the ledger: a phase of a round at a client ("" and 0 where there is none)."""

    phase: str
    round: int
    client: str
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    energy_cpu_kwh: float = 0.0
    energy_gpu_kwh: float = 0.0
    energy_ram_kwh: float = 0.0
    emissions_kg: float = 0.0
    bytes_up: int = 0
    bytes_down: int = 0

    @property
    def energy_kwh(self) -> float:
        return self.energy_cpu_kwh + self.energy_gpu_kwh + self.energy_ram_kwh


def check_country(country: str) -> str:
    """The ISO 3166 alpha-3 code if CodeCarbon knows the country's energy mix; InputError if not.

    CodeCarbon itself returns a number for a code it does not know.
    """
    known = DataSource().get_global_energy_mix_data()
    if country not in known:
        raise InputError(f"carbon.country={country}: not a country with a known energy mix; use a code such as DEU")
    return country


class EnergyMeter:
    """One CodeCarbon tracker for a run, and a ledger of wall and CPU time that apportions what it reads.

    The tracker's clock ticks too coarsely for a client's fit, so it measures from one ``read`` to the next and
    its reading is shared out: CPU energy by CPU time, GPU and RAM energy by wall time. Every joule of the run is
    in exactly one entry; what lies outside any phase is ``other``. No network is used.
    """

    def __init__(self, country: str, cpu_watts: float | None = None, ram_watts: float | None = None) -> None:
        self.country = check_country(country)
        # Its log level takes effect only after its first lines.
        logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
        self.entries: dict[tuple[str, int, str], Entry] = {}
        self._unread: dict[tuple[str, int, str], tuple[float, float]] = {}
        self._open = [(OTHER, 0, "")]
        self._tracker = OfflineEmissionsTracker(
            country_iso_code=country,
            tracking_mode="process",
            output_methods=[],
            log_level="critical",
            allow_multiple_runs=True,
            **({"force_cpu_power": cpu_watts} if cpu_watts else {}),
            **({"force_ram_power": ram_watts} if ram_watts else {}),
        )
        self._tracker.start_task("run")
        self.intensity: float | None = None
        self._clock = _clock()

    @contextmanager
    def phase(self, phase: str, round_number: int = 0, client: str = "") -> Iterator[None]:
        """Charges what happens inside to this phase; a phase opened within another pauses the outer one."""
        self._charge()
        self._open.append((phase, round_number, client))
        depth = len(self._open)
        try:
            yield
        finally:
            self._charge()
            # An inner phase that an exception left open ends with this one.
            del self._open[depth - 1 :]

    def moved(self, **of: Any) -> tuple[int, int]:
        """Bytes up and down of training, those of validation included, of all or of one ``client`` or ``round``."""
        fit, validate = self.total(FIT, **of), self.total(VALIDATE, **of)
        return fit.bytes_up + validate.bytes_up, fit.bytes_down + validate.bytes_down

    def entry(self, phase: str, round_number: int = 0, client: str = "") -> Entry:
        return self.entries.setdefault((phase, round_number, client), Entry(phase, round_number, client))

    def _charge(self) -> None:
        now = _clock()
        key = self._open[-1]
        wall, cpu = self._unread.get(key, (0.0, 0.0))
        self._unread[key] = wall + now[0] - self._clock[0], cpu + now[1] - self._clock[1]
        self._clock = now

    def read(self) -> None:
        """Measure the energy since the last reading and share it out among the entries."""
        self._charge()
        used = self._tracker.stop_task()
        self._tracker.start_task("run")
        self._clock = _clock()
        if used is None or used.energy_consumed <= 0:
            raise RuntimeError("CodeCarbon measured no energy since the last reading; the run's figures would lie")
        self.intensity = used.emissions / used.energy_consumed
        wall_total, cpu_total = (sum(times) for times in zip(*self._unread.values(), strict=True))
        for key, (wall, cpu) in self._unread.items():
            entry = self.entry(*key)
            by_wall, by_cpu = wall / wall_total, cpu / cpu_total
            entry.seconds += wall
            entry.cpu_seconds += cpu
            entry.energy_cpu_kwh += used.cpu_energy * by_cpu
            entry.energy_gpu_kwh += used.gpu_energy * by_wall
            entry.energy_ram_kwh += used.ram_energy * by_wall
            entry.emissions_kg = entry.energy_kwh * self.intensity
        self._unread.clear()

    def close(self) -> None:
        """Stop the tracker; what was not read is lost."""
        self._tracker.stop()

    @property
    def mode(self) -> str:
        """How each part was measured, e.g. ``cpu: cpu_load at 8 W, ram: constant 10 W``."""
        parts = []
        for hardware in self._tracker._hardware:
            name = type(hardware).__name__.lower()
            if isinstance(hardware, CPU):
                parts.append(f"{name}: {hardware._mode} at {hardware._tdp:g} W")
            else:
                parts.append(f"{name}: {hardware.total_power().W:g} W")
        return ", ".join(sorted(parts))

    def total(self, phase: str, **of: Any) -> Entry:
        """The sum of all entries of a phase, or of those of one ``client`` or ``round``."""
        chosen = [e for e in self.entries.values() if e.phase == phase and of.items() <= asdict(e).items()]
        sums = {f.name: sum(getattr(entry, f.name) for entry in chosen) for f in fields(Entry)[3:]}
        return Entry(phase, of.get("round", 0), of.get("client", ""), **sums)


def _clock() -> tuple[float, float]:
    """Wall and CPU seconds; those of living and ended child processes included."""
    own = psutil.Process().cpu_times()
    return time.perf_counter(), time.process_time() + own.children_user + own.children_system


class MeasureEmissions(pl.Callback):
    """The CodeCarbon callback: charges a fit to its phase of the meter, and validation within it to its own.

    Works with any Trainer: ``Trainer(callbacks=[MeasureEmissions(EnergyMeter("DEU"))])``.
    """

    def __init__(self, meter: EnergyMeter, round_number: int = 0, client: str = "") -> None:
        self.meter, self.place = meter, (round_number, client)
        self._phases: list[Any] = []

    def _enter(self, phase: str) -> None:
        self._phases.append(self.meter.phase(phase, *self.place))
        self._phases[-1].__enter__()

    def _leave(self) -> None:
        self._phases.pop().__exit__(None, None, None)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._enter(stage)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == FIT:
            self._enter(VALIDATE)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.state.fn == FIT:
            self._leave()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._leave()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        # Lightning skips teardown after an exception.
        while self._phases:
            self._leave()
