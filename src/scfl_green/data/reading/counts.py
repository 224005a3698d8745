"""Finds and recognises the counts among the matrices of an h5ad file."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import sparse

from scfl_green.data.reading.matrix import blocks
from scfl_green.errors import InputError, listed

# Searched for counts in this order.
PLACES = ("layers/counts", "raw/X", "X")
# In training.
OR_FEATURES = ", or use the values as features with data.preprocess=none"


def find(file: Mapping[str, Any], wanted: str | None, preprocess: bool) -> str:
    """Find the counts: ``wanted``, or the first of ``PLACES`` whose first cells look like counts (``X`` if values are
    used as features unchanged). InputError says what was found instead."""
    if wanted is not None:
        place = wanted.replace("raw.X", "raw/X")
        if place not in file:
            there = [p for p in ("X", "raw/X", *(f"layers/{name}" for name in file.get("layers", ()))) if p in file]
            raise InputError(f"data.counts={wanted}: no such matrix; there are {', '.join(there) or 'none'}")
        return place
    places = [place for place in PLACES if place in file]
    if not places:
        raise InputError("the file has no X, no raw.X and no layers['counts']; raw counts are expected (data.counts)")
    if not preprocess:
        return "X" if "X" in places else places[0]
    problems = {}
    for place in places:
        first = next(blocks(file[place]), None)
        problems[place] = "only zeros" if first is not None and first.nnz == 0 < min(first.shape) else not_counts(first)
        if problems[place] is None:
            return place
    raise InputError("; ".join(f"{place} holds {problem}" for place, problem in problems.items()) + f"; {advice(file)}")


def advice(file: Mapping[str, Any]) -> str:
    """What to do if no raw counts are found; ends with ``OR_FEATURES``."""
    others = listed(f"layers/{name}" for name in file.get("layers", ()))
    return f"raw counts are expected: set data.counts to their place (layers here: {others}){OR_FEATURES}"


def not_counts(block: sparse.csr_matrix | None) -> str | None:
    """Describe values that are not counts; None for counts (non-negative integers)."""
    if block is None or block.nnz == 0:
        return None
    values = block.data
    if not np.isfinite(values).all():
        return f"{int((~np.isfinite(values)).sum())} NaN or infinite values"
    if (values < 0).any():
        return f"negative values, down to {values.min():.3g}, as in scaled data"
    if len(values) > 1000 and (values == 1).all():
        return "only zeros and ones, as in binarised data"
    if (values == np.floor(values)).all():
        return None
    if values.max() < 20:
        counts = block.copy()
        counts.data = np.expm1(counts.data.astype(np.float64))
        depth = np.asarray(counts.sum(axis=1)).ravel()
        depth = depth[depth > 0]
        if depth.std() < 1e-3 * depth.mean():
            return f"log-normalised values (cells add up to {depth.mean():.0f} before the log)"
        if np.abs(counts.data - counts.data.round()).max() < 1e-2:
            return "log-transformed counts"
    depth = np.asarray(block.sum(axis=1, dtype=np.float64)).ravel()
    if depth.std() < 1e-3 * depth.mean():
        return f"normalised values (cells add up to {depth.mean():.0f})"
    return f"non-integer values, such as {values[values % 1 > 0][0]:.4g}"
