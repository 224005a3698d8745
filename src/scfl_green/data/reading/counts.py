"""Finds and recognises the counts among the matrices of an h5ad file."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from scfl_green.data.reading.matrix import blocks, shape
from scfl_green.data.reading.quality import LARGEST, MOST_COUNTS, check_range
from scfl_green.errors import InputError, listed

# Searched for counts in this order; a matrix of more genes goes first, since layers lack those that were not chosen.
PLACES = ("layers/counts", "raw/X", "X")
# What to do with values that are no counts: log-normalising logged ones again, or not normalising others, would make
# results worse.
LOGGED = ", or use the values as features with data.preprocess=none"
UNLOGGED = ", or, if these are counts without ambient RNA, estimates (RSEM) or normalised counts, data.fractions=true"
IF_LOGGED = ", or, if these are logarithms, use the values as features with data.preprocess=none"
EITHER = UNLOGGED + IF_LOGGED
# Values from which logarithms can be told, and the bases that are recognised: log(1 + x), log2(1 + x), log10(1 + x).
FEWEST, LOGGED_BELOW = 100, 20
UNDO: tuple[Callable[[np.ndarray], np.ndarray], ...] = (np.expm1, lambda x: np.exp2(x) - 1, lambda x: 10**x - 1)


@dataclass(frozen=True)
class Kind:
    """The values that are expected: whole numbers, or ``fractions`` of them too; any numbers if they are used as
    features, without ``preprocess``."""

    preprocess: bool = True
    fractions: bool = False


def find(file: Mapping[str, Any], wanted: str | None, kind: Kind) -> str:
    """Find the counts: ``wanted``, or of the ``PLACES`` whose first cells look like counts the first of the most genes
    (``X`` if values are used as features unchanged). InputError says what was found instead."""
    if wanted is not None:
        place = "raw/X" if wanted == "raw.X" else wanted
        if place not in file:
            there = [p for p in ("X", "raw/X", *(f"layers/{name}" for name in file.get("layers", ()))) if p in file]
            raise InputError(f"data.counts={wanted}: no such matrix; there are {', '.join(there) or 'none'}")
        return place
    places = [place for place in PLACES if place in file]
    if not places:
        raise InputError(f"the file has no X, no raw.X and no layers['counts']; {_wanted(file)}")
    if not kind.preprocess:
        return "X" if "X" in places else places[0]
    problems, good = {}, []
    for place in places:
        first = next(blocks(file[place]), None)
        empty = first is not None and first.nnz == 0 < min(first.shape)
        if (found := ("only zeros", "") if empty else problem(first, kind)) is None:
            good.append(place)
        else:
            problems[place] = found
    if not good:
        raise _refusal(problems, file)
    return max(good, key=lambda place: shape(file[place])[1])


def read(file: Mapping[str, Any], place: str, kind: Kind, columns: np.ndarray) -> Iterator[sparse.csr_matrix]:
    """Read some ``columns`` (boolean) of the matrix in blocks of cells, counts as whole numbers; InputError for values
    of another kind."""
    for block in blocks(file[place], columns):
        if kind.preprocess and (found := problem(block, kind)):
            raise _refusal({place: found}, file)
        check_range(block.data, place, MOST_COUNTS if kind.preprocess else LARGEST)
        if kind.preprocess and not kind.fractions:
            np.rint(block.data, out=block.data)
            block.eliminate_zeros()
        yield block


def told(file: Mapping[str, Any], place: str, kind: Kind) -> str:
    """What the values are taken for, by the first cells."""
    if not kind.preprocess:
        return "features"
    values = next(blocks(file[place])).data
    if (values == np.floor(values)).all():
        return "counts"
    return "fractions of counts" if kind.fractions else "counts, whole up to rounding,"


def problem(block: sparse.csr_matrix | None, kind: Kind) -> tuple[str, str] | None:
    """Describe values that are not of this kind, and what to do instead; None for those that are."""
    if block is None or block.nnz == 0:
        return None
    values = block.data
    if not np.isfinite(values).all():
        return f"{int((~np.isfinite(values)).sum())} NaN or infinite values", ""
    if (values < 0).any() and (values == np.floor(values)).all():
        return f"negative whole numbers, down to {values.min():.0f}, as counts that their type could not hold", ""
    if (values < 0).any():
        return f"negative values, down to {values.min():.3g}, as in scaled data", LOGGED
    if len(values) > 1000 and (values == 1).all():
        return "only zeros and ones, as in binarised data", LOGGED
    if (values == np.floor(values)).all():
        return None
    if (
        len(values) >= FEWEST
        and values.max() < LOGGED_BELOW
        and (logged := next(filter(None, (_logged(block, undo) for undo in UNDO)), None))
    ):
        return logged, LOGGED
    if kind.fractions or _whole(values).all():
        return None
    if depth := _equal_depth(block):
        return f"normalised values (cells add up to {depth:.0f})", UNLOGGED
    advice = UNLOGGED if values.max() >= LOGGED_BELOW else EITHER
    return f"non-integer values, such as {values[~_whole(values)][0]:.4g}", advice


def _logged(block: sparse.csr_matrix, undo: Callable[[np.ndarray], np.ndarray]) -> str | None:
    """Describe values that are logarithms, which ``undo`` undoes."""
    counts = block.copy()
    counts.data = undo(block.data.astype(np.float64))
    if depth := _equal_depth(counts):
        return f"log-normalised values (cells add up to {depth:.0f} before the log)"
    if np.abs(counts.data - counts.data.round()).max() < 1e-2:
        return "log-transformed counts"
    # Of some genes only: multiples of each cell's smallest value, which was a count of one.
    starts, lengths = counts.indptr[:-1][np.diff(counts.indptr) > 0], np.diff(counts.indptr)
    multiples = counts.data / np.repeat(np.minimum.reduceat(counts.data, starts), lengths[lengths > 0])
    return "log-normalised values" if np.mean(np.abs(multiples - multiples.round()) < 1e-2) > 0.9 else None


def _equal_depth(block: sparse.csr_matrix) -> float | None:
    """What every cell adds up to, if that is the same."""
    depth = np.asarray(block.sum(axis=1, dtype=np.float64)).ravel()
    depth = depth[depth > 0]
    return float(depth.mean()) if len(depth) > 2 and depth.std() < 1e-3 * depth.mean() else None


def _whole(values: np.ndarray) -> np.ndarray:
    """Which values are whole numbers up to the rounding of what made them, which grows with them."""
    return np.abs(values - np.rint(values)) <= np.minimum(1e-3 + 1e-5 * values, 0.05)


def _refusal(problems: Mapping[str, tuple[str, str]], file: Mapping[str, Any]) -> InputError:
    found = "; ".join(f"{place} holds {what}" for place, (what, _) in problems.items())
    advice = {advice for _, advice in problems.values()}
    instead = next((words for words in (UNLOGGED, EITHER, LOGGED) if words in advice), "")
    return InputError(f"{found}; {_wanted(file)}{instead}")


def _wanted(file: Mapping[str, Any]) -> str:
    others = listed(f"layers/{name}" for name in file.get("layers", ()))
    return f"raw counts are expected: set data.counts to their place (layers here: {others})"
