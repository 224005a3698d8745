"""What cells and their values must be like, when they have been read."""

from pathlib import Path

import numpy as np
from scipy import sparse

from scfl_green.data.reading.counts import BLOCK
from scfl_green.errors import InputError

# Genes above zero from which two cells that are alike are copies.
TELLING_GENES = 20
# Of features: sums of squares must stay exact.
LARGEST = 1e6


def check_range(values: np.ndarray, place: str) -> None:
    if wrong := int((~np.isfinite(values)).sum()):
        raise InputError(f"{place} holds {wrong} NaN or infinite values; remove their cells")
    if (largest := np.abs(values).max(initial=0)) > LARGEST:
        raise InputError(f"{place} holds values up to {largest:.3g}, at most {LARGEST:.0g} are expected; rescale them")


def check_empty(matrix: sparse.csr_matrix, first: int, n_cells: int, path: Path) -> None:
    empty = int((np.diff(matrix.indptr[first : first + n_cells + 1]) == 0).sum())
    if empty:
        raise InputError(
            f"{path}: {empty} of {n_cells} cells have no counts; leave them out (scanpy.pp.filter_cells), or take "
            "them as they are with data.keep_empty=true"
        )


def check_copies(matrix: sparse.csr_matrix, names: np.ndarray, origins: np.ndarray) -> None:
    """InputError for cells that are there twice, under whatever name and in whatever file: they could be trained and
    tested on. Cells of a few genes may well be alike."""
    told_apart = np.flatnonzero(np.diff(matrix.indptr) >= TELLING_GENES)
    # Rows that are alike have the same product with random numbers; those of others differ.
    weights = np.random.default_rng(0).random(matrix.shape[1])
    blocks = (matrix[start : start + BLOCK] @ weights for start in range(0, matrix.shape[0], BLOCK))
    marks = np.concatenate([*blocks])[told_apart]
    order = np.argsort(marks, kind="stable")
    alike = np.flatnonzero(np.diff(marks[order]) == 0)
    pairs = [(told_apart[order[at]], told_apart[order[at + 1]]) for at in alike]
    copies = [(one, other) for one, other in pairs if (matrix[one] != matrix[other]).nnz == 0]
    if copies:
        one, other = (f"{names[row]!r} of {origins[row]}" for row in copies[0])
        raise InputError(
            f"{len(copies)} cells occur twice, {one} as {other} among them, so that they could be "
            "trained and tested on; keep one of each"
        )
