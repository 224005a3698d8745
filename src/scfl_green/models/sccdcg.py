"""scCDCG: deep structural clustering for single-cell RNA-seq via deep cut-informed graph embedding."""

from collections.abc import Sequence
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from scfl_green.bounds import Count, Share, Weight, Width
from scfl_green.models.base import CellClassifier, scaled
from scfl_green.models.prune import Slice, Units, between


def normalised_graph(weights: Tensor) -> Tensor:
    """D^-1/2 |A| D^-1/2 of a symmetric matrix of edge weights between cells (cells x cells)."""
    weights = weights.abs()
    scale = weights.sum(dim=1).clamp_min(1e-12).rsqrt()
    return scale[:, None] * weights * scale[None, :]


def cell_graph(x: Tensor, beta: float) -> Tensor:
    """The graph over the cells of a batch (cells x cells): ``beta`` * covariances + (1 - ``beta``) * cosines.

    Section 3.2 of the paper: the probability metrics graph holds inner products of the cells' profiles, the
    spatial metrics graph |cosine| similarities, each symmetrically normalised.
    """
    centred = x - x.mean(dim=1, keepdim=True)
    covariance = centred @ centred.T / x.shape[1]
    unit = F.normalize(x, dim=1)
    return beta * normalised_graph(covariance) + (1 - beta) * normalised_graph(unit @ unit.T)


def sinkhorn_targets(similarity: Tensor, sharpness: float = 5.0, iterations: int = 50) -> Tensor:
    """Soft assignments (cells x clusters, rows sum to one) that fill all clusters equally.

    Section 3.3 of the paper: entropic optimal transport by Sinkhorn-Knopp scaling, without gradient.
    """
    with torch.no_grad():
        plan = similarity.float().clamp_min(1e-12) ** sharpness
        for _ in range(iterations):
            plan = plan / plan.sum(dim=0, keepdim=True)
            plan = plan / plan.sum(dim=1, keepdim=True)
    return plan


class ScCDCG(CellClassifier):
    """Xu et al. 2024 (arXiv:2404.06167), with a classification head as in the study.

    Section 3.1, autoencoder: genes -> 256 -> 64 -> 256 -> genes (mean squared error). Section 3.2, deep-cut graph
    embedding: with Z the embeddings (cells x latent, rows of unit length) and L the graph over the batch's cells,
    the term -tr(Z^T L Z) / latent draws linked cells together, and the mean square of latent * Z^T Z / cells - I
    keeps dimensions apart. Section 3.3, clustering (off unless ``clustering`` > 0): KL divergence from Sinkhorn
    targets to assignments by similarity to learnt centres, one per cell type. Head: dropout, latent -> types.

    The loss is cross-entropy plus the weighted terms. Two deviations: graphs are built over the cells of a
    mini-batch, so that memory grows with the square of the batch size and not of the number of cells, and both
    terms are divided by the number of cells, so that a weight means the same at every batch size; and there are
    ReLUs between the layers, where the authors' code has none.
    """

    between_cells = ("deep_cut", "orthogonality", "clustering")

    def __init__(
        self,
        n_genes: int,
        n_types: int,
        hidden: Sequence[Count] = (256, 64),
        dropout: Share = 0.3,
        beta: Annotated[float, Field(ge=0, le=1)] = 0.5,
        reconstruction: Weight = 0.1,
        deep_cut: Weight = 0.1,
        orthogonality: Weight = 0.1,
        clustering: Weight = 0.0,
        width: Width = 1.0,
        **training: Any,
    ) -> None:
        super().__init__(n_types, **training)
        self.beta = beta
        self.term_weights = {
            "reconstruction": reconstruction,
            "deep_cut": deep_cut,
            "orthogonality": orthogonality,
            "clustering": clustering,
        }
        outer, latent = (scaled(size, width) for size in hidden)
        self.encoder = nn.Sequential(nn.Linear(n_genes, outer), nn.ReLU(), nn.Linear(outer, latent))
        self.decoder = nn.Sequential(nn.Linear(latent, outer), nn.ReLU(), nn.Linear(outer, n_genes))
        self.classifier = nn.Sequential(nn.ReLU(), nn.Dropout(dropout), nn.Linear(latent, n_types))
        if clustering:
            self.centres = nn.Parameter(F.normalize(torch.randn(n_types, latent), dim=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.encoder(x))

    def hidden_units(self) -> Sequence[Units]:
        latent = [*between(["encoder.2"], ["decoder.0", "classifier.2"])]
        if self.term_weights["clustering"]:
            latent.append(Slice("centres", 1))
        return [between(["encoder.0"], ["encoder.2"]), latent, between(["decoder.0"], ["decoder.2"])]

    def loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        h = self.encoder(x)
        logits = self.classifier(h)
        z = F.normalize(h, dim=1)
        terms = {
            "reconstruction": lambda: F.mse_loss(self.decoder(h), x),
            "deep_cut": lambda: self.deep_cut(x, z),
            "orthogonality": lambda: self.orthogonality(z),
            "clustering": lambda: self.clustering(z),
        }
        weighted = {name: weight * terms[name]() for name, weight in self.term_weights.items() if weight}
        return logits, {"cross_entropy": F.cross_entropy(logits, y), **weighted}

    def deep_cut(self, x: Tensor, z: Tensor) -> Tensor:
        """-tr(Z^T L Z) / latent, per cell; independent of the order of the cells."""
        with torch.no_grad():
            graph = cell_graph(x, self.beta)
        return -(z * (graph @ z)).sum() / z.shape[1] / len(z)

    def orthogonality(self, z: Tensor) -> Tensor:
        """How far the embedding dimensions are from being uncorrelated and equally used."""
        latent = z.shape[1]
        gram = z.T @ z * (latent / len(z))
        return (gram - torch.eye(latent, device=z.device)).square().mean()

    def clustering(self, z: Tensor) -> Tensor:
        """KL divergence from balanced targets to the assignments to the learnt centres."""
        similarity = (z @ F.normalize(self.centres, dim=1).T + 1) / 2
        assignment = similarity / similarity.sum(dim=1, keepdim=True)
        return F.kl_div(assignment.log(), sinkhorn_targets(similarity), reduction="batchmean")
