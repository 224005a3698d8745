"""Who owns which cells: the parts of a dataset, and the split into clients, newcomers and clients held out."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

ROLES = ("train", "validation", "test")
POOLED = "pooled"  # the name of several clients' cells taken together


@dataclass(frozen=True)
class Part:
    """The cells of one client (or of several, pooled), as row numbers by role. Every cell has one role."""

    name: str
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    @classmethod
    def pooled(cls, parts: list["Part"]) -> "Part":
        return cls(POOLED, *(np.sort(np.concatenate([getattr(part, role) for part in parts])) for role in ROLES))


@dataclass(frozen=True)
class Split:
    """Clients that train the federation, newcomers held out for fine-tuning, and whole clients held out for the test;
    each by name, in order of name."""

    clients: dict[str, Part]
    newcomers: dict[str, Part]
    tested: dict[str, Part] = field(default_factory=dict)

    def to_test(self, parts: Sequence[Part]) -> list[Part]:
        """The parts to test on what was trained at ``parts``: those held out for it, else their own test cells."""
        return list(self.tested.values()) or [part for part in parts if len(part.test)]
