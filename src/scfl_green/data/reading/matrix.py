"""Reads the matrix of an h5ad file, or one in memory, in blocks of cells, never as one dense matrix."""

from collections.abc import Callable, Iterator
from typing import Any

import h5py
import numpy as np
from scipy import sparse

from scfl_green.data.reading.text import text
from scfl_green.errors import InputError

# Of one block at most.
BLOCK, BLOCK_VALUES = 4096, 1_000_000
DENSE_BLOCK_BYTES = 64e6
CSC_VALUES = 8_000_000


# Of a file, or in memory: an array, or a sparse matrix.
Matrix = Any


def shape(element: Matrix) -> tuple[int, int]:
    group = isinstance(element, h5py.Group)
    size = element.attrs.get("shape") if group else element.shape
    values = element["data"] if group else element
    if values.dtype.kind not in "biuf":
        raise InputError(f"{_name(element)} holds values of type {values.dtype}; numbers are expected")
    if size is None or len(size) != 2:
        raise InputError(f"{_name(element)} is not a matrix of cells x genes; write the file again")
    return int(size[0]), int(size[1])


def blocks(element: Matrix, columns: np.ndarray | None = None) -> Iterator[sparse.csr_matrix]:
    """Read the matrix, or some of its ``columns`` (boolean), in blocks of cells (CSR, float32, sorted, without stored
    zeros), whatever its encoding."""
    shape(element)
    for block in _reader(element)(element):
        block.sort_indices()
        if _has_duplicates(block):
            raise InputError(f"{_name(element)} has two values for the same cell and gene; run sum_duplicates()")
        block.eliminate_zeros()
        yield block if columns is None or columns.all() else block[:, columns]


def _reader(element: Matrix) -> Callable[[Any], Iterator[sparse.csr_matrix]]:
    if not isinstance(element, h5py.Group | h5py.Dataset):
        return _dense if isinstance(element, np.ndarray) else _sparse
    kind = text(element.attrs.get("encoding-type", "array" if isinstance(element, h5py.Dataset) else ""))
    readers = {"array": _dense, "csr_matrix": _csr, "csc_matrix": _csc}
    if kind not in readers:
        raise InputError(f"{element.name} is encoded as {kind or 'unknown'!r}; {', '.join(readers)} are expected")
    return readers[kind]


def _name(element: Matrix) -> str:
    return getattr(element, "name", "the matrix")


def _dense_rows(element: h5py.Dataset) -> Iterator[slice]:
    n_cells, n_genes = element.shape
    step = int(max(1, DENSE_BLOCK_BYTES // max(1, 4 * n_genes)))
    return (slice(start, min(start + step, n_cells)) for start in range(0, n_cells, step))


def _dense(element: h5py.Dataset) -> Iterator[sparse.csr_matrix]:
    for rows in _dense_rows(element):
        yield sparse.csr_matrix(element[rows], dtype=np.float32)


def _sparse(matrix: Matrix) -> Iterator[sparse.csr_matrix]:
    by_cell = matrix.tocsr() if sparse.issparse(matrix) else matrix
    for start in range(0, by_cell.shape[0], BLOCK):
        yield sparse.csr_matrix(by_cell[start : start + BLOCK], dtype=np.float32, copy=True)


def _csr(group: h5py.Group) -> Iterator[sparse.csr_matrix]:
    n_cells, n_genes = shape(group)
    indptr = _pointers(group, n_cells)
    start = 0
    while start < n_cells:
        enough = int(np.searchsorted(indptr, indptr[start] + BLOCK_VALUES, "right")) - 1
        rows = indptr[start : max(start + 1, min(start + BLOCK, enough, n_cells)) + 1]
        start += len(rows) - 1
        with np.errstate(over="ignore"):
            values = group["data"][rows[0] : rows[-1]].astype(np.float32)
        columns = _indices(group, int(rows[0]), int(rows[-1]), n_genes)
        yield sparse.csr_matrix((values, columns, rows - rows[0]), shape=(len(rows) - 1, n_genes))


def _csc(group: h5py.Group) -> Iterator[sparse.csr_matrix]:
    n_cells, n_genes = shape(group)
    indptr = _pointers(group, n_genes)
    n_stored = int(indptr[-1])
    # Values are stored by gene: read once for every group of cells that fits in memory beside the result.
    step = max(BLOCK, n_cells * CSC_VALUES // max(1, n_stored))
    # Reading part of a compressed chunk decompresses all of it.
    at_once = max([CSC_VALUES // 8, *(group[name].chunks[0] for name in ("data", "indices") if group[name].chunks)])
    for first in range(0, n_cells, step):
        n = min(step, n_cells - first)
        pointers, rows, values = np.zeros_like(indptr), [np.empty(0, np.int32)], [np.empty(0, np.float32)]
        for start in range(0, n_stored, at_once):
            stop = min(start + at_once, n_stored)
            row = _indices(group, start, stop, n_cells) - first
            kept = np.flatnonzero((row >= 0) & (row < n))
            pointers += np.searchsorted(kept, indptr - start)
            rows.append(row[kept])
            with np.errstate(over="ignore"):
                values.append(group["data"][start:stop][kept].astype(np.float32))
        by_gene = np.concatenate(values), np.concatenate(rows), pointers
        cells = sparse.csc_matrix(by_gene, shape=(n, n_genes)).tocsr()
        yield from (cells[start : start + BLOCK] for start in range(0, n, BLOCK))


def _pointers(group: h5py.Group, n: int) -> np.ndarray:
    """Where each row (or column) begins; values after the last one's end are no part of the matrix."""
    indptr, n_stored = group["indptr"][:].astype(np.int64), min(group[name].shape[0] for name in ("data", "indices"))
    if len(indptr) != n + 1 or indptr[0] != 0 or indptr[-1] > n_stored or (np.diff(indptr) < 0).any():
        raise InputError(
            f"{group.name}/indptr does not fit its {n_stored} values: the matrix is damaged, write the file again"
        )
    return indptr


def _indices(group: h5py.Group, start: int, end: int, limit: int) -> np.ndarray:
    found = group["indices"][start:end]
    if found.dtype.kind not in "iu":
        raise InputError(f"{group.name}/indices are of type {found.dtype}, not integers: the matrix is damaged")
    if len(found) and (found.min() < 0 or found.max() >= limit):
        wrong = found[(found < 0) | (found >= limit)][0]
        raise InputError(
            f"{group.name}/indices holds {wrong}, outside 0 to {limit - 1}: the matrix is damaged, write the file again"
        )
    return found.astype(np.int32)


def _has_duplicates(block: sparse.csr_matrix) -> bool:
    same = np.diff(block.indices) == 0
    starts = block.indptr[1:-1]
    same[starts[(starts > 0) & (starts < block.nnz)] - 1] = False
    return bool(same.any())
