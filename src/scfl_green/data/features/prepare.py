"""From counts to features: choose genes, centre, scale; every statistic from training cells only."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse

from scfl_green.bounds import Count
from scfl_green.data.features.asked import AskedSums
from scfl_green.data.features.sums import BLOCK, GeneSums, normalise
from scfl_green.data.reading.cells import Cells
from scfl_green.data.wire import Arrays, Packed, packed_places, packed_text, unpacked_places, unpacked_text
from scfl_green.errors import InputError

CLIP = 10.0

ChooseGenes = Callable[[AskedSums], np.ndarray]


def all_genes(sums: AskedSums) -> np.ndarray:
    """Choose every gene."""
    return np.arange(sums.n_genes)


def highly_variable(sums: AskedSums, n_genes: Count) -> np.ndarray:
    """Choose the genes (sorted positions) whose dispersion is highest among genes of similar mean.

    Satija et al. 2015 (Nature Biotechnology 33, Online Methods), as scanpy's ``flavor="seurat"`` computes it:
    log variance-to-mean ratio, z-scored within 20 bins of log mean.
    """
    mean, variance = sums.linear.mean_and_variance()
    if (mean < 0).any():
        raise InputError("genes=highly_variable is for counts; these features have negative means: choose genes=all")
    mean = np.where(mean == 0, 1e-12, mean)
    with np.errstate(divide="ignore"):
        dispersion = np.log(variance / mean)
    genes = pd.DataFrame({"dispersion": np.where(np.isfinite(dispersion), dispersion, np.nan)})
    within = genes.groupby(pd.cut(np.log1p(mean), bins=20), observed=True)["dispersion"]
    # A gene alone in its bin has no spread to compare with and scores 1, as in Seurat.
    centre, spread = within.transform("mean"), within.transform("std")
    alone = spread.isna()
    score = (genes["dispersion"] - centre.where(~alone, 0)) / spread.where(~alone, centre)
    return _highest(score.fillna(-np.inf).to_numpy(), n_genes)


def between_within(sums: AskedSums, n_genes: Count) -> np.ndarray:
    """Choose the genes (sorted positions) with the highest ratio of between-type to within-type sum of squares.

    Dudoit et al. 2002 (JASA 97:77, section 2.3), the gene filter of scDLC (Zhou et al. 2022, "Methods").
    """
    return _highest(between_within_ratio(sums.logged), n_genes)


def between_within_ratio(sums: GeneSums) -> np.ndarray:
    """BSS/WSS of log-normalised values by gene; 0 for a constant gene."""
    n, (values, squares) = np.maximum(sums.n, 1)[:, None], sums.sums()
    explained = (values**2 / n).sum(axis=0)
    between = explained - values.sum(axis=0) ** 2 / sums.n.sum()
    within = squares - explained
    return np.divide(between, within, out=np.zeros_like(between), where=within > 1e-9)


def _highest(score: np.ndarray, n_genes: int) -> np.ndarray:
    return np.sort(np.argsort(-score, kind="stable")[:n_genes])


@dataclass(frozen=True)
class Preparation:
    """How counts become features, learnt from training cells: the chosen genes, in descending order of BSS/WSS, and
    the mean and scale by which their log-normalised values are centred and divided.

    ``scale`` is the standard deviation, or 1 if values are only centred; without ``preprocess``, values are not
    log-normalised first.
    """

    genes: np.ndarray
    symbols: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    preprocess: bool = True

    @classmethod
    def learn(
        cls, sums: AskedSums, choose_genes: ChooseGenes, standardise: bool, preprocess: bool = True
    ) -> "Preparation":
        """Learn it from sums over training cells, from which alone it is known."""
        chosen = choose_genes(sums)
        logged = sums.logged_of(chosen)
        # Most informative first: the order in which scDLC reads genes.
        order = np.argsort(-between_within_ratio(logged), kind="stable")
        chosen = chosen[order]
        mean, variance = (moment[order] for moment in logged.mean_and_variance())
        scale = np.sqrt(variance) if standardise else np.ones_like(variance)
        return cls(
            genes=sums.agreement.genes[chosen],
            symbols=sums.agreement.symbols[chosen],
            mean=mean.astype(np.float32),
            scale=np.where(scale > 0, scale, 1).astype(np.float32),
            preprocess=preprocess,
        )

    def packed(self, genes: np.ndarray) -> Packed:
        """What a site needs to apply it, given the ``genes`` that all agree on."""
        names = {name: getattr(self, name).tolist() for name in ("genes", "symbols")}
        places = packed_places(self.positions(genes))
        about = packed_text(names | {"preprocess": self.preprocess})
        moments = {name: getattr(self, name).astype("<f4").view(np.uint8) for name in ("mean", "scale")}
        return {"about": about, "positions": places, **moments}

    @classmethod
    def unpacked(cls, question: Arrays, n_genes: int) -> tuple["Preparation", np.ndarray]:
        """Undo ``packed`` at a site, where ``n_genes`` are agreed on: the preparation, and names of all these, which
        are numbers where it does not use a gene; ValueError for anything else."""
        about, (mean, scale) = (
            unpacked_text(question["about"]),
            (question[name].view("<f4") for name in ("mean", "scale")),
        )
        names, symbols = (np.array([*map(str, about[name])], dtype=object) for name in ("genes", "symbols"))
        places = unpacked_places(question["positions"], len(names))
        same = len(names) == len(symbols) == len(set(names)) == len(set(places)) > 0
        if not same or any(moment.shape != names.shape for moment in (mean, scale)):
            raise ValueError("a preparation of another form")
        finite = np.isfinite([mean, scale]).all() and (scale > 0).all()
        if not finite or not 0 <= places.min() <= places.max() < n_genes:
            raise ValueError("a preparation of genes that are not there, or by no finite number")
        every = np.array([f" {number}" for number in range(n_genes)], dtype=object)  # no name begins with a space
        every[places] = names
        return cls(names, symbols, mean, scale, bool(about["preprocess"])), every

    def positions(self, genes: np.ndarray) -> np.ndarray:
        """Positions of the chosen genes in a dataset's ``genes``; InputError if one is missing."""
        position = pd.Index(genes).get_indexer(pd.Index(self.genes))
        if (absent := position < 0).any():
            raise InputError(
                f"weights: {absent.sum()} of the {len(position)} genes they were trained on are not in this dataset, "
                f"such as {', '.join(self.genes[absent][:3])}; use a file that has them"
            )
        return position

    def apply(self, cells: Cells) -> Iterator[sparse.csr_matrix]:
        """Yield the features of all cells, in blocks of cells."""
        position = self.positions(cells.genes)
        for start in range(0, len(cells), BLOCK):
            yield self.features(normalise(cells.counts[start : start + BLOCK], self.preprocess)[1][:, position])

    def features(self, values: sparse.csr_matrix) -> sparse.csr_matrix:
        """Features of log-normalised values (cells x chosen genes, CSR, float32), in their place: centred, scaled,
        clipped at ±10, minus ``floor``, so that zero counts stay unstored zeros."""
        values.sort_indices()
        gene, floor = values.indices, self.floor
        centred = (values.data - self.mean[gene]) / self.scale[gene]
        values.data = np.clip(centred, -CLIP, CLIP) - floor[gene]
        return values

    def key(self) -> str:
        """A hash of everything that determines the features."""
        text = json.dumps([self.genes.tolist(), self.preprocess]).encode()
        return hashlib.sha256(text + self.mean.tobytes() + self.scale.tobytes()).hexdigest()

    @property
    def floor(self) -> np.ndarray:
        """The feature of a zero count, by gene."""
        return np.clip(-self.mean / self.scale, -CLIP, CLIP)
