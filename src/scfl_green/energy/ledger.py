"""The ledger: the consumption of each phase, round and client, and how energy readings are split among them."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pandas as pd

from scfl_green.files import write_atomically

PREPARE, WARM_UP, FIT, VALIDATE, TEST, OTHER = "prepare", "warm-up", "fit", "validate", "test", "other"
# After training: what validation cells tell of the trained weights, and in a federation the messages about it.
CALIBRATE = "calibrate"
# What a federation needs besides its clients' training: packing messages, and the server's checks and averaging.
MESSAGES, AGGREGATE = "messages", "aggregate"
# Work beside training: progress and loggers, and writing checkpoints.
TRACKING, CHECKPOINT = "tracking", "checkpoint"
# What clients draw while they wait for the slowest of their round: not measured, since they train in turn.
IDLE = "idle"
# What a site's process draws between two messages of a federation.
BETWEEN = "between-messages"
# The draw of RAM while the process waited for a CPU.
WAITING = "waiting"
Key = tuple[str, int, str]
# kg CO2e per kWh at a client.
Intensities = Callable[[str], float]


@dataclass
class Entry:
    """The consumption of one phase, round and client (0 and "" if there is none).

    ``gb_kg_per_kwh`` sums up the gigabytes that it sent and got, each times the carbon intensity (kg CO2e/kWh) of its
    transfer. ``cells`` counts training cells, once per epoch (of phase ``test``: cells tested), and ``flops`` the
    floating-point operations on them. ``bytes_spared``: what the messages of a round would have had more if all
    weights had travelled whole.
    """

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
    gb_kg_per_kwh: float = 0.0
    cells: int = 0
    flops: float = 0.0
    bytes_spared: int = 0

    @property
    def energy_kwh(self) -> float:
        return self.energy_cpu_kwh + self.energy_gpu_kwh + self.energy_ram_kwh

    @property
    def task(self) -> str:
        """E.g. ``fit/round-3/client-2``."""
        number = f"round-{self.round}" if self.round else ""
        return "/".join(filter(None, (self.phase, number, self.client)))


@dataclass(frozen=True)
class Reading:
    """The energy of one interval, by component."""

    cpu_kwh: float
    gpu_kwh: float
    ram_kwh: float


@dataclass
class Ledger:
    """Entries by (phase, round, client), and the wall and CPU seconds since the last reading (``unread``)."""

    entries: dict[Key, Entry] = field(default_factory=dict)
    unread: dict[Key, tuple[float, float]] = field(default_factory=dict)
    # The phases that count as training besides its fits.
    besides: tuple[str, ...] = (MESSAGES, AGGREGATE)

    def entry(self, phase: str, round_number: int = 0, client: str = "") -> Entry:
        return self.entries.setdefault((phase, round_number, client), Entry(phase, round_number, client))

    def charge(self, key: Key, wall: float, cpu: float) -> None:
        wall_before, cpu_before = self.unread.get(key, (0.0, 0.0))
        self.unread[key] = wall_before + wall, cpu_before + cpu

    def add(self, other: "Ledger") -> None:
        """Add the entries and unread seconds of another ledger, such as a worker's."""
        for key, added in other.entries.items():
            entry = self.entry(*key)
            for field_ in fields(Entry)[3:]:
                setattr(entry, field_.name, getattr(entry, field_.name) + getattr(added, field_.name))
        for key, seconds in other.unread.items():
            self.charge(key, *seconds)

    def share_out(self, used: Reading, kg_per_kwh: Intensities) -> None:
        """Split a reading among the entries; every joule goes into exactly one, and counts as at its client.

        CPU energy is split by CPU seconds, GPU energy by wall seconds, and RAM energy by running time: the lesser of
        wall and CPU seconds, or wall seconds if a GPU is used. RAM energy while the process waited for a CPU is charged
        to ``waiting``; otherwise the same work would cost more on a busy machine.
        """
        walls, cpus = (sum(seconds) for seconds in zip(*self.unread.values(), strict=True))
        for key, (wall, cpu) in self.unread.items():
            entry, waiting = self.entry(*key), self.entry(WAITING)
            before = entry.energy_kwh, waiting.energy_kwh
            entry.seconds += wall
            entry.cpu_seconds += cpu
            entry.energy_cpu_kwh += used.cpu_kwh * (cpu / cpus if cpus else wall / walls)
            entry.energy_gpu_kwh += used.gpu_kwh * wall / walls
            ran = wall if used.gpu_kwh > 0 else min(wall, cpu)
            entry.energy_ram_kwh += used.ram_kwh * ran / walls
            waiting.energy_ram_kwh += used.ram_kwh * (wall - ran) / walls
            for charged, kwh in zip((entry, waiting), before, strict=True):
                charged.emissions_kg += (charged.energy_kwh - kwh) * kg_per_kwh(entry.client)
        self.unread.clear()

    def add_idle(self, round_number: int, watts: float, kg_per_kwh: Intensities) -> None:
        """Add entries for the time that each client of a round waits for the slowest, in training and in validation;
        times are running times, as in ``share_out``, so that a busy machine changes nothing."""
        waited: dict[str, float] = defaultdict(float)
        for phase in (FIT, VALIDATE):
            asked = [e for e in self.entries.values() if (e.phase, e.round) == (phase, round_number)]
            ran = {entry.client: min(entry.seconds, entry.cpu_seconds) for entry in asked}
            for client, seconds in ran.items():
                waited[client] += max(ran.values()) - seconds
        for client, seconds in waited.items():
            idle = self.entry(IDLE, round_number, client)
            idle.seconds, idle.energy_cpu_kwh = seconds, seconds * watts / 3.6e6
            idle.emissions_kg = idle.energy_kwh * kg_per_kwh(client)

    def total(self, *phases: str, **where: Any) -> Entry:
        """The sum of phases, over all their entries or those of one ``client`` or ``round``."""
        chosen = [e for e in self.entries.values() if e.phase in phases and where.items() <= vars(e).items()]
        sums = {f.name: sum(getattr(entry, f.name) for entry in chosen) for f in fields(Entry)[3:]}
        return Entry(phases[0], where.get("round", 0), where.get("client", ""), **sums)

    def trained(self, phase: str = FIT, **where: Any) -> Entry:
        """What counts as the cost of a training whose fits are ``phase``: these, and what its federation needs."""
        return self.total(phase, *self.besides, **where)

    def transferred(self, **where: Any) -> Entry:
        """Sum of the phases in which messages travel, of one ``client`` or ``round`` (0: before training), or all."""
        return self.total(PREPARE, FIT, VALIDATE, **where)

    def moved(self, **where: Any) -> tuple[int, int]:
        """Bytes up and down of all messages, or of those of one ``client`` or ``round`` (0: before training)."""
        moved = self.transferred(**where)
        return moved.bytes_up, moved.bytes_down

    def rows(self) -> list[dict[str, Any]]:
        """The entries as plain values, which ``from_rows`` reads."""
        return [{**vars(entry)} for entry in self.entries.values()]

    @staticmethod
    def from_rows(rows: Iterable[dict[str, Any]]) -> "Ledger":
        return Ledger({(row["phase"], row["round"], row["client"]): Entry(**row) for row in rows})

    def write(self, path: Path) -> None:
        """Write ``energy.csv``: a row per phase, round and client."""
        rows = [{"task": e.task} | vars(e) | {"energy_kwh": e.energy_kwh} for e in self.entries.values()]
        write_atomically(path, pd.DataFrame(rows).to_csv(index=False).encode())
