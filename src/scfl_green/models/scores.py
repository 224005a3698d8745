"""How well cell types were predicted: on test cells, by torchmetrics, and during training, by counts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_confusion_matrix, multiclass_f1_score

# The label of a cell whose type is missing. No score counts cells of no single type, whose labels are negative.
UNLABELLED = -1
# Bins of confidence, as in Guo et al.
BINS = 15
# Of summed confidences, which are whole numbers so that they do not depend on the order of addition.
UNIT = 2.0**-40


@dataclass(frozen=True)
class Scored:
    """What test cells tell of a model, as exact sums that add up over sites: the ``confusion`` matrix (labelled cells
    by true, in rows, and predicted cell type), and the labelled cells by confidence (``reliability``), as predicted and
    after temperature scaling (``scaled``). All int64."""

    confusion: Tensor
    bins: Tensor
    scaled: Tensor

    @classmethod
    def of(cls, logits: Tensor, labels: Tensor, temperature: float = 1.0) -> "Scored":
        """Of logits (cells x types, float32)."""
        # Validation would refuse a dataset of one type.
        options: dict[str, Any] = {"ignore_index": UNLABELLED, "validate_args": False}
        confusion = multiclass_confusion_matrix(
            logits, labels.clamp_min(UNLABELLED), num_classes=logits.shape[1], **options
        )
        return cls(confusion, reliability(logits, labels), reliability(logits / temperature, labels))

    def __add__(self, other: "Scored") -> "Scored":
        return Scored(self.confusion + other.confusion, self.bins + other.bins, self.scaled + other.scaled)

    def scores(self) -> dict[str, float]:
        """Accuracy, weighted and macro F1, balanced accuracy (the mean recall of the types that there are), and the
        expected calibration error."""
        if not self.confusion.any():
            return dict.fromkeys(("accuracy", "weighted_f1", "macro_f1", "balanced_accuracy", "calibration_error"), 0.0)
        n_types = len(self.confusion)
        true, predicted = torch.cartesian_prod(*[torch.arange(n_types)] * 2).T
        cells = self.confusion.flatten()
        pairs = predicted.repeat_interleave(cells), true.repeat_interleave(cells)
        options: dict[str, Any] = {"num_classes": n_types, "validate_args": False}
        scores = {
            "accuracy": multiclass_accuracy(*pairs, average="micro", **options),
            "weighted_f1": multiclass_f1_score(*pairs, average="weighted", **options),
            "macro_f1": multiclass_f1_score(*pairs, average="macro", **options),
        }
        recall = self.confusion.diag() / self.confusion.sum(dim=1)
        return {name: float(value) for name, value in scores.items()} | {
            "balanced_accuracy": float(recall.nanmean()),
            "calibration_error": calibration_error(self.bins),
        }


def prediction_scores(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy, weighted and macro F1 and the expected calibration error of logits (cells x types, float32)."""
    return Scored.of(logits, labels).scores()


def reliability(logits: Tensor, labels: Tensor) -> Tensor:
    """Labelled cells by confidence, the probability of the predicted type, in ``BINS`` bins of equal width: their
    number, the sum of their confidence in ``UNIT``, and how many were predicted right (bins x 3, int64)."""
    known = labels >= 0
    confidence, predicted = logits[known].double().softmax(dim=1).max(dim=1)
    right = (predicted == labels[known]).long()
    # Closed above, so that full confidence is in the last bin; torchmetrics has one more bin for it.
    bins = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    values = torch.stack([torch.ones_like(right), (confidence / UNIT).round().long(), right], dim=1)
    return torch.zeros(BINS, 3, dtype=torch.int64).index_add_(0, bins, values)


def calibration_error(bins: Tensor) -> float:
    """The expected calibration error (ECE) of ``reliability``: the mean over cells of how far the confidence of their
    bin is from its accuracy (Guo et al. 2017, ICML, "On Calibration of Modern Neural Networks", section 2)."""
    cells, confidence, right = bins.T
    return float((confidence * UNIT - right).abs().sum() / cells.sum().clamp_min(1))


def confusion_scores(confusion: Tensor) -> dict[str, float]:
    """Accuracy, weighted and macro F1 of a confusion matrix, equal to those of ``prediction_scores``."""
    # Not by torchmetrics, which would take 1.5 % of an epoch's CPU time on 2,000 cells in batches of 32, 3.0 % in
    # batches of 128 and 7 % on a client of 200 cells; this takes 0.2, 0.3 and 1.2 % (ACTINN, 2,000 genes, one thread,
    # training and validation cells scored every epoch).
    right, true, found = confusion.diag(), confusion.sum(dim=1), confusion.sum(dim=0)
    f1 = 2 * right / (true + found).clamp_min(1)
    n_cells = max(int(confusion.sum()), 1)
    return {
        "accuracy": float(right.sum()) / n_cells,
        "weighted_f1": float((f1 * true).sum()) / n_cells,
        # Types absent from truth and prediction do not count.
        "macro_f1": float(f1.sum()) / max(int((true + found).count_nonzero()), 1),
    }


class Tally:
    """An epoch's loss and confusion matrix, added up in place.

    Tensors kept from every batch would keep the heap from shrinking.
    """

    def __init__(self, n_types: int, terms: Mapping[str, Tensor], device: torch.device) -> None:
        self.terms, self.cells = tuple(terms), 0
        self.sums = torch.zeros(len(terms), dtype=torch.float64, device=device)
        # The label UNLABELLED, as an index, is the last row.
        self.counts = torch.zeros(n_types + 1, n_types, dtype=torch.int64, device=device)
        self.one = torch.ones((), dtype=torch.int64, device=device)

    def add(self, values: Tensor, predicted: Tensor, labels: Tensor) -> None:
        """Add a batch: the values of its loss terms, its predicted types and its labels."""
        self.cells += len(labels)
        self.sums.add_(values, alpha=len(labels))
        self.counts.index_put_((labels.clamp_min(UNLABELLED), predicted), self.one, accumulate=True)

    def scores(self) -> dict[str, float]:
        """The mean loss of a cell, its terms if there are several, and the scores."""
        means = dict(zip(self.terms, (self.sums / self.cells).tolist(), strict=True))
        scores = confusion_scores(self.counts[:UNLABELLED])
        return {"loss": sum(means.values()), **(means if len(means) > 1 else {}), **scores}
