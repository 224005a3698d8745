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
    """D^-1/2 A D^-1/2 of a symmetric matrix of edge weights of at least 0 between cells (cells x cells)."""
    scale = weights.sum(dim=1).clamp_min(1e-12).rsqrt()
    return scale[:, None] * weights * scale[None, :]


def cell_graph(x: Tensor, beta: float) -> Tensor:
    """The graph over the cells of a batch (cells x cells): ``beta`` * similar cells + (1 - ``beta``) * cells with
    similar neighbours, each symmetrically normalised.

    Section 3.2 of the paper, as in the authors' code: edges are cosines A of the cells' profiles, and A @ A. Profiles
    that are centred by gene have negative cosines where cells are unlike: these are no edges.
    """
    unit = F.normalize(x, dim=1)
    cosines = (unit @ unit.T).clamp_min(0)
    return beta * normalised_graph(cosines) + (1 - beta) * normalised_graph(cosines @ cosines)


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
    embedding: with Z the embeddings (cells x latent, first rows, then columns of unit length) and L the graph over the
    batch's cells, the term -tr(Z^T L Z) / latent, from 0 to -1, draws linked cells together, and the mean square of
    Z^T Z - I keeps dimensions apart. Section 3.3, clustering (off unless ``clustering`` > 0): KL divergence from
    Sinkhorn targets to assignments by similarity to learnt centres, one per cell type. Head: dropout, latent -> types.

    The loss is cross-entropy plus the weighted terms, by default as the authors weight them for human pancreas; a term
    of weight 0 costs nothing, and without reconstruction there is no decoder.

    Deviations: graphs are built over the cells of a mini-batch, so that memory grows with the square of the batch size
    and not of the number of cells; there are ReLUs between the layers, and 64 latent units, where the authors' code has
    none and 16; all terms are minimised from the start, where the authors pre-train without clustering; clusters are
    targeted at equal sizes, where theirs are those of k-means, and assignments are by cosine, not by Student's t.
    """

    between_cells = ("deep_cut", "orthogonality", "clustering")

    def __init__(
        self,
        n_genes: int,
        n_types: int,
        hidden: Sequence[Count] = (256, 64),
        dropout: Share = 0.3,
        beta: Annotated[float, Field(ge=0, le=1)] = 0.5,
        reconstruction: Weight = 0.23,
        deep_cut: Weight = 0.17,
        orthogonality: Weight = 0.65,
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
        if reconstruction:  # else nothing trains it, and it would be half of what is sent
            self.decoder = nn.Sequential(nn.Linear(latent, outer), nn.ReLU(), nn.Linear(outer, n_genes))
        self.classifier = nn.Sequential(nn.ReLU(), nn.Dropout(dropout), nn.Linear(latent, n_types))
        if clustering:
            self.centres = nn.Parameter(F.normalize(torch.randn(n_types, latent), dim=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.encoder(x))

    def hidden_units(self) -> Sequence[Units]:
        decoded = bool(self.term_weights["reconstruction"])
        latent = [*between(["encoder.2"], ["classifier.2", *["decoder.0"] * decoded])]
        if self.term_weights["clustering"]:
            latent.append(Slice("centres", 1))
        return [between(["encoder.0"], ["encoder.2"]), latent, *[between(["decoder.0"], ["decoder.2"])] * decoded]

    def loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        h = self.encoder(x)
        logits = self.classifier(h)
        unit = F.normalize(h, dim=1)
        z = F.normalize(unit, dim=0)
        terms = {
            "reconstruction": lambda: F.mse_loss(self.decoder(h), x),
            "deep_cut": lambda: self.deep_cut(x, z),
            "orthogonality": lambda: self.orthogonality(z),
            "clustering": lambda: self.clustering(unit),
        }
        weighted = {name: weight * terms[name]() for name, weight in self.term_weights.items() if weight}
        return logits, {"cross_entropy": self.cross_entropy(logits, y), **weighted}

    def deep_cut(self, x: Tensor, z: Tensor) -> Tensor:
        """-tr(Z^T L Z) / latent; independent of the order of the cells."""
        with torch.no_grad():
            graph = cell_graph(x, self.beta)
        return -(z * (graph @ z)).sum() / z.shape[1]

    def orthogonality(self, z: Tensor) -> Tensor:
        """The mean square of Z^T Z - I: how far the embedding dimensions are from telling different things."""
        return (z.T @ z - torch.eye(z.shape[1], device=z.device)).square().mean()

    def clustering(self, unit: Tensor) -> Tensor:
        """KL divergence from balanced targets to the assignments to the learnt centres."""
        similarity = (unit @ F.normalize(self.centres, dim=1).T + 1) / 2
        assignment = similarity / similarity.sum(dim=1, keepdim=True)
        return F.kl_div(assignment.log(), sinkhorn_targets(similarity), reduction="batchmean")
