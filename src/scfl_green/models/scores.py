"""How well cell types were predicted: on test cells, by torchmetrics, and during training, by counts."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_confusion_matrix, multiclass_f1_score

# The label of a cell whose type is missing; no score counts such cells.
UNLABELLED = -1
# Bins of confidence, as in Guo et al.
BINS = 15


def prediction_scores(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy, weighted and macro F1 and the expected calibration error of logits (cells x types, float32)."""
    scores = {
        "accuracy": multiclass_accuracy(logits, labels, average="micro", **_options(logits)),
        "weighted_f1": multiclass_f1_score(logits, labels, average="weighted", **_options(logits)),
        "macro_f1": multiclass_f1_score(logits, labels, average="macro", **_options(logits)),
    }
    error = calibration_error(reliability(logits, labels))
    return {name: float(value) for name, value in scores.items()} | {"calibration_error": error}


def confusion_matrix(logits: Tensor, labels: Tensor) -> Tensor:
    """Labelled cells by true (rows) and predicted cell type."""
    return multiclass_confusion_matrix(logits, labels, **_options(logits))


def reliability(logits: Tensor, labels: Tensor) -> Tensor:
    """Labelled cells by confidence, the probability of the predicted type, in ``BINS`` bins of equal width: their
    number, the sum of their confidence, and how many were predicted right (bins x 3, float64)."""
    known = labels != UNLABELLED
    confidence, predicted = logits[known].double().softmax(dim=1).max(dim=1)
    right = (predicted == labels[known]).double()
    # Closed above, so that full confidence is in the last bin; torchmetrics has one more bin for it.
    bins = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    values = torch.stack([torch.ones_like(right), confidence, right], dim=1)
    return torch.zeros(BINS, 3, dtype=torch.float64).index_add_(0, bins, values)


def calibration_error(bins: Tensor) -> float:
    """The expected calibration error (ECE) of ``reliability``: the mean over cells of how far the confidence of their
    bin is from its accuracy (Guo et al. 2017, ICML, "On Calibration of Modern Neural Networks", section 2)."""
    cells, confidence, right = bins.T
    return float((confidence - right).abs().sum() / cells.sum().clamp_min(1))


def _options(logits: Tensor) -> dict[str, Any]:
    # Validation would refuse a dataset of one type.
    return {"num_classes": logits.shape[1], "ignore_index": UNLABELLED, "validate_args": False}


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
        self.counts.index_put_((labels, predicted), self.one, accumulate=True)

    def scores(self) -> dict[str, float]:
        """The mean loss of a cell, its terms if there are several, and the scores."""
        means = dict(zip(self.terms, (self.sums / self.cells).tolist(), strict=True))
        scores = confusion_scores(self.counts[:UNLABELLED])
        return {"loss": sum(means.values()), **(means if len(means) > 1 else {}), **scores}
