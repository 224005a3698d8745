"""Synthetic cells, of the size and depth of real ones, for use where those are not available."""

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from scipy import sparse

# Standard deviations of log expression (of genes, a type's marker genes, a donor's genes) and of log depth.
GENE_SPREAD, TYPE_SPREAD, DONOR_SPREAD, DEPTH_SPREAD = 2.0, 1.0, 0.2, 0.4
MARKERS = 0.1  # share of genes
# Variance / mean - 1.
OVERDISPERSION = 0.5


def write(to: Path, *, cells: int, genes: int, types: int, donors: int, depth: float, seed: int) -> None:
    """Write an h5ad file of synthetic counts, one donor at a time.

    Gamma-Poisson: a gene's count in a cell is Poisson with a mean drawn from a Gamma distribution, whose own mean is
    the cell's depth (log-normal around ``depth``) x the gene's share in the cell's type and donor, and whose shape
    is proportional to that, so that variance = 1.5 x mean. Shares are a log-normal baseline x log-normal effects of
    the type on a tenth of the genes, and of the donor on all. Each donor has its own mix of types, drawn from a
    Dirichlet distribution around shares that fall by a quarter from type to type.

    Drawn as a Poisson number of logarithmic clusters (Quenouille 1949): the same distribution, at a cost proportional
    to the counts, not to cells x genes.
    """
    rng = np.random.default_rng(seed)
    base = rng.normal(0, GENE_SPREAD, genes)
    type_effects = rng.normal(0, TYPE_SPREAD, (types, genes)) * (rng.random((types, genes)) < MARKERS)
    draft = to.with_name(f".{to.name}.part")
    obs = []
    with h5py.File(draft, "w") as file:
        for donor, n_cells in enumerate(len(part) for part in np.array_split(np.arange(cells), donors)):
            donor_effects = rng.normal(0, DONOR_SPREAD, genes)
            labels = _labels(n_cells, types, rng)
            for label, size in zip(*np.unique(labels, return_counts=True), strict=True):
                share = np.exp(base + type_effects[label] + donor_effects)
                for block in _counts(share / share.sum(), size, depth, rng):
                    _append(file, block)
            names = [f"type {label + 1:0{len(str(types))}d}" for label in labels]
            obs.append(pd.DataFrame({"cell_type": names, "donor_id": f"donor {donor + 1:0{len(str(donors))}d}"}))
        _finish(file, pd.concat(obs, ignore_index=True), genes)
    draft.replace(to)


def _labels(n_cells: int, types: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the types of one donor's cells, sorted: at least two of each if there are enough cells, so that each type
    can be trained and tested on."""
    mix = 0.75 ** np.arange(types)
    labels = np.concatenate([
        np.repeat(np.arange(types), 2)[:n_cells],
        rng.choice(types, max(0, n_cells - 2 * types), p=rng.dirichlet(10 * mix / mix.sum() * types)),
    ])  # fmt: skip
    labels.sort()
    return labels


def _finish(file: h5py.File, obs: pd.DataFrame, genes: int) -> None:
    from anndata.io import write_elem  # slow to import

    obs = obs.astype("category")
    obs.index = pd.Index([f"cell{number}" for number in range(len(obs))])
    write_elem(file, "obs", obs)
    write_elem(file, "var", pd.DataFrame(index=pd.Index([f"gene{number}" for number in range(genes)])))
    write_elem(file, "uns", {"source": "synthetic: gamma-Poisson counts with type and donor effects"})
    file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})


def _counts(share: np.ndarray, n_cells: int, depth: float, rng: np.random.Generator) -> Iterator[sparse.csr_matrix]:
    """Draw counts of one donor's cells of one type, in small blocks."""
    step = max(1, int(2e7 / depth))
    for start in range(0, n_cells, step):
        depths = depth * np.exp(rng.normal(0, DEPTH_SPREAD, min(step, n_cells - start)))
        clusters = np.maximum(rng.poisson(depths * np.log1p(OVERDISPERSION) / OVERDISPERSION), 1)
        gene = np.searchsorted(share.cumsum() / share.sum(), rng.random(clusters.sum())).clip(max=len(share) - 1)
        sizes = rng.logseries(OVERDISPERSION / (1 + OVERDISPERSION), len(gene)).astype(np.float32)
        cell = np.repeat(np.arange(len(depths)), clusters)
        yield sparse.csr_matrix((sizes, (cell, gene)), shape=(len(depths), len(share)))


def _append(file: h5py.File, block: sparse.csr_matrix) -> None:
    from anndata.io import sparse_dataset, write_elem

    if "X" in file:
        sparse_dataset(file["X"]).append(block)
    else:
        write_elem(file, "X", block)
