"""Cells to annotate: of an h5ad file, read in blocks, or of an AnnData object."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd
from scipy import sparse

from scfl_green.data.reading import counts, genes
from scfl_green.data.reading.matrix import shape
from scfl_green.data.reading.measured import COLUMNS, genes_of
from scfl_green.data.reading.preflight import no_column, opened, table
from scfl_green.data.reading.quality import check_sizes
from scfl_green.data.reading.text import decoded

if TYPE_CHECKING:
    from anndata import AnnData

# Reads the columns of obs or var that exist; ``attrs["all"]`` names all.
Table = Callable[[Iterable[str | None]], pd.DataFrame]


@dataclass(frozen=True)
class Source:
    """What an opened file, or an AnnData object, holds: its matrices by place, and its tables."""

    matrices: Mapping[str, Any]
    obs: Table
    var: Table
    raw_var: Table
    obsm: Mapping[str, Any]


@dataclass(frozen=True)
class NewCells:
    """Cells that need no labels: how to open their source, where their counts are, of what kind, which of their columns
    are genes (boolean), the names of these, and notes on how the cells are read."""

    opened: Callable[[], AbstractContextManager[Source]]
    place: str
    kind: counts.Kind
    is_gene: np.ndarray
    genes: genes.GeneNames
    n_cells: int
    notes: tuple[str, ...]

    @classmethod
    def of_file(cls, path: Path, wanted: str | None, gene_key: str | None, kind: counts.Kind) -> "NewCells":
        """The cells of an h5ad file, whose counts are ``wanted`` or found; InputError if it cannot be read."""
        return cls._of(partial(_opened, path), wanted, gene_key, kind)

    @classmethod
    def of_adata(cls, adata: "AnnData", wanted: str | None, gene_key: str | None, kind: counts.Kind) -> "NewCells":
        """The cells of an AnnData object, in memory or backed, which is only read."""
        return cls._of(lambda: nullcontext(_held(adata)), wanted, gene_key, kind)

    @classmethod
    def _of(
        cls,
        opened: Callable[[], AbstractContextManager[Source]],
        wanted: str | None,
        gene_key: str | None,
        kind: counts.Kind,
    ) -> "NewCells":
        with opened() as source:
            place = counts.find(source.matrices, wanted, kind)
            var = source.raw_var if place == "raw/X" else source.var
            named = var((gene_key, *COLUMNS))
            size = shape(source.matrices[place])
            check_sizes(place, size, len(source.obs(())), len(named))
            is_gene, others = genes_of(named)
            what = f"{counts.told(source.matrices, place, kind)} from {place}"
            names = genes.GeneNames.from_var(named[is_gene], gene_key)
            return cls(opened, place, kind, is_gene, names, size[0], (what, others) if others else (what,))

    def blocks(self) -> Iterator[sparse.csr_matrix]:
        """Read the counts in blocks of cells; InputError for values that are not counts."""
        with self.opened() as source:
            yield from counts.read(source.matrices, self.place, self.kind, self.is_gene)

    def column(self, key: str, setting: str) -> pd.Series:
        """A column of ``obs``; InputError, with the nearest name, if there is none."""
        with self.opened() as source:
            obs = source.obs((key,))
        if key not in obs:
            raise no_column(setting, key, "obs", obs.attrs["all"])
        return obs[key]

    def names(self) -> pd.Index:
        """The names of the cells."""
        with self.opened() as source:
            return source.obs(()).index

    def umap(self) -> np.ndarray | None:
        """The first two columns of ``obsm["X_umap"]``, if there are any."""
        with self.opened() as source:
            if "X_umap" not in source.obsm:
                return None
            places = np.asarray(source.obsm["X_umap"][:, :2], dtype=np.float32)
        return places if places.shape == (self.n_cells, 2) else None


@contextmanager
def _opened(path: Path) -> Iterator[Source]:
    with opened(path) as file:
        # Others, such as tables, have no columns by number.
        arrays = {name: item for name, item in file.get("obsm", {}).items() if isinstance(item, h5py.Dataset)}
        obs, var, raw_var = (partial(table, file.get(name)) for name in ("obs", "var", "raw/var"))
        yield Source(file, obs, var, raw_var, arrays)


def _held(adata: "AnnData") -> Source:
    matrices: dict[str, Any] = {"layers": list(adata.layers)}
    matrices |= {f"layers/{name}": values for name, values in adata.layers.items()}
    matrices |= {"raw/X": adata.raw.X} if adata.raw is not None else {}
    matrices |= {"X": adata.X} if adata.X is not None else {}
    obsm = {name: item for name, item in adata.obsm.items() if isinstance(item, np.ndarray)}
    raw_var = adata.var if adata.raw is None else adata.raw.var
    obs, var, raw = (partial(_columns, frame) for frame in (adata.obs, adata.var, raw_var))
    return Source(matrices, obs, var, raw, obsm)


def _columns(frame: pd.DataFrame, wanted: Iterable[str | None]) -> pd.DataFrame:
    found = pd.DataFrame(index=decoded(frame.index))
    for name in dict.fromkeys(name for name in wanted if name is not None):
        if name in frame:
            found[name] = decoded(frame[name]).array
        elif name == frame.index.name:
            found[name] = found.index
    found.attrs["all"] = [str(name) for name in frame]
    return found
