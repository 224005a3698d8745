"""How well cell types were predicted: counted as batches go by, scored at the end."""

from collections.abc import Mapping

import torch
from torch import Tensor

# The label of a cell whose type is missing; as an index, the last row.
UNLABELLED = -1


class Confusion:
    """Counts cells by true and predicted cell type, adding up in place."""

    def __init__(self, n_types: int, device: torch.device | None = None) -> None:
        self._counts = torch.zeros(n_types + 1, n_types, dtype=torch.int64, device=device)
        self._one = torch.ones((), dtype=torch.int64, device=device)

    def add(self, predicted: Tensor, labels: Tensor) -> None:
        # Metrics of torchmetrics take as long as a step of a small network.
        self._counts.index_put_((labels, predicted), self._one, accumulate=True)

    @property
    def matrix(self) -> Tensor:
        """Labelled cells by true (rows) and predicted cell type."""
        return self._counts[:UNLABELLED]


def classification_scores(confusion: Tensor) -> dict[str, float]:
    """Accuracy, weighted and macro F1 by a confusion matrix; types absent from truth and prediction count in none."""
    right, true, found = confusion.diag(), confusion.sum(dim=1), confusion.sum(dim=0)
    f1 = 2 * right / (true + found).clamp_min(1)
    n_cells = max(int(confusion.sum()), 1)
    return {
        "accuracy": float(right.sum()) / n_cells,
        "weighted_f1": float((f1 * true).sum()) / n_cells,
        "macro_f1": float(f1.sum()) / max(int((true + found).count_nonzero()), 1),
    }


class Tally:
    """The batches of an epoch, added up in place: what was kept of each of them would keep the heap from shrinking."""

    def __init__(self, n_types: int, terms: Mapping[str, Tensor], device: torch.device) -> None:
        self.terms, self.cells = tuple(terms), 0
        self.sums = torch.zeros(len(terms), dtype=torch.float64, device=device)
        self.confusion = Confusion(n_types, device)

    def add(self, values: Tensor, predicted: Tensor, labels: Tensor) -> None:
        """A batch: the values of the terms of its loss, its predicted types and its labels."""
        self.cells += len(labels)
        self.sums.add_(values, alpha=len(labels))
        self.confusion.add(predicted, labels)

    def scores(self) -> dict[str, float]:
        """The mean loss of a cell, its terms where there are several, and the scores."""
        means = dict(zip(self.terms, (self.sums / self.cells).tolist(), strict=True))
        scores = classification_scores(self.confusion.matrix)
        return {"loss": sum(means.values()), **(means if len(means) > 1 else {}), **scores}
