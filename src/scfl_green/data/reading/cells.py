"""The cells of a dataset: counts, cell types and clients, checked as they are read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import sparse

from scfl_green.data.agreement import Agreement, Common
from scfl_green.data.reading import counts
from scfl_green.data.reading.file import File, Reading
from scfl_green.data.reading.genes import GeneNames
from scfl_green.data.reading.matrix import stored
from scfl_green.data.reading.preflight import opened
from scfl_green.data.reading.quality import check_copies, check_empty
from scfl_green.errors import InputError, listed


@dataclass(frozen=True)
class Cells:
    """The cells of a dataset.

    ``counts`` is cells x genes (CSR, float32, non-negative integers unless read otherwise); ``genes``
    and ``symbols`` name its columns; ``labels`` index ``types``, the sorted cell types of all clients; ``clients``
    and ``donors`` are names by cell; ``notes`` tell how the files were read, a line each; ``type_ids`` are the Cell
    Ontology ids of the types, None where the files have none, and ``files`` the names of each file's own genes.
    """

    counts: sparse.csr_matrix
    genes: np.ndarray
    symbols: np.ndarray
    labels: np.ndarray
    types: tuple[str, ...]
    clients: np.ndarray
    donors: np.ndarray
    notes: tuple[str, ...] = ()
    type_ids: tuple[str | None, ...] = ()
    files: Mapping[str, GeneNames] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def read(cls, paths: Sequence[Path], reading: Reading) -> "Cells":
        """Read one h5ad file, or several, each of which is then a client named after its file.

        InputError, naming the file, if its cells cannot be used for training.
        """
        files = [File.read(path, reading, alone=len(paths) == 1) for path in paths]
        if len({file.name for file in files}) < len(files):
            raise InputError(
                f"data.path: files with the same name, {listed(paths)}; each is a client and needs a name of its own"
            )
        told = {file.name: file.told() for file in files}
        common = Common(reading.min_cells_per_type, reading.min_gene_overlap, tuple(reading.drop_types))
        return cls.of(files, Agreement.of(told, common).checked(), reading)

    @classmethod
    def of(cls, files: Sequence["File"], agreed: Agreement, reading: Reading) -> "Cells":
        """The cells of files whose types and genes are as ``agreed``."""
        labels = [np.array([agreed.renamed.get(n, n) for n in file.labels], dtype=object) for file in files]
        kept = [np.isin(names, agreed.types) for names in labels]
        matrix, places = _assemble(files, kept, agreed, reading)
        names = np.concatenate([of_file[k] for of_file, k in zip(labels, kept, strict=True)])
        clients, donors = (
            np.concatenate([getattr(file, what)[k] for file, k in zip(files, kept, strict=True)])
            for what in ("clients", "donors")
        )
        if lost := set(np.concatenate([file.clients for file in files])) - set(clients):
            raise InputError(f"client {min(lost)!r} has no cells left of a kept cell type; remove this client")
        numbers = pd.Index(agreed.types).get_indexer(pd.Index(names)).astype(np.int64)
        notes = (*(note for file in files for note in file.notes), *places, *agreed.notes)
        return cls(
            matrix, agreed.genes, agreed.symbols, numbers, agreed.types, clients, donors, notes, agreed.type_ids,
            {file.name: file.genes for file in files},
        )  # fmt: skip


def _assemble(
    files: Sequence[File], kept: Sequence[np.ndarray], agreed: Agreement, reading: Reading
) -> tuple[sparse.csr_matrix, list[str]]:
    """Build one matrix of all kept cells and all genes, and note where each file's counts were found.

    Filled block by block into arrays allocated once: there is never a second copy in memory.
    """
    capacity = 0
    for file in files:
        with opened(file.path) as h5:
            capacity += stored(h5[file.place])
    values, columns = np.empty(capacity, dtype=np.float32), np.empty(capacity, dtype=np.int32)
    lengths, filled, notes = [np.zeros(1, dtype=np.int64)], 0, []
    for file, keep in zip(files, kept, strict=True):
        position, done = agreed.positions[file.name], 0
        with opened(file.path) as h5:
            notes.append(f"{file.name}: {counts.told(h5, file.place, reading.kind)} from {file.place}")
            for block in counts.read(h5, file.place, reading.kind, file.is_gene):
                block = _matched(block, position, len(agreed.genes))[keep[done : (done := done + block.shape[0])]]
                values[filled : filled + block.nnz], columns[filled : filled + block.nnz] = block.data, block.indices
                lengths.append(np.diff(block.indptr))
                filled += block.nnz
    indptr = np.concatenate(lengths).cumsum()
    matrix = sparse.csr_matrix((values[:filled], columns[:filled], indptr), shape=(len(indptr) - 1, len(agreed.genes)))
    _check_cells(matrix, files, kept, reading.keep_empty)
    return matrix, notes


def _check_cells(
    matrix: sparse.csr_matrix, files: Sequence[File], kept: Sequence[np.ndarray], keep_empty: bool
) -> None:
    """InputError for cells without counts, unless these are kept, and for duplicate cells."""
    sizes = [int(keep.sum()) for keep in kept]
    if not keep_empty:
        for file, first, size in zip(files, np.cumsum([0, *sizes[:-1]]), sizes, strict=True):
            check_empty(matrix, int(first), size, file.path)
    cells = np.concatenate([file.cells[keep] for file, keep in zip(files, kept, strict=True)])
    check_copies(matrix, cells, np.repeat([file.path.name for file in files], sizes))


def _matched(block: sparse.csr_matrix, position: np.ndarray, n_genes: int) -> sparse.csr_matrix:
    columns = position[block.indices].astype(np.int32)
    matched = sparse.csr_matrix((block.data, columns, block.indptr), (block.shape[0], n_genes))
    matched.sum_duplicates()
    return matched
