"""Cells a second of our batches, beside anndata's AnnLoader and a plain copy of the same batches in memory.

python -m benchmarks.loader [FILE.h5ad]: medians of interleaved repeats, one thread; the embedded dataset by default.
"""

import sys
import time
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import torch
from anndata.experimental import AnnLoader
from torch.utils.data import DataLoader

from scfl_green.data.cells import Cells, Reading
from scfl_green.data.datamodule import Batches, Features
from scfl_green.data.sources import packaged

BATCH_SIZE, N_GENES, N_CELLS, REPEATS = 128, 3000, 20_000, 7


def main(paths: list[Path]) -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    cells = Cells.read(paths, Reading("cell_type", None))
    # The most often expressed genes, and cells over and over: batches as wide and as many as a larger file's.
    genes = np.sort(np.argsort(-cells.counts.getnnz(axis=0))[:N_GENES])
    rows = np.resize(np.arange(len(cells)), N_CELLS)
    matrix = cells.counts[:, genes][rows]
    labels = cells.labels[rows]
    dense = matrix.toarray()
    features = Features(matrix, np.full(matrix.shape[1], -0.1, dtype=np.float32), labels)
    obs = pd.DataFrame({"cell_type": pd.Categorical(labels)}, index=[f"cell{n}" for n in range(N_CELLS)])
    adata = ad.AnnData(matrix, obs=obs)

    def ours() -> None:
        batches = Batches(np.arange(N_CELLS), BATCH_SIZE, [0])
        for _ in DataLoader(features, sampler=batches, batch_size=None):
            pass

    def ann_loader() -> None:
        for batch in AnnLoader(adata, batch_size=BATCH_SIZE, shuffle=True):
            _ = batch.X, batch.obs["cell_type"]

    sites = [adata[site::11].copy() for site in range(11)]

    def ann_loader_of_files() -> None:
        for batch in AnnLoader(sites, batch_size=BATCH_SIZE, shuffle=True):
            _ = batch.X, batch.obs["cell_type"]

    def copy() -> None:
        for batch in Batches(np.arange(N_CELLS), BATCH_SIZE, [0]):
            _ = torch.from_numpy(dense[batch]), torch.from_numpy(labels[batch])

    ways = {"ours": ours, "AnnLoader": ann_loader, "AnnLoader of 11 files": ann_loader_of_files, "memory copy": copy}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(REPEATS):
        for name, run in ways.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    rate = {name: N_CELLS / float(np.median(taken)) for name, taken in seconds.items()}
    print(f"{N_CELLS:,} cells x {matrix.shape[1]:,} genes ({matrix.nnz / dense.size:.0%} of counts above zero)\n")
    print("| | cells a second |\n|---|---|")
    for name, cells_per_second in rate.items():
        print(f"| {name} | {cells_per_second:,.0f} |")
    print()
    for name in [*ways][1:]:
        print(f"ours / {name}: {rate['ours'] / rate[name]:.2f}")


if __name__ == "__main__":
    main([Path(path) for path in sys.argv[1:]] or packaged("pancreas"))
