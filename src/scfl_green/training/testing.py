"""Scores of trained models on test cells."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scfl_green.models.scores import confusion_matrix, prediction_scores, reliability

# Logits and labels of test cells, by the name of their part.
Predicted = Mapping[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class TestResult:
    """Scores on the test cells of all parts pooled, scores of each part by name, the pooled confusion matrix (cells by
    true and predicted cell type) and the pooled cells by confidence (``models.scores.reliability``)."""

    scores: dict[str, float]
    by_part: dict[str, dict[str, float]]
    confusion: Tensor
    bins: Tensor

    @classmethod
    def of(cls, predicted: Predicted) -> "TestResult":
        by_part = {name: prediction_scores(*of_part) for name, of_part in predicted.items()}
        logits, labels = pooled(predicted)
        return cls(
            prediction_scores(logits, labels), by_part, confusion_matrix(logits, labels), reliability(logits, labels)
        )

    @classmethod
    def mean(cls, results: Sequence["TestResult"]) -> "TestResult":
        """Of several models tested on the same cells: the means of their scores, and all their predictions counted."""
        return cls(
            mean([result.scores for result in results]),
            {name: mean([result.by_part[name] for result in results]) for name in results[0].by_part},
            torch.stack([result.confusion for result in results]).sum(dim=0),
            torch.stack([result.bins for result in results]).sum(dim=0),
        )


def pooled(predicted: Predicted) -> tuple[Tensor, Tensor]:
    """The logits and labels of all parts."""
    logits, labels = (torch.cat(tensors) for tensors in zip(*predicted.values(), strict=True))
    return logits, labels


def mean(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: sum(each[name] for each in scores) / len(scores) for name in scores[0]}
