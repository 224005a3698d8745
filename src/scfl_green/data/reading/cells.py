"""The cells of a dataset: counts, cell types and clients, checked as they are read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import Field
from scipy import sparse

from scfl_green.bounds import Count
from scfl_green.data.reading import counts, genes
from scfl_green.data.reading.labels import (
    clean_labels,
    column,
    one_id_each,
    one_registry,
    ontology_column,
    ontology_ids,
)
from scfl_green.data.reading.matrix import blocks, shape, stored
from scfl_green.data.reading.preflight import opened, table
from scfl_green.data.reading.quality import check_copies, check_empty, check_range, check_sizes
from scfl_green.errors import InputError, listed


@dataclass(frozen=True)
class Reading:
    """How files are read: the columns of ``obs`` with cell types, clients (None: one client) and donors (None: the
    clients are donors); see configs/data/h5ad.yaml for the rest."""

    label_key: str
    client_key: str | None = None
    donor_key: str | None = None
    gene_key: str | None = None
    counts: str | None = None
    preprocess: bool = True
    min_cells_per_type: Count | None = None
    min_gene_overlap: Annotated[float, Field(ge=0, le=1)] = 0.5
    drop_unlabelled: bool = False
    keep_empty: bool = False


@dataclass(frozen=True)
class Cells:
    """The cells of a dataset.

    ``counts`` is cells x genes (CSR, float32, non-negative integers unless read without preprocessing); ``genes``
    and ``symbols`` name its columns; ``labels`` index ``types``, the sorted cell types of all clients; ``clients``
    and ``donors`` are names by cell; ``notes`` tell how the files were read, a line each; ``type_ids`` are the Cell
    Ontology ids of the types, None where the files have none.
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

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def read(cls, paths: Sequence[Path], reading: Reading) -> "Cells":
        """Read one h5ad file, or several, each of which is then a client named after its file.

        InputError, naming the file, if its cells cannot be used for training.
        """
        files = [_File.read(path, reading, alone=len(paths) == 1) for path in paths]
        if len({file.name for file in files}) < len(files):
            raise InputError(
                f"data.path: files with the same name, {listed(paths)}; each is a client and needs a name of its own"
            )
        types, kept, dropped = one_registry([file.labels for file in files], reading.min_cells_per_type)
        space = genes.match({file.name: file.genes for file in files}, reading.min_gene_overlap)
        matrix, places = _assemble(files, kept, space, reading)
        names = np.concatenate([file.labels[k] for file, k in zip(files, kept, strict=True)])
        ids, several = one_id_each(types, [file.type_ids for file in files])
        notes = (*(file.notes for file in files if file.notes), *places, *space.notes, *dropped, *several)
        clients, donors = (
            np.concatenate([getattr(file, field)[k] for file, k in zip(files, kept, strict=True)])
            for field in ("clients", "donors")
        )
        if lost := set(np.concatenate([file.clients for file in files])) - set(clients):
            raise InputError(f"client {min(lost)!r} has no cells left of a kept cell type; remove this client")
        labels = pd.Index(types).get_indexer(pd.Index(names)).astype(np.int64)
        return cls(matrix, space.names, space.symbols, labels, types, clients, donors, notes, ids)


@dataclass(frozen=True)
class _File:
    """Metadata of a file, read before its counts; ``labels`` are cell type names, "" for a cell to leave out."""

    path: Path
    place: str
    name: str
    labels: np.ndarray
    clients: np.ndarray
    donors: np.ndarray
    cells: np.ndarray
    genes: genes.GeneNames
    notes: str
    type_ids: dict[str, set[str]]

    @classmethod
    def read(cls, path: Path, reading: Reading, alone: bool) -> "_File":
        with opened(path) as file:
            place = counts.find(file, reading.counts, reading.preprocess)
            read = (reading.label_key, reading.client_key, reading.donor_key)
            obs = table(file["obs"], (*read, ontology_column(reading.label_key)))
            columns = (reading.gene_key, *genes.SYMBOL_COLUMNS, *genes.ID_COLUMNS)
            var = table(file["raw/var" if place == "raw/X" else "var"], columns)
            n_cells, n_genes = shape(file[place])
            check_sizes(place, (n_cells, n_genes), len(obs), len(var))
            labels, notes = clean_labels(obs, reading.label_key, reading.drop_unlabelled)
            type_ids = ontology_ids(obs, reading.label_key, labels)
            clients = np.full(n_cells, "all" if alone else path.stem, dtype=object)
            if alone and reading.client_key is not None:
                clients = column(obs, reading.client_key, "data.client_key")
                if len(set(clients)) == 1:
                    raise InputError(
                        f"data.client_key={reading.client_key}: all cells belong to {clients[0]!r}; name a column with "
                        "several clients, or simulate clients with split=iid data.client_key=null"
                    )
            donors = clients if reading.donor_key is None else column(obs, reading.donor_key, "data.donor_key")
            if not alone:  # donor 1 of one site is not donor 1 of another
                donors = clients + "/" + donors if reading.donor_key is not None else clients
            names = genes.GeneNames.from_var(var, reading.gene_key)
        cells = obs.index.astype(str).to_numpy()
        notes = notes and f"{path.stem}: {notes}"
        return cls(path, place, path.stem, labels, clients, donors, cells, names, notes, type_ids)


def _assemble(
    files: list[_File], kept: list[np.ndarray], space: genes.GeneSpace, reading: Reading
) -> tuple[sparse.csr_matrix, list[str]]:
    """Build one matrix of all kept cells and all genes, and note where each file's counts were found.

    Filled block by block into arrays allocated once: there is never a second copy in memory.
    """
    capacity = 0
    for file in files:
        with opened(file.path) as h5:
            capacity += stored(h5[file.place])
    values, columns = np.empty(capacity, dtype=np.float32), np.empty(capacity, dtype=np.int32)
    lengths, filled = [np.zeros(1, dtype=np.int64)], 0
    for file, keep, position in zip(files, kept, space.positions, strict=True):
        done = 0
        with opened(file.path) as h5:
            for block in blocks(h5[file.place]):
                if reading.preprocess and (problem := counts.not_counts(block)):
                    raise InputError(f"{file.place} holds {problem}; {counts.advice(h5)}")
                check_range(block.data, file.place)
                block = _matched(block, position, len(space.names))[keep[done : (done := done + block.shape[0])]]
                values[filled : filled + block.nnz], columns[filled : filled + block.nnz] = block.data, block.indices
                lengths.append(np.diff(block.indptr))
                filled += block.nnz
    indptr = np.concatenate(lengths).cumsum()
    matrix = sparse.csr_matrix((values[:filled], columns[:filled], indptr), shape=(len(indptr) - 1, len(space.names)))
    _check_cells(matrix, files, kept, reading.keep_empty)
    kind = "counts" if reading.preprocess else "features"
    return matrix, [f"{file.name}: {kind} from {file.place}" for file in files]


def _check_cells(
    matrix: sparse.csr_matrix, files: Sequence[_File], kept: Sequence[np.ndarray], keep_empty: bool
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
