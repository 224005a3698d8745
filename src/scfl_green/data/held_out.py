"""Chooses the held-out cells: validation cells, test cells, and whole newcomers."""

import zlib
from collections.abc import Sequence
from typing import Annotated, Literal, TypedDict

import numpy as np
import pandas as pd
from pydantic import Field, NonNegativeInt

from scfl_green.bounds import Share
from scfl_green.data.partition import Part, Split
from scfl_green.data.reading.cells import Cells
from scfl_green.errors import InputError, listed


class HeldOut(TypedDict):
    """What is held out. ``test``: a ``test_share`` of each client's ``cells`` (stratified by type) or of the ``donors``
    (whole), or one whole ``client`` (another with each seed), or the clients named; ``validation``: a share of the
    rest; newcomers, by number or name."""

    test: Literal["cells", "donors", "client"] | Annotated[list[str | int], Field(min_length=1)]
    test_share: Annotated[float, Field(gt=0, lt=1)]
    validation: Share
    newcomers: NonNegativeInt | list[str | int]


def split(cells: Cells, owner: np.ndarray, seed: int, held_out: HeldOut) -> Split:
    """Split cells whose clients ``owner`` names; InputError if a role is left without cells."""
    names, test = sorted(set(owner)), held_out["test"]
    whole = _tested_whole(cells, owner, seed, held_out)
    owned = {name: np.flatnonzero(owner == name) for name in names}
    parts = {name: _part(name, rows, cells.labels, whole, held_out, seed) for name, rows in owned.items()}
    rest = [name for name in names if test == "cells" or len(parts[name].train)]
    if not rest:
        raise InputError(f"split.test holds out all {len(names)} clients; at least one must remain to train")
    wanted = held_out["newcomers"]
    new = _known(rest[max(0, len(rest) - wanted) :] if isinstance(wanted, int) else wanted, rest, "split.newcomers")
    known = [parts[name] for name in rest if (cells.labels[owned[name]] >= 0).any()]
    check_parts(known, needs_test=test == "cells", needs_validation=held_out["validation"] > 0)
    if not any(len(parts[name].test) for name in set(names) - {*rest} or {*rest} - {*new}):
        raise InputError("split.test: no client has test cells of a single type; use split.test=cells, or another seed")
    return Split(
        clients={n: parts[n] for n in rest if n not in new},
        newcomers={n: parts[n] for n in rest if n in new},
        tested={n: parts[n] for n in names if n not in rest},
    )


def one_site(labels: np.ndarray, name: str, seed: int, held_out: HeldOut) -> Part:
    """The part of a site that knows only its own cells (all of them, with these labels), as ``split`` draws it; all are
    test cells if the site is named as held out."""
    test = held_out["test"]
    whole = np.full(len(labels), isinstance(test, list) and name in map(str, test))
    return _part(name, np.arange(len(labels)), labels, whole, held_out, seed)


def _tested_whole(cells: Cells, owner: np.ndarray, seed: int, held_out: HeldOut) -> np.ndarray:
    """Cells (boolean) that are test cells because their whole donor or client is held out."""
    names, test = sorted(set(owner)), held_out["test"]
    if test == "client":
        test = [names[seed % len(names)]]
    if isinstance(test, list):
        _known(test, names, "split.test")
        return np.isin(owner, list(map(str, test)))
    if test == "donors":
        return _whole_donors(cells.donors, owner, held_out["test_share"], np.random.default_rng((seed, 3)))
    return np.zeros(len(cells), dtype=bool)


def _part(name: str, rows: np.ndarray, labels: np.ndarray, whole: np.ndarray, held_out: HeldOut, seed: int) -> Part:
    """Assign roles to a client's cells; of two or more that are not tested, each other role gets at least one. Cells
    that may be of several types are for training alone. Drawn from the seed and the client's name alone, so that a site
    draws the same whoever else takes part."""
    rng = np.random.default_rng((seed, 2, zlib.crc32(name.encode())))
    share = held_out["test_share"] if held_out["test"] == "cells" else 0.0
    known = labels[rows] >= 0
    tested = whole[rows] | _drawn(known, labels[rows], share, rng)
    kept, known_kept = rows[~tested], known[~tested]
    validated = _drawn(known_kept, labels[kept], held_out["validation"], rng)
    if held_out["validation"] and len(kept) > 1 and known_kept.any() and not validated.any():
        validated[np.flatnonzero(known_kept)[rng.integers(known_kept.sum())]] = True
    if len(kept) and validated.all():
        validated[0] = False
    return Part(name, train=kept[~validated], validation=kept[validated], test=rows[tested & known])


def _drawn(known: np.ndarray, labels: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """A share (boolean) of the cells whose type is known."""
    drawn = np.zeros(len(labels), dtype=bool)
    drawn[known] = stratified_share(labels[known], share, rng)
    return drawn


def _whole_donors(donors: np.ndarray, owner: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Cells (boolean) of a random ``share`` of donors, at least one; if any client has several, each keeps one."""
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
            "split.test=donors: each donor is some client's only one, which it must keep; use split.test=cells"
        )
    return np.isin(donors, list(chosen))


def stratified_share(labels: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Draw a random ``share`` of cells (boolean), stratified by cell type, singletons included.

    Systematic sampling over cells sorted by type: the share is met to within one cell by type and in total, which
    rounding type by type would not achieve.
    """
    order = np.lexsort((rng.random(len(labels)), labels))
    ticks = np.floor(np.arange(len(labels) + 1) * share + rng.random())
    chosen = np.empty(len(labels), dtype=bool)
    chosen[order] = np.diff(ticks) > 0
    return chosen


def _known(chosen: Sequence[str | int], names: list[str], setting: str) -> set[str]:
    """Names of the chosen clients (chunks are numbered); InputError if one is unknown or none would remain."""
    known = set(map(str, chosen))
    if unknown := known - set(names):
        raise InputError(f"{setting} names {', '.join(sorted(unknown))}; the clients are {listed(names)}")
    if len(known) >= len(names):
        raise InputError(f"{setting} holds out all {len(names)} clients; at least one must remain to train")
    return known


def check_parts(parts: Sequence[Part], needs_test: bool, needs_validation: bool) -> None:
    """InputError for a part without cells to train on, or in a role that it needs."""
    for part in parts:
        lacks = (needs_test and not len(part.test)) or (needs_validation and not len(part.validation))
        if len(part.train) == 0 or lacks:
            total = len(part.train) + len(part.validation) + len(part.test)
            raise InputError(
                f"client {part.name!r} has {total} cells, too few to train, validate and test on; choose another "
                "data.client_key, fewer split.clients, or another split.test_share"
            )
