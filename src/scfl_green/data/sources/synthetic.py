"""Made-up cells, of the size and depth of real ones, where those cannot be had."""

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from anndata.io import sparse_dataset, write_elem
from scipy import sparse

# Of log expression: spread of genes, of a type's tenth of marker genes, of a donor's genes; of log depth among cells.
GENE_SPREAD, TYPE_SPREAD, DONOR_SPREAD, DEPTH_SPREAD = 2.0, 1.0, 0.2, 0.4
MARKERS = 0.1
# Variance over mean, less one.
OVERDISPERSION = 0.5


def write(to: Path, *, cells: int, genes: int, types: int, donors: int, depth: float, seed: int) -> None:
    """An h5ad file of synthetic counts, written a donor at a time.

    Gamma-Poisson: a gene's count in a cell is Poisson with a mean drawn from a Gamma distribution, whose own mean is
    the cell's depth (log-normal around ``depth``) x the gene's share in the cell's type and donor, and whose shape
    is proportional to that, so that variance = 1.5 x mean. Shares are a log-normal baseline x log-normal effects of
    the type on a tenth of the genes, and of the donor on all. Each donor has a mix of types of its own, drawn from
    a Dirichlet distribution around shares that fall by a quarter from type to type.

    Drawn as the sum of logarithmic clusters whose number is Poisson (Quenouille 1949), the same distribution at a
    cost of the counts and not of cells x genes.
    """
    rng = np.random.default_rng(seed)
    base = rng.normal(0, GENE_SPREAD, genes)
    of_type = rng.normal(0, TYPE_SPREAD, (types, genes)) * (rng.random((types, genes)) < MARKERS)
    draft = to.with_name(f".{to.name}.part")
    obs = []
    with h5py.File(draft, "w") as file:
        for donor, n_cells in enumerate(len(part) for part in np.array_split(np.arange(cells), donors)):
            of_donor = rng.normal(0, DONOR_SPREAD, genes)
            labels = _labels(n_cells, types, rng)
            for label, size in zip(*np.unique(labels, return_counts=True), strict=True):
                share = np.exp(base + of_type[label] + of_donor)
                for block in _counts(share / share.sum(), size, depth, rng):
                    _append(file, block)
            names = [f"type {label + 1:0{len(str(types))}d}" for label in labels]
            obs.append(pd.DataFrame({"cell_type": names, "donor_id": f"donor {donor + 1:0{len(str(donors))}d}"}))
        _finish(file, pd.concat(obs, ignore_index=True), genes)
    draft.replace(to)


def _labels(n_cells: int, types: int, rng: np.random.Generator) -> np.ndarray:
    """Types of one donor's cells, sorted: at least two of each where there is room, so that none is too rare to be
    trained and tested on."""
    mix = 0.75 ** np.arange(types)
    labels = np.concatenate([
        np.repeat(np.arange(types), 2)[:n_cells],
        rng.choice(types, max(0, n_cells - 2 * types), p=rng.dirichlet(10 * mix / mix.sum() * types)),
    ])  # fmt: skip
    labels.sort()
    return labels


def _finish(file: h5py.File, obs: pd.DataFrame, genes: int) -> None:
    obs = obs.astype("category")
    obs.index = pd.Index([f"cell{number}" for number in range(len(obs))])
    write_elem(file, "obs", obs)
    write_elem(file, "var", pd.DataFrame(index=pd.Index([f"gene{number}" for number in range(genes)])))
    write_elem(file, "uns", {"source": "synthetic: gamma-Poisson counts with type and donor effects"})
    file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})


def _counts(share: np.ndarray, n_cells: int, depth: float, rng: np.random.Generator) -> Iterator[sparse.csr_matrix]:
    """Counts of cells of one type and donor, with as many in a block as keep it small."""
    step = max(1, int(2e7 / depth))
    for start in range(0, n_cells, step):
        depths = depth * np.exp(rng.normal(0, DEPTH_SPREAD, min(step, n_cells - start)))
        clusters = np.maximum(rng.poisson(depths * np.log1p(OVERDISPERSION) / OVERDISPERSION), 1)
        gene = np.searchsorted(share.cumsum() / share.sum(), rng.random(clusters.sum())).clip(max=len(share) - 1)
        sizes = rng.logseries(OVERDISPERSION / (1 + OVERDISPERSION), len(gene)).astype(np.float32)
        cell = np.repeat(np.arange(len(depths)), clusters)
        yield sparse.csr_matrix((sizes, (cell, gene)), shape=(len(depths), len(share)))


def _append(file: h5py.File, block: sparse.csr_matrix) -> None:
    if "X" in file:
        sparse_dataset(file["X"]).append(block)
    else:
        write_elem(file, "X", block)
