"""Which cells belong to whom: clients, and within each the cells to train on, to validate on and to test on."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypedDict, Unpack

import numpy as np
import pandas as pd

from scfl_green.data.reading.cells import Cells
from scfl_green.errors import InputError, listed

ROLES = ("train", "validation", "test")
POOLED = "pooled"  # the name of several clients' cells taken together
FEWEST = 5  # cells of a client


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


class HeldOut(TypedDict):
    """What is not trained on: ``test_share`` of every client's ``cells`` (stratified by type), or of the ``donors``
    (whole), or all cells of the clients named; a ``validation`` share of the rest; newcomers, by number or name."""

    test: Literal["cells", "donors"] | list[str | int]
    test_share: float
    validation: float
    newcomers: int | list[str | int]


def by_client(cells: Cells, *, seed: int, **held_out: Unpack[HeldOut]) -> Split:
    """Donors, studies or sites as clients, as the data names them."""
    return _split(cells, cells.clients, seed, held_out)


def iid(cells: Cells, *, clients: int, seed: int, **held_out: Unpack[HeldOut]) -> Split:
    """``clients`` equal shares of the shuffled cells."""
    order = np.random.default_rng((seed, 1)).permutation(len(cells))
    return _split(cells, _numbered(np.array_split(order, clients), len(cells), "client-"), seed, held_out)


def dirichlet(cells: Cells, *, clients: int, alpha: float, seed: int, **held_out: Unpack[HeldOut]) -> Split:
    """Clients with their own mix of cell types: each type is dealt out in shares drawn from Dirichlet(alpha).

    Hsu et al. 2019 (arXiv:1909.06335), section 3; the smaller alpha, the fewer types a client has. Drawn again
    until every client has cells enough to train and to test on.
    """
    if clients * FEWEST > len(cells):
        raise InputError(f"split.clients={clients}: {len(cells)} cells are too few for as many clients; lower it")
    rng = np.random.default_rng((seed, 1))
    for _ in range(200):
        dealt: list[list[np.ndarray]] = [[] for _ in range(clients)]
        for label in range(len(cells.types)):
            rows = rng.permutation(np.flatnonzero(cells.labels == label))
            cuts = (rng.dirichlet(np.full(clients, alpha)).cumsum()[:-1] * len(rows)).round().astype(int)
            for mine, share in zip(dealt, np.split(rows, cuts), strict=True):
                mine.append(share)
        owned = [np.concatenate(shares) for shares in dealt]
        if min(len(rows) for rows in owned) >= FEWEST:
            return _split(cells, _numbered(owned, len(cells), "client-"), seed, held_out)
    raise InputError(
        f"split.alpha={alpha}: some of {clients} clients always had fewer than {FEWEST} of {len(cells)} cells; "
        "raise split.alpha or lower split.clients"
    )


def chunks(
    cells: Cells, *, n_chunks: int, size: int | None, random_state: int, seed: int, **held_out: Unpack[HeldOut]
) -> Split:
    """The study's protocol: the cells in the order of pandas' ``sample(random_state=...)``, cut into ``n_chunks``
    of ``size`` cells, the last of what is left (equal ones without a size); numbered from 1."""
    if size is not None and len(cells) <= size * (n_chunks - 1):
        raise InputError(
            f"{len(cells)} cells make no {n_chunks} chunks of {size}: choose another split, or its split.size"
        )
    order = pd.RangeIndex(len(cells)).to_series().sample(frac=1, random_state=random_state).to_numpy()
    cuts = n_chunks if size is None else np.arange(1, n_chunks) * size
    return _split(cells, _numbered(np.array_split(order, cuts), len(cells)), seed, held_out)


def _numbered(owned: Sequence[np.ndarray], n_cells: int, prefix: str = "") -> np.ndarray:
    owner = np.empty(n_cells, dtype=object)
    for number, rows in enumerate(owned, start=1):
        owner[rows] = f"{prefix}{number:0{len(str(len(owned)))}d}"
    return owner


def _split(cells: Cells, owner: np.ndarray, seed: int, held_out: HeldOut) -> Split:
    names = sorted(set(owner))
    test = held_out["test"]
    whole = np.isin(owner, list(map(str, test))) if isinstance(test, list) else np.zeros(len(cells), dtype=bool)
    if isinstance(test, list):
        _known(test, names, "split.test")
    elif test == "donors":
        whole = _whole_donors(cells.donors, owner, held_out["test_share"], np.random.default_rng((seed, 3)))
    share = held_out["test_share"] if test == "cells" else 0.0
    rng = np.random.default_rng((seed, 2))
    parts = {}
    for name in names:
        rows = np.flatnonzero(owner == name)
        tested = whole[rows] | stratified_share(cells.labels[rows], share, rng)
        kept = rows[~tested]
        validated = stratified_share(cells.labels[kept], held_out["validation"], rng)
        if held_out["validation"] and len(kept) > 1 and not validated.any():
            validated[rng.integers(len(kept))] = True
        if len(kept) and validated.all():
            validated[0] = False
        parts[name] = Part(name, train=kept[~validated], validation=kept[validated], test=rows[tested])
    rest = [name for name in names if test == "cells" or len(parts[name].train)]
    if not rest:
        raise InputError(f"split.test holds out all {len(names)} clients; at least one must remain to train")
    last = held_out["newcomers"]
    new = _known(rest[max(0, len(rest) - last) :] if isinstance(last, int) else last, rest, "split.newcomers")
    _check([parts[name] for name in rest], needs_test=test == "cells", needs_validation=held_out["validation"] > 0)
    if len(rest) == len(names) and not any(len(parts[name].test) for name in rest if name not in new):
        raise InputError("split.test: no client that trains has test cells; use split.test=cells, or another seed")
    return Split(
        clients={n: parts[n] for n in rest if n not in new},
        newcomers={n: parts[n] for n in rest if n in new},
        tested={n: parts[n] for n in names if n not in rest},
    )


def _whole_donors(donors: np.ndarray, owner: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Cells (boolean) of a random ``share`` of donors, at least one. Clients that have several donors keep one."""
    owned = pd.DataFrame({"donor": donors, "client": owner}).drop_duplicates()
    names = sorted(set(donors))
    if len(names) < 2:
        raise InputError("split.test=donors needs more than one donor: set data.donor_key, or use split.test=cells")
    several = owned["client"].value_counts().max() > 1
    chosen: set[str] = set()
    for donor in rng.permutation(np.array(names, dtype=object)):
        homes = owned.loc[owned["donor"] == donor, "client"]
        left = owned[~owned["donor"].isin([*chosen, donor])]["client"]
        if len(chosen) < max(1, round(share * len(names))) and (not several or homes.isin(left).all()):
            chosen.add(donor)
    if not chosen:
        raise InputError(
            "split.test=donors: every client has one donor of its own and must keep it; use split.test=cells"
        )
    return np.isin(donors, list(chosen))


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


def _known(chosen: Sequence[str | int], names: list[str], setting: str) -> set[str]:
    """The clients chosen, some of all; chunks are named by numbers."""
    known = set(map(str, chosen))
    if unknown := known - set(names):
        raise InputError(f"{setting} names {', '.join(sorted(unknown))}; the clients are {listed(names)}")
    if len(known) >= len(names):
        raise InputError(f"{setting} holds out all {len(names)} clients; at least one must remain to train")
    return known


def _check(parts: Sequence[Part], needs_test: bool, needs_validation: bool) -> None:
    for part in parts:
        lacks = (needs_test and not len(part.test)) or (needs_validation and not len(part.validation))
        if len(part.train) == 0 or lacks:
            total = len(part.train) + len(part.validation) + len(part.test)
            raise InputError(
                f"client {part.name!r} has {total} cells, too few to train, validate and test on; choose another "
                "data.client_key, fewer split.clients, or another split.test_share"
            )
