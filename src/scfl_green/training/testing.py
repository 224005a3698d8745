"""Scores of trained models on test cells."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from statistics import fmean

import torch
from torch import Tensor

from scfl_green.models.scores import Scored, calibration_error


@dataclass(frozen=True)
class TestResult:
    """Scores on the test cells of all parts pooled, scores of each part by name, the pooled confusion matrix (cells by
    true and predicted cell type), the pooled cells by confidence (``models.scores.reliability``), and the calibration
    error after temperature scaling."""

    scores: dict[str, float]
    by_part: dict[str, dict[str, float]]
    confusion: Tensor
    bins: Tensor
    scaled_error: float

    @classmethod
    def of(cls, tested: Mapping[str, Scored]) -> "TestResult":
        """Of what the test cells of each part tell."""
        whole = pooled(tested)
        by_part = {name: of_part.scores() for name, of_part in tested.items()}
        return cls(whole.scores(), by_part, whole.confusion, whole.bins, calibration_error(whole.scaled))

    @classmethod
    def mean(cls, results: Sequence["TestResult"]) -> "TestResult":
        """Of several models tested on the same cells: the means of their scores, and all their predictions counted."""
        return cls(
            mean([result.scores for result in results]),
            {name: mean([result.by_part[name] for result in results]) for name in results[0].by_part},
            torch.stack([result.confusion for result in results]).sum(dim=0),
            torch.stack([result.bins for result in results]).sum(dim=0),
            fmean(result.scaled_error for result in results),
        )


def pooled(tested: Mapping[str, Scored]) -> Scored:
    """What the test cells of all parts tell together."""
    return reduce(add, tested.values())


def mean(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: sum(each[name] for each in scores) / len(scores) for name in scores[0]}
