"""From counts to features: normalise, log, choose genes, centre, scale; every statistic from training cells only."""

from collections.abc import Callable
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

    ``n`` counts cells by type. ``linear`` (2 x genes) holds sum and sum of squares of the normalised counts,
    ``logged`` (2 x types x genes) those of their log(1 + x), by type; all in float64.
    """

    n: np.ndarray
    linear: np.ndarray
    logged: np.ndarray

    @classmethod
    def of(cls, normalised: sparse.csr_matrix, labels: np.ndarray, n_types: int) -> "GeneSums":
        n_cells, n_genes = normalised.shape
        logged = normalised.astype(np.float64)
        np.log1p(logged.data, out=logged.data)
        of_type = sparse.csr_matrix((np.ones(n_cells), (labels, np.arange(n_cells))), shape=(n_types, n_cells))
        linear = normalised.data.astype(np.float64)
        return cls(
            n=np.bincount(labels, minlength=n_types),
            linear=np.stack([np.bincount(normalised.indices, values, n_genes) for values in (linear, linear**2)]),
            logged=np.stack([(of_type @ power).toarray() for power in (logged, logged.power(2))]),
        )

    def __add__(self, other: "GeneSums") -> "GeneSums":
        return GeneSums(self.n + other.n, self.linear + other.linear, self.logged + other.logged)

    def mean_and_variance(self, of: str = "logged") -> tuple[np.ndarray, np.ndarray]:
        """Mean and unbiased variance by gene over all cells, of ``linear`` or ``logged`` values."""
        sums, n = (self.linear if of == "linear" else self.logged.sum(axis=1)), self.n.sum()
        mean = sums[0] / n
        return mean, np.maximum(sums[1] - n * mean**2, 0) / max(n - 1, 1)


ChooseGenes = Callable[[GeneSums], np.ndarray]


def all_genes(sums: GeneSums) -> np.ndarray:
    """Every gene."""
    return np.arange(sums.linear.shape[1])


def highly_variable(sums: GeneSums, n_genes: int) -> np.ndarray:
    """Positions (sorted) of the genes whose dispersion stands out among genes of similar mean.

    Satija et al. 2015 (Nature Biotechnology 33, Online Methods), as scanpy's ``flavor="seurat"`` computes it:
    log variance-to-mean ratio, z-scored within 20 bins of log mean.
    """
    mean, variance = sums.mean_and_variance("linear")
    mean = np.where(mean == 0, 1e-12, mean)
    with np.errstate(divide="ignore"):
        dispersion = np.log(variance / mean)
    genes = pd.DataFrame({"dispersion": np.where(np.isfinite(dispersion), dispersion, np.nan)})
    within = genes.groupby(pd.cut(np.log1p(mean), bins=20), observed=True)["dispersion"]
    # A gene alone in its bin has no spread to be compared with: it scores one, as in Seurat.
    centre, spread = within.transform("mean"), within.transform("std")
    alone = spread.isna()
    score = (genes["dispersion"] - centre.where(~alone, 0)) / spread.where(~alone, centre)
    return _highest(score.fillna(-np.inf).to_numpy(), n_genes)


def between_within(sums: GeneSums, n_genes: int) -> np.ndarray:
    """Positions (sorted) of the genes with the highest ratio of between-type to within-type sum of squares.

    Dudoit et al. 2002 (JASA 97:77, section 2.3), the gene filter of scDLC (Zhou et al. 2022, "Methods").
    """
    return _highest(between_within_ratio(sums), n_genes)


def between_within_ratio(sums: GeneSums) -> np.ndarray:
    """BSS/WSS by gene, of log-normalised values; 0 for a gene that does not vary."""
    n = np.maximum(sums.n, 1)[:, None]
    explained = (sums.logged[0] ** 2 / n).sum(axis=0)
    between = explained - sums.logged[0].sum(axis=0) ** 2 / sums.n.sum()
    within = sums.logged[1].sum(axis=0) - explained
    return np.divide(between, within, out=np.zeros_like(between), where=within > 1e-9)


def _highest(score: np.ndarray, n_genes: int) -> np.ndarray:
    return np.sort(np.argsort(-score, kind="stable")[:n_genes])


@dataclass(frozen=True)
class Preparation:
    """How counts become features, learnt from training cells: the genes chosen, in descending order of BSS/WSS,
    and the mean and the scale by which their log-normalised values are centred and divided.

    ``scale`` is one where values are only centred, and their standard deviation where they are standardised.
    """

    genes: np.ndarray
    symbols: np.ndarray
    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def learn(cls, cells: Cells, sums: GeneSums, choose_genes: ChooseGenes, standardise: bool) -> "Preparation":
        chosen = choose_genes(sums)
        # Most telling first: the order in which scDLC reads them.
        chosen = chosen[np.argsort(-between_within_ratio(sums)[chosen], kind="stable")]
        mean, variance = (moment[chosen] for moment in sums.mean_and_variance())
        scale = np.sqrt(variance) if standardise else np.ones_like(variance)
        return cls(
            genes=cells.genes[chosen],
            symbols=cells.symbols[chosen],
            mean=mean.astype(np.float32),
            scale=np.where(scale > 0, scale, 1).astype(np.float32),
        )

    def apply(self, cells: Cells, normalised: sparse.csr_matrix) -> sparse.csr_matrix:
        """Log-normalised values of the chosen genes (cells x chosen genes, CSR), not yet centred."""
        position = pd.Index(cells.genes).get_indexer(pd.Index(self.genes))
        if (absent := position < 0).any():
            raise InputError(
                f"{absent.sum()} of the {len(position)} genes that the weights were trained on are not in this "
                f"dataset, {', '.join(self.genes[absent][:3])} among them; bring a file that has them"
            )
        features = normalised[:, position]
        features.data = np.log1p(features.data)
        return features
