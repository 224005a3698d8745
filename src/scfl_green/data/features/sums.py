"""Normalised counts, and their sums by gene: all that clients share before training."""

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from scfl_green.data.reading.cells import Cells
from scfl_green.data.wire import Arrays, Packed

Values = Callable[[sparse.csr_matrix], sparse.csr_matrix]
ALL_GENES = slice(None)
# Kinds of sums: of the normalised counts over all cells, and of log(1 + x) of these by cell type.
LINEAR, LOGGED = "linear", "logged"

TARGET_SUM = 1e4
# Cells whose values are held in float64 at once.
BLOCK = 1024
# Sums are integers, in units of 2**-40, so that they do not depend on the order of addition.
UNIT = 2.0**-40
# Cell types that packed sums may be of.
MOST_GROUPS = 100_000


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

    ``n`` counts the cells of each group. ``values`` (2 x groups x genes) holds the sums of x by group, ``squares``
    (2 x genes) those of x^2 over all cells. The first axis holds whole part and remainder, both int64, the latter in
    units of 2**-40: exact up to eight million cells of any depth.
    """

    n: np.ndarray
    values: np.ndarray
    squares: np.ndarray

    @classmethod
    def linear(cls, cells: Cells, rows: np.ndarray, preprocess: bool) -> "GeneSums":
        """Sums of the normalised counts of all genes, with all cells as one group."""
        together = np.zeros(len(cells), dtype=np.int64)
        return cls._over(cells, rows, (together, 1), lambda counts: normalise(counts, preprocess)[0])

    @classmethod
    def logged(
        cls, cells: Cells, rows: np.ndarray, preprocess: bool, genes: np.ndarray | slice = ALL_GENES
    ) -> "GeneSums":
        """Sums of log(1 + x) of the normalised counts of ``genes`` (positions), by cell type, over cells of one."""
        by_type = cells.labels, len(cells.types)
        rows = rows[cells.labels[rows] >= 0]
        return cls._over(cells, rows, by_type, lambda counts: normalise(counts, preprocess)[1][:, genes])

    @classmethod
    def _over(cls, cells: Cells, rows: np.ndarray, groups: tuple[np.ndarray, int], of: Values) -> "GeneSums":
        of_cell, n_groups = groups
        n_genes = of(cells.counts[:0]).shape[1]
        values, squares = np.zeros((2, n_groups, n_genes), np.int64), np.zeros((2, 1, n_genes), np.int64)
        for start in range(0, len(rows), BLOCK):
            block = rows[start : start + BLOCK]
            found, ones = of(cells.counts[block]), np.ones(len(block), np.int64)
            member = sparse.csr_matrix((ones, (of_cell[block], np.arange(len(block)))), (n_groups, len(block)))
            values += _exact_sums(member, found, 1)
            squares += _exact_sums(sparse.csr_matrix(ones), found, 2)
        return cls(np.bincount(of_cell[rows], minlength=n_groups), values, squares[:, 0])

    def __add__(self, other: "GeneSums") -> "GeneSums":
        return GeneSums(self.n + other.n, self.values + other.values, self.squares + other.squares)

    def of(self, genes: np.ndarray) -> "GeneSums":
        """The sums of some genes (positions)."""
        return GeneSums(self.n, self.values[..., genes], self.squares[..., genes])

    def sums(self) -> tuple[np.ndarray, np.ndarray]:
        """Sums of x (groups x genes) and of x^2 (genes) in float64."""
        return self.values[0] + self.values[1] * UNIT, self.squares[0] + self.squares[1] * UNIT

    def mean_and_variance(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and unbiased variance by gene, over all cells."""
        (values, squares), n = self.sums(), self.n.sum()
        mean = values.sum(axis=0) / n
        return mean, np.maximum(squares - n * mean**2, 0) / max(n - 1, 1)

    def packed(self) -> Packed:
        """The same in about a tenth of the bytes, without loss: remainders carried over, bytes of equal weight side by
        side, deflated."""
        arrays = {"n": self.n, "values": self.values, "squares": self.squares}
        return {name: _deflated(array if name == "n" else _carried(array)) for name, array in arrays.items()}

    @classmethod
    def unpacked(cls, packed: Arrays, n_genes: int) -> "GeneSums":
        """Undo ``packed``; ValueError or zlib.error for bytes that hold anything but the sums of ``n_genes``."""
        n = _inflated(packed["n"], (-1,), MOST_GROUPS)
        shapes = {"values": (2, len(n), n_genes), "squares": (2, n_genes)}
        return cls(n, *(_inflated(packed[name], shape, math.prod(shape)) for name, shape in shapes.items()))


def _exact_sums(groups: sparse.csr_matrix, values: sparse.csr_matrix, power: int) -> np.ndarray:
    """Sums of x to a power over ``groups`` of cells (groups x cells), as whole parts and remainders."""
    data = values.data.astype(np.float64) ** power
    whole = np.floor(data)
    parts = (whole, np.rint((data - whole) / UNIT))
    integers = (
        sparse.csr_matrix((part.astype(np.int64), values.indices, values.indptr), values.shape) for part in parts
    )
    return np.array([(groups @ part).toarray() for part in integers])


def _carried(sums: np.ndarray) -> np.ndarray:
    """The same sums with remainders below one."""
    whole, remainder = sums
    return np.array([whole + (remainder >> 40), remainder & (2**40 - 1)])


def _deflated(integers: np.ndarray) -> np.ndarray:
    by_weight = np.ascontiguousarray(integers.astype("<i8")).view(np.uint8).reshape(-1, 8).T
    return np.frombuffer(zlib.compress(by_weight.tobytes()), np.uint8)


def _inflated(data: np.ndarray, shape: tuple[int, ...], most: int) -> np.ndarray:
    stream = zlib.decompressobj()
    inflated = stream.decompress(data.tobytes(), 8 * most + 1)
    if not stream.eof:
        raise ValueError(f"more than {most} numbers, or a part of them")
    return np.frombuffer(inflated, np.uint8).reshape(8, -1).T.copy().view("<i8").reshape(shape)
