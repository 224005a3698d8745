"""Softmax regression: the linear classifier that every network should beat."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from scfl_green.bounds import Weight
from scfl_green.models.base import CellClassifier
from scfl_green.models.prune import Units


class Linear(CellClassifier):
    """Multinomial logistic regression, genes -> types (Hastie et al. 2009, "The Elements of Statistical Learning",
    section 4.4; for cell types, Abdelaal et al. 2019, Genome Biology 20:194).

    Cross-entropy plus ``l2`` * sum ||W||^2 / 2 over weights but not biases. The loss is convex, so that weights begin
    at zero and no seed but that of the batches matters. There are no hidden units: nothing to widen or to prune.
    """

    def __init__(self, n_genes: int, n_types: int, l2: Weight = 0.005, **training: Any) -> None:
        super().__init__(n_types, **training)
        self.l2 = l2
        self.classifier = nn.Linear(n_genes, n_types)
        nn.init.zeros_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(x)

    def hidden_units(self) -> Sequence[Units]:
        return []

    def penalty(self) -> dict[str, Tensor]:
        return {"l2": self.l2 / 2 * self.classifier.weight.square().sum()} if self.l2 else {}
