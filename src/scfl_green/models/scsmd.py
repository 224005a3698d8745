"""scSMD: a deep learning method for accurate clustering of single cells based on auto-encoder."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scfl_green.bounds import Count, Share, Weight, Width
from scfl_green.models.base import CellClassifier, scaled
from scfl_green.models.broad import cross_entropy
from scfl_green.models.prune import Units, between

MAP_SIDE = 32
HIDDEN = between(["encoder.0", "encoder.1"], ["encoder.4"])


class AttentionGate(nn.Module):
    """The multi-dilated attention gate ("Methods", MDSAB) on the hidden units as a one-channel map, 32 wide.

    Four 3x3 convolutions of dilation 2, 4, 6 and 8, side by side, ReLU, a 1x1 convolution, a sigmoid: x + x * g. Units
    are in no order, so that neighbours on the map mean nothing: 45 parameters, where the authors' gate, on 64 channels
    of an image of genes, has 164,800 (``scsmd_paper``).
    (cells x units) in and out; units that do not fill the last row of the map are padded with zeros.
    """

    def __init__(self) -> None:
        super().__init__()
        self.dilated = nn.ModuleList(nn.Conv2d(1, 1, 3, padding=rate, dilation=rate) for rate in (2, 4, 6, 8))
        self.vote = nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        units = F.pad(x, (0, -x.shape[1] % MAP_SIDE)).view(len(x), 1, -1, MAP_SIDE)
        scales = F.relu(torch.cat([convolution(units) for convolution in self.dilated], dim=1))
        gate = torch.sigmoid(self.vote(scales)).flatten(1)[:, : x.shape[1]]
        return x + x * gate


class ScSMD(CellClassifier):
    """Cui et al. 2025 (BMC Bioinformatics 26), in the study's form: genes -> 1024 -> latent 64 -> dropout -> types.

    ``attention_gate`` puts the paper's multi-dilated gate on the hidden units. ``cellnet`` adds the paper's
    self-supervised head CellNet, latent -> 128 -> 128 -> types, softmax: pairs of a batch's cells whose latent
    profiles have a cosine above ``similar`` are drawn to the same output, those below ``dissimilar`` to different
    ones, all others ignored; its term is weighted by ``cellnet_weight``. CellNet also learns from cells whose type
    is missing (label -1), which the cross-entropy leaves out; it is not used for prediction.

    Deviations: the encoder is fully connected, where the authors convolve genes as an image; there is no decoder, and
    neither reconstruction nor negative binomial loss; CellNet's pairs are chosen by the cosine of latent profiles,
    theirs by assignments to clusters; layer normalisation replaces batch normalisation, whose statistics average badly
    across clients with different cells. ``model=scsmd_paper`` is the authors' network.
    """

    between_cells = ("cellnet",)

    def __init__(
        self,
        n_genes: int,
        n_types: int,
        hidden: Count = 1024,
        latent: Count = 64,
        dropout: Share = 0.3,
        attention_gate: bool = False,
        cellnet: bool = False,
        cellnet_weight: Weight = 1.0,
        similar: float = 0.8,
        dissimilar: float = 0.2,
        width: Width = 1.0,
        **training: Any,
    ) -> None:
        super().__init__(n_types, **training)
        self.cellnet_weight, self.similar, self.dissimilar = cellnet_weight * cellnet, similar, dissimilar
        hidden, latent, head = (scaled(size, width) for size in (hidden, latent, 128))
        self.encoder = nn.Sequential(
            nn.Linear(n_genes, hidden),
            nn.LayerNorm(hidden),
            nn.ReLU(),
            AttentionGate() if attention_gate else nn.Identity(),
            nn.Linear(hidden, latent),
            nn.ReLU(),
        )
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(latent, n_types))
        if cellnet:
            self.cellnet = cellnet_head(latent, head, n_types)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.encoder(x))

    def hidden_units(self) -> Sequence[Units]:
        if not self.cellnet_weight:
            return [HIDDEN, between(["encoder.4"], ["classifier.1"])]
        latent = between(["encoder.4"], ["classifier.1", "cellnet.0"])
        first, second = (["cellnet.0", "cellnet.1"], ["cellnet.3"]), (["cellnet.3", "cellnet.4"], ["cellnet.6"])
        return [HIDDEN, latent, between(*first), between(*second)]

    def loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        latent = self.encoder(x)
        logits = self.classifier(latent)
        terms = {"cross_entropy": cross_entropy(logits, y, self.broad)}
        if self.cellnet_weight:
            terms["cellnet"] = self.cellnet_weight * self.pairwise(latent)
        return logits, terms

    def pairwise(self, latent: Tensor) -> Tensor:
        """Binary cross-entropy between agreement of CellNet's outputs and similarity, over the unambiguous pairs."""
        outputs = self.cellnet(latent)
        with torch.autocast(latent.device.type, enabled=False):
            unit, outputs = F.normalize(latent.detach().float(), dim=1), F.normalize(outputs.float(), dim=1)
            cosine, agreement = unit @ unit.T, (outputs @ outputs.T).clamp(1e-6, 1 - 1e-6)
            sure = ((cosine > self.similar) | (cosine < self.dissimilar)).fill_diagonal_(False)
            losses = F.binary_cross_entropy(agreement, (cosine > self.similar).float(), reduction="none")
        return (losses * sure).sum() / sure.sum().clamp_min(1)


def cellnet_head(latent: int, head: int, n_types: int) -> nn.Sequential:
    """CellNet, with layer normalisation: latent -> ``head`` -> ``head`` -> types, softmax."""
    layers = [nn.Linear(latent, head), nn.LayerNorm(head), nn.ReLU()]
    layers += [nn.Linear(head, head), nn.LayerNorm(head), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(head, n_types), nn.Softmax(dim=1))
