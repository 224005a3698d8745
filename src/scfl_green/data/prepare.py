"""From counts to features: normalise, log, choose genes, standardise; every statistic from training cells only."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse

from scfl_green.data.cells import Cells
from scfl_green.errors import InputError

TARGET_SUM = 1e4


def normalise(counts: sparse.csr_matrix) -> sparse.csr_matrix:
    """Counts per 10,000 of each cell (CSR, float32), not yet logged."""
    depth = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    normalised = counts.astype(np.float32, copy=True)
    normalised.data *= np.repeat(TARGET_SUM / depth, np.diff(counts.indptr)).astype(np.float32)
    return normalised


@dataclass(frozen=True)
class GeneSums:
    """What a client tells of its training cells: sums by gene that add up to those of the pooled cells.

    ``n`` cells; ``linear`` and ``logged`` are 2 x genes (float64): sum and sum of squares of the normalised
    counts and of their log(1 + x).
    """

    n: int
    linear: np.ndarray
    logged: np.ndarray

    @classmethod
    def of(cls, normalised: sparse.csr_matrix) -> "GeneSums":
        linear = normalised.data.astype(np.float64)
        logged = np.log1p(normalised.data).astype(np.float64)

        def by_gene(values: np.ndarray) -> np.ndarray:
            return np.bincount(normalised.indices, weights=values, minlength=normalised.shape[1])

        return cls(
            n=normalised.shape[0],
            linear=np.stack([by_gene(linear), by_gene(linear**2)]),
            logged=np.stack([by_gene(logged), by_gene(logged**2)]),
        )

    def __add__(self, other: "GeneSums") -> "GeneSums":
        return GeneSums(self.n + other.n, self.linear + other.linear, self.logged + other.logged)


def _moments(n: int, sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean = sums[0] / n
    return mean, np.maximum(sums[1] - n * mean**2, 0) / max(n - 1, 1)


def highly_variable(sums: GeneSums, n_genes: int) -> np.ndarray:
    """Positions (sorted) of the genes whose dispersion stands out among genes of similar mean.

    Satija et al. 2015 (Nature Biotechnology 33, Online Methods), as scanpy's ``flavor="seurat"`` computes it:
    log variance-to-mean ratio, z-scored within 20 bins of log mean.
    """
    mean, variance = _moments(sums.n, sums.linear)
    if len(mean) <= n_genes:
        return np.arange(len(mean))
    mean = np.where(mean == 0, 1e-12, mean)
    with np.errstate(divide="ignore"):
        dispersion = np.log(variance / mean)
    genes = pd.DataFrame({"dispersion": np.where(np.isfinite(dispersion), dispersion, np.nan)})
    within = genes.groupby(pd.cut(np.log1p(mean), bins=20), observed=True)["dispersion"]
    # A gene alone in its bin has no spread to be compared with: it scores one, as in Seurat.
    centre, spread = within.transform("mean"), within.transform("std")
    alone = spread.isna()
    score = (genes["dispersion"] - centre.where(~alone, 0)) / spread.where(~alone, centre)
    return np.sort(np.argsort(-score.fillna(-np.inf).to_numpy(), kind="stable")[:n_genes])


@dataclass(frozen=True)
class Preparation:
    """How counts become features, learnt from training cells: the genes chosen and the mean and standard
    deviation of their log-normalised values."""

    genes: np.ndarray
    symbols: np.ndarray
    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def learn(cls, cells: Cells, sums: GeneSums, n_genes: int) -> "Preparation":
        chosen = highly_variable(sums, n_genes)
        mean, variance = _moments(sums.n, sums.logged[:, chosen])
        std = np.sqrt(variance)
        return cls(
            genes=cells.genes[chosen],
            symbols=cells.symbols[chosen],
            mean=mean.astype(np.float32),
            std=np.where(std > 0, std, 1).astype(np.float32),
        )

    def apply(self, cells: Cells, normalised: sparse.csr_matrix) -> sparse.csr_matrix:
        """Log-normalised values of the chosen genes (cells x chosen genes, CSR), not yet standardised."""
        position = pd.Index(cells.genes).get_indexer(pd.Index(self.genes))
        if (absent := position < 0).any():
            raise InputError(
                f"{absent.sum()} of the {len(position)} genes that the weights were trained on are not in this "
                f"dataset, {', '.join(self.genes[absent][:3])} among them; bring a file that has them"
            )
        features = normalised[:, position]
        features.data = np.log1p(features.data)
        return features
