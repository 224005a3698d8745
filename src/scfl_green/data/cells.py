"""Cells: counts, cell types and clients of one dataset, checked as they come in."""

from dataclasses import dataclass, replace

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from scfl_green.errors import InputError


@dataclass(frozen=True)
class Cells:
    """Cells as they were counted.

    ``counts`` is cells x genes (CSR, float32, non-negative integers); ``genes`` and ``symbols`` name its columns;
    ``labels`` are positions in ``types``, the one label registry of all clients (sorted names);
    ``clients`` names for each cell the donor, study or site it belongs to.
    """

    counts: sparse.csr_matrix
    genes: np.ndarray
    symbols: np.ndarray
    labels: np.ndarray
    types: tuple[str, ...]
    clients: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def from_anndata(cls, adata: ad.AnnData, label_key: str, client_key: str | None) -> "Cells":
        """Take counts from ``X``, cell types from ``obs[label_key]`` and clients from ``obs[client_key]``.

        Without a client key all cells belong to one client. Raises InputError for what cannot be trained on.
        """
        counts = _counts(adata)
        labels = _column(adata, label_key, "data.label_key").astype(str).str.strip()
        types, codes = np.unique(labels.to_numpy(dtype=object), return_inverse=True)
        if len(types) < 2:
            raise InputError(f"obs['{label_key}'] has one cell type, {types[0]!r}; a classifier needs at least two")
        clients = np.full(adata.n_obs, "all", dtype=object)
        if client_key is not None:
            clients = _column(adata, client_key, "data.client_key").astype(str).to_numpy(dtype=object)
        symbols = adata.var.get("feature_name", adata.var_names)
        return cls(
            counts=counts,
            genes=adata.var_names.to_numpy(dtype=object),
            symbols=np.asarray(symbols, dtype=object),
            labels=codes.astype(np.int64),
            types=tuple(types),
            clients=clients,
        )

    def labelled_by(self, types: tuple[str, ...]) -> "Cells":
        """The same cells under the label registry of an earlier run; InputError for a type that it lacks."""
        if unknown := set(self.types) - set(types):
            raise InputError(f"the weights know no cell type {', '.join(sorted(unknown))}; remove these cells")
        position = np.array([types.index(name) for name in self.types], dtype=np.int64)
        return replace(self, labels=position[self.labels], types=types)


def _column(adata: ad.AnnData, key: str, setting: str) -> pd.Series:
    if key not in adata.obs:
        raise InputError(f"{setting}={key}: no such column in obs; there are {', '.join(adata.obs.columns)}")
    column = adata.obs[key]
    missing = int(column.isna().sum())
    if missing:
        raise InputError(f"{setting}={key}: {missing} of {len(column)} cells have no value; fill or remove them")
    return column


def _counts(adata: ad.AnnData) -> sparse.csr_matrix:
    if adata.X is None:
        raise InputError("the file has no X; raw counts are expected there")
    if not adata.var_names.is_unique:
        twice = adata.var_names[adata.var_names.duplicated()].unique()
        raise InputError(f"{len(twice)} gene names occur more than once, {twice[0]} among them; make them unique")
    counts = sparse.csr_matrix(adata.X, dtype=np.float32)
    if counts.shape[0] == 0 or counts.shape[1] == 0:
        raise InputError(f"the file has {counts.shape[0]} cells and {counts.shape[1]} genes; both must be above zero")
    values = counts.data
    if not np.isfinite(values).all() or (values < 0).any() or (values % 1).any():
        raise InputError("X holds values that are not counts (fractions, negatives or NaN); raw counts are expected")
    empty = int((np.diff(counts.indptr) == 0).sum())
    if empty:
        raise InputError(f"{empty} of {counts.shape[0]} cells have no counts at all; remove them")
    return counts
