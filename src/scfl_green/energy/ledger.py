"""The ledger: what each phase, round and client used, and how a reading of energy is shared out among them."""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import pandas as pd

from scfl_green.files import write_atomically

PREPARE, WARM_UP, FIT, VALIDATE, TEST, OTHER = "prepare", "warm-up", "fit", "validate", "test", "other"
# Work beside training: progress and loggers, and writing checkpoints.
TRACKING, CHECKPOINT = "tracking", "checkpoint"
# What the machine drew for this process while it waited for its turn beside others.
WAITING = "waiting"
Key = tuple[str, int, str]


@dataclass
class Entry:
    """One line of the ledger: a phase of a round at a client ("" and 0 where there is none); ``cells`` it trained on,
    as often as it did, and the floating-point operations of that."""

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
    cells: int = 0
    flops: float = 0.0

    @property
    def energy_kwh(self) -> float:
        return self.energy_cpu_kwh + self.energy_gpu_kwh + self.energy_ram_kwh

    @property
    def task(self) -> str:
        """E.g. ``fit/round-3/client-2``."""
        of_round = [f"round-{self.round}"] if self.round else []
        return "/".join([self.phase, *of_round, *([self.client] if self.client else [])])


@dataclass(frozen=True)
class Reading:
    """Energy of one interval, by what drew it."""

    cpu_kwh: float
    gpu_kwh: float
    ram_kwh: float


@dataclass
class Ledger:
    """Entries by (phase, round, client), and the wall and CPU seconds that no reading has covered yet."""

    entries: dict[Key, Entry] = field(default_factory=dict)
    unread: dict[Key, tuple[float, float]] = field(default_factory=dict)

    def entry(self, phase: str, round_number: int = 0, client: str = "") -> Entry:
        return self.entries.setdefault((phase, round_number, client), Entry(phase, round_number, client))

    def charge(self, key: Key, wall: float, cpu: float) -> None:
        before = self.unread.get(key, (0.0, 0.0))
        self.unread[key] = before[0] + wall, before[1] + cpu

    def add(self, other: "Ledger") -> None:
        """Enter what was used in another process, energy apart, which is shared out here."""
        for key, theirs in other.entries.items():
            mine = self.entry(*key)
            for of in fields(Entry)[3:]:
                setattr(mine, of.name, getattr(mine, of.name) + getattr(theirs, of.name))
        for key, used in other.unread.items():
            self.charge(key, *used)

    def share_out(self, used: Reading, kg_per_kwh: float) -> None:
        """Every joule of a reading goes into exactly one entry.

        CPU energy goes by CPU seconds, GPU energy by wall seconds, and RAM energy by the time that a phase ran: the
        lesser of its wall and CPU seconds, or wall seconds where there is a GPU to wait for. What memory drew while the
        process waited for its turn is ``waiting``, or else the same work would cost more beside busy neighbours.
        """
        walls, cpus = (sum(seconds) for seconds in zip(*self.unread.values(), strict=True))
        for key, (wall, cpu) in self.unread.items():
            entry = self.entry(*key)
            entry.seconds += wall
            entry.cpu_seconds += cpu
            entry.energy_cpu_kwh += used.cpu_kwh * (cpu / cpus if cpus else wall / walls)
            entry.energy_gpu_kwh += used.gpu_kwh * wall / walls
            ran = wall if used.gpu_kwh > 0 else min(wall, cpu)
            entry.energy_ram_kwh += used.ram_kwh * ran / walls
            idle = self.entry(WAITING)
            idle.energy_ram_kwh += used.ram_kwh * (wall - ran) / walls
            for line in (entry, idle):
                line.emissions_kg = line.energy_kwh * kg_per_kwh
        self.unread.clear()

    def total(self, phase: str, **of: Any) -> Entry:
        """The sum of all entries of a phase, or of those of one ``client`` or ``round``."""
        chosen = [e for e in self.entries.values() if e.phase == phase and of.items() <= vars(e).items()]
        sums = {f.name: sum(getattr(entry, f.name) for entry in chosen) for f in fields(Entry)[3:]}
        return Entry(phase, of.get("round", 0), of.get("client", ""), **sums)

    def moved(self, **of: Any) -> tuple[int, int]:
        """Bytes up and down of training, those of validation included, of all or of one ``client`` or ``round``."""
        fit, validate = self.total(FIT, **of), self.total(VALIDATE, **of)
        return fit.bytes_up + validate.bytes_up, fit.bytes_down + validate.bytes_down

    def rows(self) -> list[dict[str, Any]]:
        """The entries as plain values; ``from_rows`` makes a ledger of them again."""
        return [{**vars(entry)} for entry in self.entries.values()]

    @staticmethod
    def from_rows(rows: Iterable[dict[str, Any]]) -> "Ledger":
        return Ledger({(row["phase"], row["round"], row["client"]): Entry(**row) for row in rows})

    def write(self, path: Path) -> None:
        """``energy.csv``: a row a phase, round and client."""
        rows = [{"task": e.task} | vars(e) | {"energy_kwh": e.energy_kwh} for e in self.entries.values()]
        write_atomically(path, pd.DataFrame(rows).to_csv(index=False).encode())
