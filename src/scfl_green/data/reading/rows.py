"""A sparse matrix whose values lie on disk, so that a dataset may be larger than memory."""

import os
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import IO

import numpy as np
from scipy import sparse

from scfl_green.errors import InputError


class StoredRows:
    """Rows (CSR, float32) that are written once, and read when they are asked for: ``rows[start:stop]`` or
    ``rows[numbers]`` is a ``csr_matrix``.

    Eight bytes a value, in files without a name in the system's folder for temporary files (``TMPDIR``), which vanish
    with this object. InputError if that folder has no room for them.
    """

    def __init__(self, blocks: Iterable[sparse.csr_matrix], n_columns: int) -> None:
        self._data, self._indices = (tempfile.TemporaryFile(buffering=0) for _ in range(2))  # noqa: SIM115
        for file in (self._data, self._indices):
            weakref.finalize(self, file.close)
        lengths = [np.zeros(1, dtype=np.int64)]
        try:
            for block in blocks:
                _write(self._data, block.data.astype(np.float32, copy=False))
                _write(self._indices, block.indices.astype(np.int32, copy=False))
                lengths.append(np.diff(block.indptr))
        except OSError as error:
            folder = tempfile.gettempdir()
            raise InputError(f"{folder}: no room for the counts ({error}); name a larger folder in TMPDIR") from error
        self.indptr = np.concatenate(lengths).cumsum()
        self._written = np.cumsum([0, *map(len, lengths[1:])])
        self.shape = (len(self.indptr) - 1, n_columns)

    def __getitem__(self, rows: slice | np.ndarray) -> sparse.csr_matrix:
        numbers = np.arange(self.shape[0])[rows]
        starts, stops = self.indptr[numbers], self.indptr[numbers + 1]
        # Neighbours are read together.
        first, last = np.diff(numbers, prepend=-2) != 1, np.diff(numbers, append=-2) != 1
        spans = list(zip(starts[first].tolist(), stops[last].tolist(), strict=True))
        n_values = int((stops - starts).sum())
        data, indices = np.empty(n_values, np.float32), np.empty(n_values, np.int32)
        _read(self._data, data, spans)
        _read(self._indices, indices, spans)
        pointers = np.append(0, (stops - starts).cumsum())
        return sparse.csr_matrix((data, indices, pointers), (len(numbers), self.shape[1]))

    def blocks(self) -> Iterator[sparse.csr_matrix]:
        """All rows, as many at once as were written at once."""
        yield from (self[start:stop] for start, stop in pairwise(self._written))


def in_columns(block: sparse.csr_matrix, position: np.ndarray, n_columns: int) -> sparse.csr_matrix:
    """The same rows, each of their columns at its ``position`` among others; those at the same one are added up."""
    columns = position[block.indices].astype(np.int32)
    placed = sparse.csr_matrix((block.data, columns, block.indptr), (block.shape[0], n_columns))
    placed.sum_duplicates()
    return placed


def _write(file: IO[bytes], values: np.ndarray) -> None:
    left = values.view(np.uint8).data
    while left:
        left = left[file.write(left) :]


def _read(file: IO[bytes], values: np.ndarray, spans: Iterable[tuple[int, int]]) -> None:
    """Read values of four bytes from so many spans of them."""
    left = values.view(np.uint8).data
    for start, stop in spans:
        at = 4 * start
        while at < 4 * stop:
            read = os.preadv(file.fileno(), [left[: 4 * stop - at]], at)
            at, left = at + read, left[read:]
