"""The cells of a dataset: counts, cell types and clients, checked as they are read."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy import sparse

from scfl_green.data.agreement import Agreement, Common
from scfl_green.data.reading import counts
from scfl_green.data.reading.file import File, Reading
from scfl_green.data.reading.genes import GeneNames
from scfl_green.data.reading.naming import check_dropped
from scfl_green.data.reading.preflight import opened
from scfl_green.data.reading.quality import check_copies, check_empty
from scfl_green.data.reading.rows import StoredRows, in_columns
from scfl_green.errors import InputError, listed


@dataclass(frozen=True)
class Cells:
    """The cells of a dataset.

    ``counts`` is cells x genes (float32, non-negative integers unless read otherwise; rows of it are CSR); ``genes``
    and ``symbols`` name its columns; ``labels`` index ``types``, the sorted cell types of all clients; ``clients``
    and ``donors`` are names by cell; ``notes`` tell how the files were read, a line each; ``type_ids`` are the Cell
    Ontology ids of the types, None where the files have none, and ``files`` the names of each file's own genes. A
    label -2 stands for any of the types ``broad[0]``, -3 for those of ``broad[1]``, and so on.
    """

    counts: StoredRows | sparse.csr_matrix
    genes: np.ndarray
    symbols: np.ndarray
    labels: np.ndarray
    types: tuple[str, ...]
    clients: np.ndarray
    donors: np.ndarray
    notes: tuple[str, ...] = ()
    type_ids: tuple[str | None, ...] = ()
    files: Mapping[str, GeneNames] = field(default_factory=dict)
    broad: tuple[tuple[int, ...], ...] = ()

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
        owners = set().union(*(of_cell for file in files for of_cell in (file.clients, file.donors)))
        check_dropped(reading.drop_clients, owners, "data.drop_clients")
        told = {file.name: file.told() for file in files}
        common = Common(reading.min_cells_per_type, reading.min_gene_overlap, tuple(reading.drop_types))
        return cls.of(files, Agreement.of(told, common).checked(), reading)

    @classmethod
    def of(cls, files: Sequence["File"], agreed: Agreement, reading: Reading) -> "Cells":
        """The cells of files whose types and genes are as ``agreed``."""
        labels = [np.array([agreed.renamed.get(n, n) for n in file.labels], dtype=object) for file in files]
        kept = [np.isin(names, [*agreed.types, *agreed.broad]) for names in labels]
        matrix, places = _assemble(files, kept, agreed, reading)
        names = np.concatenate([of_file[k] for of_file, k in zip(labels, kept, strict=True)])
        clients, donors = (
            np.concatenate([getattr(file, what)[k] for file, k in zip(files, kept, strict=True)])
            for what in ("clients", "donors")
        )
        if lost := set(np.concatenate([file.clients for file in files])) - {*clients, *reading.drop_clients}:
            raise InputError(f"client {min(lost)!r} has no cells left of a kept cell type; remove this client")
        number = {name: n for n, name in enumerate(agreed.types)} | {
            name: -2 - n for n, name in enumerate(agreed.broad)
        }
        numbers = np.array([number[name] for name in names], dtype=np.int64)
        broad = tuple(tuple(number[kind] for kind in kinds) for kinds in agreed.broad.values())
        notes = (*(note for file in files for note in file.notes), *places, *agreed.notes)
        return cls(
            matrix, agreed.genes, agreed.symbols, numbers, agreed.types, clients, donors, notes, agreed.type_ids,
            {file.name: file.genes for file in files}, broad,
        )  # fmt: skip


def _assemble(
    files: Sequence[File], kept: Sequence[np.ndarray], agreed: Agreement, reading: Reading
) -> tuple[StoredRows, list[str]]:
    """Bring together the counts of all kept cells and all genes, and note where each file's were found."""
    notes = []
    for file in files:
        with opened(file.path) as h5:
            notes.append(f"{file.name}: {counts.told(h5, file.place, reading.kind)} from {file.place}")

    def blocks() -> Iterator[sparse.csr_matrix]:
        for file, keep in zip(files, kept, strict=True):
            position, done = agreed.positions[file.name], 0
            with opened(file.path) as h5:
                for block in counts.read(h5, file.place, reading.kind, file.is_gene):
                    yield in_columns(block, position, len(agreed.genes))[keep[done : (done := done + block.shape[0])]]

    matrix = StoredRows(blocks(), len(agreed.genes))
    _check_cells(matrix, files, kept, reading.keep_empty)
    return matrix, notes


def _check_cells(matrix: StoredRows, files: Sequence[File], kept: Sequence[np.ndarray], keep_empty: bool) -> None:
    """InputError for cells without counts, unless these are kept, and for duplicate cells."""
    sizes = [int(keep.sum()) for keep in kept]
    if not keep_empty:
        for file, first, size in zip(files, np.cumsum([0, *sizes[:-1]]), sizes, strict=True):
            check_empty(matrix, int(first), size, file.path)
    cells = np.concatenate([file.cells[keep] for file, keep in zip(files, kept, strict=True)])
    check_copies(matrix, cells, np.repeat([file.path.name for file in files], sizes))
