"""Which cells belong to whom: clients, and within each the cells to train on, to validate on and to test on."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from scfl_green.data.cells import Cells
from scfl_green.errors import InputError

# A share of every client's cells, or the names of clients whose cells are all kept for the test.
Test = float | list[str]
# The name of several clients' cells taken together.
POOLED = "pooled"


@dataclass(frozen=True)
class Part:
    """The cells of one client (or of several, pooled), as row numbers by role. Every cell has one role."""

    name: str
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray

    @classmethod
    def pooled(cls, parts: list["Part"]) -> "Part":
        return cls(
            POOLED, *(np.sort(np.concatenate([getattr(p, r) for p in parts])) for r in ("train", "validation", "test"))
        )


@dataclass(frozen=True)
class Split:
    """Clients that train the federation, newcomers held out for fine-tuning, and whole clients held out for the
    test, if any; each by name, in order of name."""

    clients: dict[str, Part]
    newcomers: dict[str, Part]
    tested: dict[str, Part] = field(default_factory=dict)

    def to_test(self, parts: Sequence[Part]) -> list[Part]:
        """The parts to test on what was trained at ``parts``: those held out for it, else their own test cells."""
        return list(self.tested.values()) or list(parts)


def by_client(cells: Cells, *, test: Test, validation: float, newcomers: int | list[str], seed: int) -> Split:
    """Donors, studies or sites as clients, as the data names them."""
    return _split(cells, cells.clients, test, validation, newcomers, seed)


def iid(cells: Cells, *, clients: int, test: Test, validation: float, newcomers: int | list[str], seed: int) -> Split:
    """``clients`` equal shares of the shuffled cells."""
    order = np.random.default_rng((seed, 1)).permutation(len(cells))
    width = len(str(clients))
    owner = np.empty(len(cells), dtype=object)
    for number, rows in enumerate(np.array_split(order, clients), start=1):
        owner[rows] = f"client-{number:0{width}d}"
    return _split(cells, owner, test, validation, newcomers, seed)


def _split(
    cells: Cells, owner: np.ndarray, test: Test, validation: float, newcomers: int | list[str], seed: int
) -> Split:
    names = sorted(set(owner))
    tested = _named(test, names, "split.test") if isinstance(test, list) else set()
    rest = [name for name in names if name not in tested]
    new = _newcomers(rest, newcomers)
    rng = np.random.default_rng((seed, 2))
    parts = {}
    for name in names:
        rows = np.flatnonzero(owner == name)
        share = float(name in tested) if isinstance(test, list) else test
        held_out = stratified_share(cells.labels[rows], share, rng)
        kept = rows[~held_out]
        validated = stratified_share(cells.labels[kept], validation, rng)
        if validation and len(kept) > 1 and not validated.any():
            validated[rng.integers(len(kept))] = True
        if len(kept) and validated.all():
            validated[0] = False
        parts[name] = Part(name, train=kept[~validated], validation=kept[validated], test=rows[held_out])
    _check([parts[name] for name in rest], needs_test=not tested)
    return Split(
        clients={n: parts[n] for n in rest if n not in new},
        newcomers={n: parts[n] for n in rest if n in new},
        tested={n: parts[n] for n in names if n in tested},
    )


def stratified_share(labels: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """A random ``share`` of cells (boolean), spread over the cell types in proportion, singletons included.

    Systematic sampling over cells sorted by type: each type gives its share to within one cell, and so does the
    whole, which drawing type by type with rounding would not.
    """
    order = np.lexsort((rng.random(len(labels)), labels))
    ticks = np.floor(np.arange(len(labels) + 1) * share + rng.random())
    chosen = np.empty(len(labels), dtype=bool)
    chosen[order] = np.diff(ticks) > 0
    return chosen


def _named(chosen: list[str], names: list[str], setting: str) -> set[str]:
    if unknown := set(chosen) - set(names):
        raise InputError(f"{setting} names {', '.join(sorted(unknown))}; the clients are {', '.join(names)}")
    if len(set(chosen)) >= len(names):
        raise InputError(f"{setting} holds out all {len(names)} clients; at least one must remain to train")
    return set(chosen)


def _newcomers(names: list[str], newcomers: int | list[str]) -> set[str]:
    chosen = names[max(0, len(names) - newcomers) :] if isinstance(newcomers, int) else newcomers
    return _named(chosen, names, "split.newcomers")


def _check(parts: Sequence[Part], needs_test: bool) -> None:
    for part in parts:
        if len(part.train) == 0 or (needs_test and len(part.test) == 0):
            total = len(part.train) + len(part.validation) + len(part.test)
            raise InputError(
                f"client {part.name!r} has {total} cells, too few to train and to test on; "
                "choose another data.client_key"
            )
