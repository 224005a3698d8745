"""scCDCG: deep structural clustering for single-cell RNA-seq via deep cut-informed graph embedding."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from scfl_green.models.base import CellClassifier, Optimizer, Scheduler, scaled


class ScCDCG(CellClassifier):
    """Xu et al. 2024 (arXiv:2404.06167): autoencoder genes -> 256 -> 64 -> 256 -> genes, a graph embedding and
    a classification head with dropout.

    Cross-entropy plus ``reconstruction`` * mean squared error.
    """

    def __init__(
        self,
        n_genes: int,
        n_types: int,
        optimizer: Optimizer,
        scheduler: Scheduler | None = None,
        hidden: Sequence[int] = (256, 64),
        dropout: float = 0.3,
        reconstruction: float = 0.1,
        width: float = 1.0,
    ) -> None:
        super().__init__(n_types, optimizer, scheduler)
        self.reconstruction = reconstruction
        outer, latent = (scaled(size, width) for size in hidden)
        self.encoder = nn.Sequential(nn.Linear(n_genes, outer), nn.ReLU(), nn.Linear(outer, latent), nn.ReLU())
        self.decoder = nn.Sequential(nn.Linear(latent, outer), nn.ReLU(), nn.Linear(outer, n_genes))
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(latent, n_types))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.encoder(x))

    def loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        z = self.encoder(x)
        logits = self.classifier(z)
        terms = {
            "cross_entropy": F.cross_entropy(logits, y),
            "reconstruction": self.reconstruction * F.mse_loss(self.decoder(z), x),
        }
        return logits, terms
