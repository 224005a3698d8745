"""ACTINN: Automated Cell Type Identification using Neural Networks."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from scfl_green.bounds import Count, Weight, Width
from scfl_green.models.base import CellClassifier, scaled
from scfl_green.models.prune import Units, between


class ACTINN(CellClassifier):
    """Ma & Pellegrini 2019 (Bioinformatics 36:533), section 2.2: genes -> 100 -> 50 -> 25 -> types, ReLU.

    Xavier initialisation, zero biases, no dropout; cross-entropy plus ``l2`` * sum ||W||^2 / 2 over weights but
    not biases, as in the authors' code.
    """

    def __init__(
        self,
        n_genes: int,
        n_types: int,
        hidden: Sequence[Count] = (100, 50, 25),
        width: Width = 1.0,
        l2: Weight = 0.005,
        **training: Any,
    ) -> None:
        super().__init__(n_types, **training)
        self.l2 = l2
        sizes = [n_genes, *(scaled(size, width) for size in hidden), n_types]
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(sizes):
            linear = nn.Linear(n_in, n_out)
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
            layers += [linear, nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)

    def hidden_units(self) -> Sequence[Units]:
        linear = [f"layers.{i}" for i, layer in enumerate(self.layers) if isinstance(layer, nn.Linear)]
        return [between([producer], [consumer]) for producer, consumer in pairwise(linear)]

    def penalty(self) -> dict[str, Tensor]:
        weights = [layer.weight for layer in self.layers if isinstance(layer, nn.Linear)]
        return {"l2": self.l2 / 2 * torch.stack([weight.square().sum() for weight in weights]).sum()}
