"""The energy meter: one CodeCarbon tracker per process, and a ledger that splits its readings."""

import multiprocessing
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

import psutil
from codecarbon.core.cpu import DEFAULT_POWER_PER_CORE
from codecarbon.core.util import count_cpus
from codecarbon.external.hardware import CPU

from scfl_green.bounds import Positive, Weight
from scfl_green.energy.country import Country, carbon_intensity
from scfl_green.energy.hardware import MemoryInUse, make_tracker, measure_memory_in_use
from scfl_green.energy.ledger import AGGREGATE, IDLE, MESSAGES, OTHER, TRACKING, Key, Ledger, Reading


class EnergyMeter(Ledger):
    """A ledger with one CodeCarbon tracker, whose readings it splits among phases, rounds and clients.

    The tracker is too coarse for a single client's fit, so it measures from one ``read`` to the next. Every joule read
    is in exactly one entry; consumption outside any phase is ``other``. No network is used.
    """

    def __init__(
        self,
        country: Country,
        cpu_watts: Positive | None = None,
        ram_watts: Positive | None = None,
        network_kwh_per_gb: Weight = 0.0,
        idle_watts: Weight = 0.0,
        count_idle: bool = False,
    ) -> None:
        super().__init__()
        self.idle_watts = idle_watts
        self.besides = (MESSAGES, AGGREGATE, IDLE) if count_idle else (MESSAGES, AGGREGATE)
        self.network_kwh_per_gb = network_kwh_per_gb
        self.country, self.intensity = country, carbon_intensity(country)
        self.watts = {"cpu": cpu_watts, "ram": ram_watts}
        # Load of the minute before, by this or other programs, as a share of all cores.
        self.load_at_start = psutil.getloadavg()[0] / (psutil.cpu_count() or 1)
        self._open: list[Key | None] = [(OTHER, 0, "")]
        self._tracker = make_tracker(country, cpu_watts, ram_watts)
        self._tracker.start_task("run")
        measure_memory_in_use(self._tracker)
        self._clock, self._others = _clock(), _others_cpu_seconds()

    def phase(self, phase: str, round_number: int = 0, client: str = "") -> AbstractContextManager[None]:
        """Charges the time inside to this phase; a phase within another pauses the outer one."""
        return self._charging((phase, round_number, client))

    def elsewhere(self) -> AbstractContextManager[None]:
        """Charges the time inside to nothing, while worker processes keep their own ledgers."""
        return self._charging(None)

    @contextmanager
    def _charging(self, key: Key | None) -> Iterator[None]:
        self._charge()
        self._open.append(key)
        depth = len(self._open)
        try:
            yield
        finally:
            self._charge()
            # Also ends inner phases that an exception left open.
            del self._open[depth - 1 :]

    def take(self) -> Ledger:
        """Empty this ledger and return its entries and charges, for the process that reads the tracker."""
        self._charge()
        ledger = Ledger(self.entries, self.unread)
        self.entries, self.unread = {}, {}
        return ledger

    def _charge(self) -> None:
        now = _clock()
        if (key := self._open[-1]) is not None:
            self.charge(key, now[0] - self._clock[0], now[1] - self._clock[1])
        self._clock = now

    def read(self) -> None:
        """Measure the energy since the last reading and split it among the entries."""
        self._charge()
        # CodeCarbon counts the children of this process too: loggers, of which training knows nothing. Like this, it
        # counts a child from the first reading after it started.
        before, self._others = self._others, _others_cpu_seconds()
        used_by_others = sum(seconds - before[pid] for pid, seconds in self._others.items() if pid in before)
        self.charge((TRACKING, 0, ""), 0.0, used_by_others)
        used = self._tracker.stop_task()
        self._tracker.start_task("run")
        self._clock = _clock()
        if used is None or used.energy_consumed <= 0:
            raise RuntimeError("CodeCarbon measured no energy since the last reading; the run's figures would be wrong")
        reading = Reading(used.cpu_energy, used.gpu_energy, used.ram_energy)
        if min(vars(reading).values()) < 0:
            raise RuntimeError(f"CodeCarbon measured a negative energy: {reading}")
        self.share_out(reading, self.intensity)

    def wait_for_slowest(self, round_number: int) -> None:
        """Charge the clients of a round for the time that they would wait, side by side, for the slowest."""
        self.add_idle(round_number, self.idle_watts, self.intensity)

    def close(self) -> None:
        """Stop the tracker; energy since the last reading is lost."""
        self._tracker.stop()

    def transfer(self, kwh_per_gb: float | None = None) -> tuple[float, float]:
        """kWh and kg CO2e of transferring the bytes of training so far, as set or at another ``kwh_per_gb``."""
        kwh = sum(self.moved()) / 1e9 * (self.network_kwh_per_gb if kwh_per_gb is None else kwh_per_gb)
        return kwh, kwh * self.intensity

    @property
    def mode(self) -> str:
        """How each component was measured, and the source of its power, e.g. ``cpu: cpu_load x 8 W (guessed: 4 W a
        thread), ram: 0.375 W a GB in use``."""
        parts = []
        for hardware in self._tracker._hardware:
            name = type(hardware).__name__.lower()
            given = "given" if self.watts.get(name) else None
            if isinstance(hardware, CPU) and hardware._mode not in ("cpu_load", "constant"):
                parts.append(f"cpu: {hardware._mode}, measured for the whole machine")
            elif isinstance(hardware, CPU):
                guess = hardware._tdp == DEFAULT_POWER_PER_CORE * count_cpus()
                known = f"guessed: {DEFAULT_POWER_PER_CORE} W a thread" if guess else f"of a {hardware._model}"
                parts.append(f"cpu: {hardware._mode} x {hardware._tdp:g} W ({given or known})")
            elif isinstance(hardware, MemoryInUse):
                parts.append(f"ram: {hardware.watts_per_gb:g} W a GB in use")
            elif name == "ram":
                parts.append(f"ram: constant {hardware.total_power().W:g} W (given)")
            else:
                parts.append(f"{name}: measured by its driver")
        return ", ".join(sorted(parts))


def _clock() -> tuple[float, float]:
    """Wall and CPU seconds, including child processes that have ended."""
    used = os.times()
    return time.perf_counter(), time.process_time() + used.children_user + used.children_system


def _others_cpu_seconds() -> dict[int, float]:
    """CPU seconds of the child processes that run now, but for workers, which keep ledgers of their own."""
    workers = {process.pid for process in multiprocessing.active_children()}
    seconds = {}
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has ended
            if child.pid not in workers:
                used = child.cpu_times()
                seconds[child.pid] = used.user + used.system
    return seconds
