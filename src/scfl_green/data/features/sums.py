"""Normalised counts, and their sums by gene: all that clients share before training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np
from scipy import sparse

from scfl_green.data.partition import Part
from scfl_green.data.reading.cells import Cells

TARGET_SUM = 1e4
# Cells whose values are held in float64 at once.
BLOCK = 1024
# Sums are integers, in units of 2**-40, so that they do not depend on the order of addition.
UNIT = 2.0**-40


def normalise(
    counts: sparse.csr_matrix, preprocess: bool, depth: np.ndarray | None = None
) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """Counts per 10,000 by cell, and log(1 + x) of these (CSR, float32); without ``preprocess``, both are the values
    unchanged. ``depth``: the counts of each cell, if it has others than these."""
    if not preprocess:
        return counts, counts
    if depth is None:
        depth = depths(counts)
    normalised = counts.astype(np.float32, copy=True)
    normalised.data *= np.repeat(TARGET_SUM / np.maximum(depth, 1), np.diff(counts.indptr)).astype(np.float32)
    logged = normalised.copy()
    np.log1p(logged.data, out=logged.data)
    return normalised, logged


def depths(counts: sparse.csr_matrix) -> np.ndarray:
    """The counts of each cell (float64)."""
    return np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()


@dataclass(frozen=True)
class GeneSums:
    """A client's sums by gene over its training cells; over clients they add up exactly to those of the pooled cells.

    ``n`` counts cells by type. ``linear`` (2 x 2 x genes) holds the sums of x and of x^2 of the normalised counts,
    ``logged`` (2 x 2 x types x genes) those of their log, by type. The first axis holds whole part and remainder,
    both int64, the latter in units of 2**-40: exact up to eight million cells of any depth.
    """

    n: np.ndarray
    linear: np.ndarray
    logged: np.ndarray

    @classmethod
    def from_cells(cls, cells: Cells, rows: np.ndarray, preprocess: bool) -> "GeneSums":
        n_types = len(cells.types)
        sums = cls.zeros(n_types, cells.counts.shape[1])
        for start in range(0, len(rows), BLOCK):
            block = rows[start : start + BLOCK]
            everyone = np.ones((1, len(block)), dtype=np.int64)
            member = (cells.labels[block], np.arange(len(block)))
            by_type = sparse.csr_matrix((everyone[0], member), shape=(n_types, len(block)))
            normalised, logs = normalise(cells.counts[block], preprocess)
            sums.linear[:] += _exact_sums(sparse.csr_matrix(everyone), normalised)[:, :, 0]
            sums.logged[:] += _exact_sums(by_type, logs)
        sums.n[:] = np.bincount(cells.labels[rows], minlength=n_types)
        return sums

    @classmethod
    def zeros(cls, n_types: int, n_genes: int) -> "GeneSums":
        """The sums of no cells."""
        linear, logged = (2, 2, n_genes), (2, 2, n_types, n_genes)
        return cls(np.zeros(n_types, np.int64), np.zeros(linear, np.int64), np.zeros(logged, np.int64))

    def __add__(self, other: "GeneSums") -> "GeneSums":
        return GeneSums(self.n + other.n, self.linear + other.linear, self.logged + other.logged)

    def sums(self, field: str = "logged") -> np.ndarray:
        """Sums of x and of x^2 (2 x genes, or 2 x types x genes) in float64."""
        whole, remainder = getattr(self, field)
        return whole + remainder * UNIT

    def mean_and_variance(self, field: str = "logged") -> tuple[np.ndarray, np.ndarray]:
        """Mean and unbiased variance of ``linear`` or ``logged`` values by gene, over all cells."""
        sums, n = (self.sums("linear") if field == "linear" else self.sums().sum(axis=1)), self.n.sum()
        mean = sums[0] / n
        return mean, np.maximum(sums[1] - n * mean**2, 0) / max(n - 1, 1)


def pooled(parts: Sequence[Part], sums_of: Callable[[Part], GeneSums], **_: object) -> GeneSums:
    """Add up the sums of all parts in this process."""
    return reduce(add, map(sums_of, parts))


def _exact_sums(groups: sparse.csr_matrix, values: sparse.csr_matrix) -> np.ndarray:
    """Sums of x and x^2 over ``groups`` of cells (groups x cells), as whole parts and remainders."""
    totals = []
    for power in (1, 2):
        data = values.data.astype(np.float64) ** power
        whole = np.floor(data)
        for part in (whole, np.rint((data - whole) / UNIT)):
            integers = sparse.csr_matrix((part.astype(np.int64), values.indices, values.indptr), values.shape)
            totals.append((groups @ integers).toarray())
    return np.array(totals).reshape(2, 2, *totals[0].shape).swapaxes(0, 1)
