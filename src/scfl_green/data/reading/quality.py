"""Checks of cells and their values after reading."""

from pathlib import Path

import numpy as np

from scfl_green.data.reading.rows import StoredRows
from scfl_green.errors import InputError

# Expressed genes from which identical cells are copies.
MIN_GENES = 20
# Largest feature whose sums of squares stay exact, and largest whole number that float32 holds with all below.
LARGEST, MOST_COUNTS = 1e6, 2.0**24


def check_sizes(place: str, found: tuple[int, int], n_obs: int, n_var: int) -> None:
    if found != (n_obs, n_var) or 0 in found:
        raise InputError(
            f"{place} has {found[0]} cells x {found[1]} genes, obs {n_obs} and var {n_var} rows; "
            "the sizes must agree and not be 0: write the file again"
        )


def check_range(values: np.ndarray, place: str, most: float) -> None:
    if wrong := int((~np.isfinite(values)).sum()):
        raise InputError(f"{place} holds {wrong} NaN or infinite values; remove their cells")
    if (largest := np.abs(values).max(initial=0)) > most:
        raise InputError(f"{place} holds values up to {largest:.3g}, at most {most:.3g} are expected; rescale them")


def check_empty(matrix: StoredRows, first: int, n_cells: int, path: Path) -> None:
    if empty := int((np.diff(matrix.indptr[first : first + n_cells + 1]) == 0).sum()):
        raise InputError(
            f"{path}: {empty} of {n_cells} cells have no counts; remove them (scanpy.pp.filter_cells), or keep "
            "them with data.keep_empty=true"
        )


def check_copies(matrix: StoredRows, names: np.ndarray, origins: np.ndarray) -> None:
    """InputError for duplicate cells, under any name and in any file: they could be both trained and tested on.
    Cells with few expressed genes may be identical by chance."""
    candidates = np.flatnonzero(np.diff(matrix.indptr) >= MIN_GENES)
    # Identical rows have the same product with random weights; other rows differ.
    weights = np.random.default_rng(0).random(matrix.shape[1])
    products = np.concatenate([block @ weights for block in matrix.blocks()])[candidates]
    order = np.argsort(products, kind="stable")
    ties = np.flatnonzero(np.diff(products[order]) == 0)
    pairs = [candidates[order[at : at + 2]] for at in ties]
    if copies := [pair for pair in pairs if (matrix[pair[:1]] != matrix[pair[1:]]).nnz == 0]:
        one, other = (f"{names[row]!r} of {origins[row]}" for row in copies[0])
        raise InputError(
            f"{len(copies)} cells occur twice, such as {one} and {other}, and could be both trained and tested on; "
            "keep one of each"
        )
