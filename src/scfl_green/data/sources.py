"""Where a dataset comes from."""

import os
from importlib import resources
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

from scfl_green.errors import InputError


def packaged(name: str) -> ad.AnnData:
    """A dataset that comes with the package: ``pancreas``."""
    if name != "pancreas":
        raise InputError(f"data.source.name={name}: the packaged dataset is pancreas")
    with resources.as_file(resources.files("scfl_green.data") / "packaged" / f"{name}.h5ad") as path:
        return ad.read_h5ad(path)


def shuffled_chunks(path: str, n_chunks: int, size: int, random_state: int, min_cells_per_type: int) -> ad.AnnData:
    """A file cut as the study cut it: rare cell types dropped, cells shuffled, then chunks of ``size`` cells.

    ``obs["chunk"]`` numbers them from 1; the last holds what is left.
    """
    adata = h5ad(path)
    counts = adata.obs["cell_type"].value_counts()
    adata = adata[adata.obs["cell_type"].isin(counts.index[counts >= min_cells_per_type])].copy()
    order = pd.RangeIndex(adata.n_obs).to_series().sample(frac=1, random_state=random_state).to_numpy()
    chunk = np.empty(adata.n_obs, dtype=np.int64)
    chunk[order] = np.minimum(np.arange(adata.n_obs) // size, n_chunks - 1) + 1
    adata.obs["chunk"] = chunk
    return adata


def locate(path: str) -> Path:
    """The file at ``path`` or, for a bare file name, in the folder that ``SCFL_DATA`` names."""
    if not path:
        raise InputError("data.path: the path of an h5ad file is expected")
    places = dict.fromkeys([Path(path).expanduser(), Path(os.environ.get("SCFL_DATA", ".")) / path])
    for place in places:
        if place.is_file():
            return place
    raise InputError(f"no file at {' or '.join(str(p) for p in places)}; set data.path, or SCFL_DATA to its folder")


def h5ad(path: str) -> ad.AnnData:
    """The user's own file."""
    place = locate(path)
    try:
        return ad.read_h5ad(place)
    except Exception as error:  # a broken file can make anndata raise anything
        raise InputError(f"{path}: not a readable h5ad file ({' '.join(str(error).split())})") from error
