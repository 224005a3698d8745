"""How far a trained model may be believed: its temperature, the sets that hold a cell's type, and what is new to it."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scfl_green.models.novelty import ProfileSums, integers

# The grid of temperatures, in steps of 2%.
TEMPERATURES = 2.0 ** (np.arange(-96, 97) / 32)
# Of summed negative log-likelihoods, which are whole numbers so that they do not depend on the order of addition.
UNIT = 2.0**-24
# Bins of a probability by its log-odds, from -16 to 16, and of novelty by its inverse hyperbolic sine.
BINS, BINS_PER_UNIT = 2048, 64


def likelihood_sums(logits: Tensor, labels: Tensor) -> np.ndarray:
    """The negative log-likelihood of labelled cells at each of ``TEMPERATURES``, summed (int64, in ``UNIT``)."""
    known = labels >= 0
    logits, own = logits[known].double(), labels[known, None]
    losses = (-(logits / t).log_softmax(dim=1).gather(1, own) for t in TEMPERATURES)
    # A cell counts at most 2**14, so that 30 million of them cannot overflow.
    return np.array([int((loss.clamp(max=2.0**14) / UNIT).round().long().sum()) for loss in losses])


def best_temperature(sums: np.ndarray) -> float:
    """The temperature of the highest likelihood, given its sums over all cells (Guo et al. 2017, ICML, "On Calibration
    of Modern Neural Networks", section 4.2).

    Its logarithm has a standard normal prior, without which a few cells that are all right would call for certainty.
    """
    return float(TEMPERATURES[np.argmin(sums * UNIT + np.log(TEMPERATURES) ** 2 / 2)])


@dataclass(frozen=True)
class Calibration:
    """What validation cells tell of a model; built from sums over sites, never from the cells of several at once.

    ``scores`` counts validation cells by type and by bin of the log-odds of that type (types x bins), ``novelty`` by
    bin of their novelty; both int64. ``profiles`` are sums over the training cells that novelty is measured from.
    """

    temperature: float
    scores: np.ndarray
    novelty: np.ndarray
    profiles: ProfileSums

    @property
    def n_cells(self) -> int:
        """The number of validation cells that everything here rests on."""
        return int(self.scores.sum())

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probabilities of the types (cells x types, float64) after temperature."""
        return (logits.double() / self.temperature).softmax(dim=1)

    def prediction_sets(self, probabilities: Tensor, coverage: float = 0.9, by_type: bool = False) -> Tensor:
        """The types that a cell may have, given ``probabilities`` (cells x types, boolean): the true one is among them
        for a share ``coverage`` of cells that are drawn as the validation cells were; empty where no type is likely.

        Split conformal prediction (Vovk et al. 2005, "Algorithmic Learning in a Random World") with the smallest sets
        on average (LAC: Sadinle et al. 2019, JASA 114:223): the types whose probability reaches a threshold. With
        ``by_type``, the share holds for each type that has enough validation cells (1 / (1 - coverage) - 1).
        """
        if not 0 < coverage < 1:
            raise ValueError(f"coverage={coverage}: it must be between 0 and 1")
        # Too few cells for any threshold: every type may be the one.
        thresholds = [_threshold(self.scores.sum(axis=0), coverage) or 0] * len(self.scores)
        if by_type:
            own = [_threshold(counts, coverage) for counts in self.scores]
            thresholds = [pooled if mine is None else mine for mine, pooled in zip(own, thresholds, strict=True)]
        return score_bins(probabilities) >= torch.tensor(thresholds)

    def novelty_p(self, features: Tensor) -> Tensor:
        """The p-value that a cell is like the validation cells, given the network's inputs (cells x genes -> cells,
        float64): the share of them, counting the cell itself, that are at least as unlike the known types
        (``ProfileSums.novelty``). For such cells it is at most alpha for a share alpha (conformal, as the sets are)."""
        at_least = torch.from_numpy(self.novelty[::-1].cumsum()[::-1].copy())
        return (1 + at_least[novelty_bins(self.profiles.novelty(features)).long()]) / (1 + self.n_cells)

    def to_json(self) -> dict[str, Any]:
        """Plain values, which ``from_json`` reads; of histograms the bins that are not empty."""
        return {
            "temperature": self.temperature,
            "n_cells": self.n_cells,
            "scores": filled(self.scores).tolist(),
            "novelty": filled(self.novelty).tolist(),
            "profiles": self.profiles.to_json(),
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any], n_types: int) -> "Calibration":
        """ValueError (or KeyError, TypeError) for anything that ``to_json`` of a model of ``n_types`` cannot have
        written."""
        temperature, profiles = stored["temperature"], ProfileSums.from_json(stored["profiles"])
        if not isinstance(temperature, float) or temperature not in TEMPERATURES or len(profiles.n) != n_types:
            raise ValueError("a temperature off the grid, or another number of types")
        scores = histogram(integers(stored["scores"], 2), (n_types, BINS))
        read = cls(float(temperature), scores, histogram(integers(stored["novelty"], 2), (BINS,)), profiles)
        if not read.n_cells == read.novelty.sum() == stored["n_cells"] > 0:
            raise ValueError("histograms of different numbers of cells")
        return read


def score_bins(probabilities: Tensor) -> Tensor:
    """The bin of each probability, by its log-odds (any shape, float64)."""
    return _bins(probabilities.double().logit(eps=1e-7))


def novelty_bins(novelty: Tensor) -> Tensor:
    """The bin of each novelty (any shape, float64)."""
    return _bins(novelty.asinh())


def _bins(values: Tensor) -> Tensor:
    return (values * BINS_PER_UNIT + BINS // 2).floor().clamp(0, BINS - 1)


def _threshold(counts: np.ndarray, coverage: float) -> int | None:
    """The highest bin that, with those above it, holds ceil((n + 1) * coverage) of n cells; None if n is too few."""
    # Less a little, since 0.9 * 10 may be above 9.
    needed = math.ceil((counts.sum() + 1) * coverage - 1e-9)
    enough = np.flatnonzero(counts[::-1].cumsum()[::-1] >= needed)
    return int(enough[-1]) if len(enough) else None


def filled(counts: np.ndarray) -> np.ndarray:
    """The bins of a histogram that are not empty: a row of indices and a count for each (int64)."""
    return np.column_stack([*np.nonzero(counts), counts[np.nonzero(counts)]])


def histogram(rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The histogram that ``filled`` has given; ValueError for rows that it cannot have given."""
    if rows.shape[1] != len(shape) + 1:
        raise ValueError("a histogram of another shape")
    *places, counts = rows.T
    if any((place < 0).any() or (place >= n).any() for place, n in zip(places, shape, strict=True)):
        raise ValueError("a histogram of other bins")
    if (counts <= 0).any() or (counts >= 2**40).any() or len(np.unique(rows[:, :-1], axis=0)) < len(rows):
        raise ValueError("a histogram of counts that no cells have")
    made = np.zeros(shape, np.int64)
    made[tuple(places)] = counts
    return made
