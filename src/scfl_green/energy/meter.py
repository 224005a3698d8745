"""The energy meter: one CodeCarbon tracker per process, and a ledger that splits its readings."""

import multiprocessing
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Annotated, Any

import psutil
from codecarbon.output_methods.emissions_data import EmissionsData
from pydantic import Field

from scfl_green.bounds import Positive, Weight
from scfl_green.energy.hardware import described, make_tracker, measure_memory_in_use
from scfl_green.energy.intensity import Intensity
from scfl_green.energy.ledger import AGGREGATE, IDLE, MESSAGES, OTHER, PREPARE, TRACKING, Key, Ledger, Reading

# Power usage effectiveness: all energy of a data centre by that of its computers.
PUE = Annotated[float, Field(ge=1, le=10)]


class EnergyMeter(Ledger):
    """A ledger with one CodeCarbon tracker, whose readings it splits among phases, rounds and clients.

    The tracker is too coarse for a single client's fit, so it measures from one ``read`` to the next. Every joule read
    is in exactly one entry; consumption outside any phase is ``other``. No network is used.

    ``where`` is a country, or the carbon intensity of each client and hour. ``pue`` multiplies the energy of computing.
    """

    def __init__(
        self,
        where: str | Intensity,
        cpu_watts: Positive | None = None,
        ram_watts: Positive | None = None,
        network_kwh_per_gb: Weight = 0.0,
        idle_watts: Weight = 0.0,
        count_idle: bool = False,
        *,
        pue: PUE = 1.0,
    ) -> None:
        super().__init__()
        self.pue, self.idle_watts = pue, idle_watts
        self.besides = (MESSAGES, AGGREGATE, IDLE) if count_idle else (MESSAGES, AGGREGATE)
        self.network_kwh_per_gb = network_kwh_per_gb
        self.intensity = where if isinstance(where, Intensity) else Intensity(where)
        self.watts = {"cpu": cpu_watts, "ram": ram_watts}
        # Load of the minute before, by this or other programs, as a share of all cores.
        self.load_at_start = psutil.getloadavg()[0] / (psutil.cpu_count() or 1)
        self._open: list[Key | None] = [(OTHER, 0, "")]
        self._tracker = make_tracker(self.intensity.country, cpu_watts, ram_watts)
        self._tracker.start_task("run")
        measure_memory_in_use(self._tracker)
        self._clock, self._others = _clock(), _others_cpu_seconds()
        self._read_at = self.intensity.clock.now()

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
        reading = Reading(used.cpu_energy * self.pue, used.gpu_energy * self.pue, used.ram_energy * self.pue)
        if min(vars(reading).values()) < 0:
            raise RuntimeError(f"CodeCarbon measured a negative energy: {reading}")
        begin, self._read_at = self._read_at, self.intensity.clock.now()
        self.share_out(reading, lambda client: self.intensity.mean(client, begin, self._read_at))

    def wait(self, hours: float) -> None:
        """Let the clock of a simulation run on, while nothing is used; what was used before counts as before."""
        self.read()
        self.intensity.clock.wait(hours)
        self._read_at = self.intensity.clock.now()

    def wait_for_slowest(self, round_number: int) -> None:
        """Charge the clients of a round for the time that they would wait, side by side, for the slowest."""
        self.add_idle(round_number, self.idle_watts * self.pue, self.intensity.at)

    def sent(self, key: Key, *, down: int = 0, up: int = 0) -> None:
        """Note the bytes of a message to (``down``) or from a client."""
        entry = self.entry(*key)
        entry.bytes_down += down
        entry.bytes_up += up
        entry.gb_kg_per_kwh += (down + up) / 1e9 * self.intensity.between(entry.client)

    def state_dict(self) -> dict[str, Any]:
        """The ledger and the time of a run, for its checkpoint; a run that resumes prepares again."""
        rows = [row for row in self.rows() if row["phase"] != PREPARE]
        return {"rows": rows, "clock": self.intensity.clock.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint, if it is not empty."""
        if not state:
            return
        self.add(Ledger.from_rows(state["rows"]))
        self.intensity.clock.load_state_dict(state["clock"])
        self._read_at = self.intensity.clock.now()

    def emissions(self) -> EmissionsData:
        """What CodeCarbon knows of the whole process and the machine."""
        return self._tracker._prepare_emissions_data()

    def close(self) -> None:
        """Stop the tracker; energy since the last reading is lost."""
        self._tracker.stop()

    def transfer(self, kwh_per_gb: float | None = None) -> tuple[float, float]:
        """kWh and kg CO2e of transferring the bytes of training so far, as set or at another ``kwh_per_gb``."""
        moved, kwh_per_gb = self.transferred(), self.network_kwh_per_gb if kwh_per_gb is None else kwh_per_gb
        return (moved.bytes_up + moved.bytes_down) / 1e9 * kwh_per_gb, moved.gb_kg_per_kwh * kwh_per_gb

    @property
    def mean_intensity(self) -> float:
        """kg CO2e per kWh of training so far."""
        trained = self.trained()
        if not self.intensity.varies or not trained.energy_kwh:
            return self.intensity.at()
        return trained.emissions_kg / trained.energy_kwh

    @property
    def mode(self) -> str:
        """How each component was measured (``hardware.described``)."""
        return described(self._tracker, self.watts)


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
