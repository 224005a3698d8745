"""Records which cells a model was trained on, so that it is not tested on them later."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scfl_green.data.partition import Part, Split
from scfl_green.errors import InputError

Files = Sequence[Sequence[str]]


@dataclass(frozen=True)
class Seen:
    """Training and validation cells of a model: clients by name, files by SHA-256, cells as a boolean mask over all
    cells of the files. A shared model does not name them: all three are empty (``told`` is false)."""

    clients: frozenset[str]
    files: list[str]
    cells: np.ndarray

    @classmethod
    def of(cls, parts: Sequence[Part], files: Files, n_cells: int, before: "Seen | None") -> "Seen":
        """Add the cells of ``parts`` to those that the initial weights had seen ``before``."""
        cells = np.zeros(n_cells, dtype=bool)
        for part in parts if files else ():  # else the cells are elsewhere
            cells[part.train] = cells[part.validation] = True
        if before is not None and before.matches(files, n_cells):
            cells |= before.cells
        clients = {part.name for part in parts} | (before.clients if before else set())
        return cls(frozenset(clients), [sha256 for _, sha256 in files], cells)

    @property
    def told(self) -> bool:
        return bool(self.files)

    def matches(self, files: Files, n_cells: int) -> bool:
        return self.files == [sha256 for _, sha256 in files] and len(self.cells) == n_cells

    def check(self, split: Split, files: Files, n_cells: int) -> None:
        """InputError if a test cell of ``split`` has been seen."""
        if not self.matches(files, n_cells):
            return
        tested = np.concatenate([part.test for parts in vars(split).values() for part in parts.values()])
        if seen := int(self.cells[tested].sum()):
            raise InputError(
                f"weights: {seen} of {len(tested)} test cells have been trained on in the earlier run; "
                "split the cells as it did (the same seed, split and data.client_key)"
            )

    def check_new(self, files: Files) -> None:
        """InputError if one of these files has been trained on."""
        for name, sha256 in files:
            if sha256 in self.files:
                raise InputError(
                    f"weights: trained on cells of {name}.h5ad; name a file of other cells, or hold the newcomer's out "
                    "in the earlier run and here: split.newcomers=1"
                )

    def to_json(self) -> dict[str, Any]:
        packed = base64.b64encode(np.packbits(self.cells).tobytes()).decode()
        return {"clients": sorted(self.clients), "files": self.files, "n_cells": len(self.cells), "cells": packed}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "Seen":
        if "cells" not in stored:
            return cls(frozenset(), [], np.zeros(0, dtype=bool))
        bits = np.unpackbits(np.frombuffer(base64.b64decode(stored["cells"]), dtype=np.uint8))
        return cls(frozenset(stored["clients"]), stored["files"], bits[: stored["n_cells"]].astype(bool))
