"""Cells a second of our batches, beside anndata's AnnLoader and a plain copy of the same batches in memory."""

from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import torch
from anndata.experimental import AnnLoader
from torch.utils.data import DataLoader

from benchmarks.measure import Row, interleaved
from scfl_green.data.features.datamodule import Batches, Features
from scfl_green.data.reading.cells import Cells
from scfl_green.data.reading.file import Reading
from scfl_green.data.sources.local import packaged

BATCH_SIZE, N_GENES = 128, 3000


def rows(quick: bool, cache: Path) -> Iterator[Row]:
    n_cells = 2000 if quick else 20_000
    cells = Cells.read(packaged("pancreas"), Reading("cell_type", None))
    # The most often expressed genes, and cells over and over: batches as wide and as many as a larger file's.
    genes = np.sort(np.argsort(-cells.counts[:].getnnz(axis=0))[:N_GENES])
    chosen = np.resize(np.arange(len(cells)), n_cells)
    matrix = cells.counts[:][:, genes][chosen]
    labels = cells.labels[chosen]
    dense = matrix.toarray()
    features = Features(matrix, np.full(matrix.shape[1], -0.1, dtype=np.float32), labels)
    obs = pd.DataFrame({"cell_type": pd.Categorical(labels)}, index=[f"cell{n}" for n in range(n_cells)])
    adata = ad.AnnData(matrix, obs=obs)

    def ours() -> None:
        batches = Batches(np.arange(n_cells), BATCH_SIZE, [0], packed=True)
        for epoch in DataLoader(features, sampler=batches, batch_size=None):
            for _ in epoch:
                pass

    def ann_loader() -> None:
        for batch in AnnLoader(adata, batch_size=BATCH_SIZE, shuffle=True):
            _ = batch.X, batch.obs["cell_type"]

    sites = [adata[site::11].copy() for site in range(11)]

    def ann_loader_of_files() -> None:
        for batch in AnnLoader(sites, batch_size=BATCH_SIZE, shuffle=True):
            _ = batch.X, batch.obs["cell_type"]

    def copy() -> None:
        for batch in Batches(np.arange(n_cells), BATCH_SIZE, [0]):
            _ = torch.from_numpy(dense[batch]), torch.from_numpy(labels[batch])

    others = {"AnnLoader": ann_loader, "AnnLoader of 11 files": ann_loader_of_files, "memory copy": copy}
    times = interleaved({"ours": ours, **others}, 1 if quick else 7)
    for name in others:
        yield Row(name, n_cells / times[name].median(), "cells a second")
    for name, target in zip(others, (1.0, 1.0, None), strict=True):
        faster = times[name].over(times["ours"])
        yield Row(
            "our batches", n_cells / times["ours"].median(), "cells a second", name, faster, target, at_least=True
        )
