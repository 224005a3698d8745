"""The split of a dataset into clients, newcomers and held-out clients, and each one's cells by role."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

ROLES = ("train", "validation", "test")
POOLED = "pooled"  # the name of several clients' pooled cells


@dataclass(frozen=True)
class Part:
    """The cells of one client (or of several, pooled), as row numbers by role; each cell has exactly one role."""

    name: str
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    @classmethod
    def counted(cls, name: str, train: int, validation: int, test: int) -> "Part":
        """A part whose cells are elsewhere, known by their numbers alone."""
        return cls(name, *(np.arange(n) for n in (train, validation, test)))

    @classmethod
    def pooled(cls, parts: list["Part"]) -> "Part":
        return cls(POOLED, *(np.sort(np.concatenate([getattr(part, role) for part in parts])) for role in ROLES))


@dataclass(frozen=True)
class Split:
    """Clients that train, newcomers held out for fine-tuning, and clients held out whole for testing; in name order."""

    clients: dict[str, Part]
    newcomers: dict[str, Part]
    tested: dict[str, Part] = field(default_factory=dict)

    @property
    def parts(self) -> dict[str, Part]:
        """All parts, of whatever purpose."""
        return {name: part for parts in (self.clients, self.newcomers, self.tested) for name, part in parts.items()}

    @property
    def numbers(self) -> dict[str, int]:
        """A number of each client, to publish in place of its name, which may be a person's."""
        return {name: number for number, name in enumerate(self.parts, start=1)}

    def to_test(self, parts: Sequence[Part]) -> list[Part]:
        """The parts to test a model of ``parts`` on: held-out clients if any, else those with test cells."""
        return list(self.tested.values()) or [part for part in parts if len(part.test)]
