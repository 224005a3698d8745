"""scSMD as its authors built it, a convolutional autoencoder of cells as images, with a classification head."""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scfl_green.bounds import Count, Share, Weight, Width
from scfl_green.models.base import CellClassifier, scaled
from scfl_green.models.broad import cross_entropy
from scfl_green.models.prune import Units
from scfl_green.models.scsmd import cellnet_head
from scfl_green.models.scsmd_blocks import Decoder, encoder

# The smallest image of which the convolutions leave anything.
SMALLEST_SIDE = 9


class ScSMDPaper(CellClassifier):
    """Cui et al. 2025 (BMC Bioinformatics 26), "Methods", after the authors' code, with a head: dropout, latent ->
    types.

    The genes of a cell are an image, 28 x 28 for the paper's 784 (filled up with zeros): a 5x5 convolution to 32
    channels at half the resolution, a squeeze attention block, and at 32, 64 and 128 channels a residual block around
    the multi-dilated gate of 64 channels, with a convolution to half the resolution between them; a latent layer of 10;
    a decoder of three transposed convolutions. The loss is cross-entropy (of cells with a type), ``reconstruction`` *
    the mean squared error of the image, and ``cellnet`` * the term of the self-supervised head CellNet: of pairs of a
    batch's cells whose assignments have an inner product above ``similar``, 1 - that of CellNet's outputs; of pairs
    below ``dissimilar``, the inner product itself; the mean over all pairs.

    Deviations: assignments are the classifier's probabilities, where the authors', who know no types, are those of
    fuzzy c-means, whose term is left out with them; so are the negative binomial loss and its two layers, since
    features are centred; all terms are minimised at once, not one after the other; group normalisation replaces batch
    normalisation, whose statistics average badly across clients with different cells; layers of the authors' code that
    no output passes through are left out.
    """

    between_cells = ("cellnet",)

    def __init__(
        self,
        n_genes: int,
        n_types: int,
        channels: Sequence[Count] = (32, 64, 128),
        gate: Count = 64,
        latent: Count = 10,
        dropout: Share = 0.3,
        reconstruction: Weight = 1.0,
        cellnet: Weight = 1.0,
        similar: float = 0.8,
        dissimilar: float = 0.2,
        width: Width = 1.0,
        **training: Any,
    ) -> None:
        super().__init__(n_types, **training)
        self.reconstruction, self.cellnet_weight = reconstruction, cellnet
        self.similar, self.dissimilar = similar, dissimilar
        self.side = max(SMALLEST_SIDE, math.ceil(math.sqrt(n_genes)))
        quarter = math.ceil(self.side / 4)
        eighth = (quarter - 1) // 2
        first, second, third, gate, latent, head = (scaled(size, width) for size in (*channels, gate, latent, 128))
        self.encoder = encoder(latent, (first, second, third), gate, eighth)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(latent, n_types))
        if reconstruction:
            self.decoder = Decoder(latent, (first, second, third), quarter, eighth)
        if cellnet:
            self.cellnet = cellnet_head(latent, head, n_types)

    def image(self, x: Tensor) -> Tensor:
        """cells x genes -> cells x 1 x side x side."""
        return F.pad(x, (0, self.side**2 - x.shape[1])).view(len(x), 1, self.side, self.side)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.encoder(self.image(x)))

    def hidden_units(self) -> Sequence[Units]:
        return []

    def loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        image = self.image(x)
        latent = self.encoder(image)
        logits = self.classifier(latent)
        terms = {"cross_entropy": cross_entropy(logits, y, self.broad)}
        if self.reconstruction:
            terms["reconstruction"] = self.reconstruction * F.mse_loss(self.decoded(latent), image)
        if self.cellnet_weight:
            terms["cellnet"] = self.cellnet_weight * self.pairwise(logits, self.cellnet(latent))
        return logits, terms

    def decoded(self, latent: Tensor) -> Tensor:
        """cells x latent -> cells x 1 x side x side."""
        return self.decoder(latent)[..., : self.side, : self.side]

    def pairwise(self, logits: Tensor, outputs: Tensor) -> Tensor:
        """CellNet's term, given the classifier's logits and CellNet's outputs (cells x types)."""
        with torch.autocast(logits.device.type, enabled=False):
            assigned, outputs = logits.detach().float().softmax(dim=1), outputs.float()
            # As the authors do: what is nearly certain has no gradient.
            outputs = torch.where(outputs > 0.99, 1.0, torch.where(outputs < 0.01, 0.0, outputs))
            alike, agreement = assigned @ assigned.T, outputs @ outputs.T
            return ((alike > self.similar) * (1 - agreement) + (alike < self.dissimilar) * agreement).mean()
