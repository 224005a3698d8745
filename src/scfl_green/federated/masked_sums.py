"""What is asked under masks: sums by gene before training, sums and histograms for the calibration after it."""

from dataclasses import dataclass

import numpy as np

from scfl_green.data.features.sums import GeneSums
from scfl_green.federated.masks import Arrays
from scfl_green.federated.spans import Form, Span
from scfl_green.models.calibration import BINS, TEMPERATURES
from scfl_green.models.novelty import LARGEST, ProfileSums

# The range of a cell's normalised counts (per 10,000, rounded in float32), and of log(1 + x) of these.
LINEAR_VALUES, LOGGED_VALUES = (0, 10_001), (0, 10)
# Remainders of ``GeneSums`` are in units of 2**-40.
PARTS = 2**40
# The most that a cell adds to a sum of likelihoods.
MOST_LOSS = 2**38


@dataclass(frozen=True)
class Federated:
    """What all sites agree on, from which they know how large sums can be: the number of sites, and of all their cells
    at most. The fewer, the fewer bits."""

    sites: int
    cells: int

    def genes(self, n_groups: int, n_genes: int, values: tuple[int, int]) -> Form:
        """The form of ``gene_arrays``; ``values`` is the range of a cell's value."""
        (low, high), all_cells = values, self.cells
        squares = all_cells * max(-low, high) ** 2
        by_group, by_gene = (n_groups, n_genes), (n_genes,)
        return {
            "n": Span((n_groups,), 0, all_cells),
            "values": Span(by_group, all_cells * low, all_cells * high),
            "values_parts": Span(by_group, 0, self.sites * (PARTS - 1)),
            "squares": Span(by_gene, 0, squares),
            "squares_parts": Span(by_gene, 0, self.sites * (PARTS - 1)),
        }

    def profiles(self, n_types: int, n_genes: int) -> Form:
        """The form of a site's answer to the calibration's first question (``training.calibrate.answer``)."""
        zeros, largest = ProfileSums.zeros(n_types, n_genes), self.cells * LARGEST
        return {
            "likelihood": Span(TEMPERATURES.shape, 0, self.cells * MOST_LOSS),
            "n": Span(zeros.n.shape, 0, self.cells),
            "linear": Span(zeros.linear.shape, -largest, largest),
            "squared": Span(zeros.squared.shape, -largest * LARGEST, largest * LARGEST),
        }

    def histograms(self, n_types: int) -> Form:
        """The form of the answer to the second, with every bin (``models.calibration.histogram``): which bins are
        filled would tell the cells."""
        return {"scores": Span((n_types, BINS), 0, self.cells), "novelty": Span((BINS,), 0, self.cells)}


def gene_arrays(sums: GeneSums) -> dict[str, np.ndarray]:
    """Sums by gene as integers to be masked, the remainders below one."""
    return {"n": sums.n, **_carried("values", sums.values), **_carried("squares", sums.squares)}


def gene_sums(arrays: Arrays) -> GeneSums:
    """Undo ``gene_arrays``, of one site or of the sum over sites."""
    return GeneSums(arrays["n"], *(np.array([arrays[name], arrays[f"{name}_parts"]]) for name in ("values", "squares")))


def _carried(name: str, sums: np.ndarray) -> dict[str, np.ndarray]:
    whole, parts = sums
    return {name: whole + parts // PARTS, f"{name}_parts": parts % PARTS}
