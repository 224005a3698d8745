"""scDLC: a deep learning framework to classify large sample single-cell RNA-seq data."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from scfl_green.bounds import Count, Share, Width
from scfl_green.models.base import CellClassifier, scaled
from scfl_green.models.prune import Slice, Units

GATES, GATED = 4, ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class ScDLC(CellClassifier):
    """Zhou et al. 2022 (BMC Genomics 23:504), "Methods": a fully connected layer at every step of a sequence of
    genes, two LSTM layers of 64, the last state, a fully connected layer.

    The sequence is the chosen genes in descending order of BSS/WSS, as ``Preparation`` orders them, cut into
    ``steps`` steps of equal width (the last one padded with zeros): cells x genes -> cells x steps x genes per step.
    ``embed`` is the size of the layer at every step (None: ``hidden``). ``dropout`` is that of the genes and of the
    last state, ``between_layers`` that of what an LSTM layer hands to the next.

    The defaults are the study's form: a step holds many genes, since a recurrent layer's cost grows with the number of
    steps. ``model=scdlc_paper`` is the paper's network: 100 genes, one a step, a layer of 200, .7 dropped between the
    LSTM layers and nothing elsewhere. It departs in three points. The authors' code runs GRU cells, where the paper
    says LSTM; PyTorch has two biases where one would do (2 x 4 x 64 weights more); and genes are log-normalised and
    centred, where the authors read counts.
    """

    def __init__(
        self,
        n_genes: int,
        n_types: int,
        steps: Count = 5,
        embed: Count | None = None,
        hidden: Count = 64,
        layers: Count = 2,
        dropout: Share = 0.3,
        between_layers: Share = 0.0,
        width: Width = 1.0,
        **training: Any,
    ) -> None:
        super().__init__(n_types, **training)
        self.steps = steps
        self.genes_per_step = -(-n_genes // steps)
        size, embedded = scaled(hidden, width), scaled(embed or hidden, width)
        between_layers = between_layers if layers > 1 else 0.0  # PyTorch warns where there is no next layer
        self.embed = nn.Linear(self.genes_per_step, embedded)
        self.lstm = nn.LSTM(
            embedded, size, num_layers=layers, batch_first=True, dropout=between_layers if layers > 1 else 0.0
        )
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(size, n_types)

    def hidden_units(self) -> Sequence[Units]:
        consumers = [f"lstm.weight_ih_l{layer}" for layer in range(1, self.lstm.num_layers)] + ["classifier.weight"]
        return [
            [Slice("embed.weight", 0), Slice("embed.bias", 0), Slice("lstm.weight_ih_l0", 1)],
            *(
                [
                    *(Slice(f"lstm.{kind}_l{layer}", 0, GATES) for kind in GATED),
                    Slice(f"lstm.weight_hh_l{layer}", 1),
                    Slice(consumer, 1),
                ]
                for layer, consumer in enumerate(consumers)
            ),
        ]

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(self.dropout(x), (0, self.steps * self.genes_per_step - x.shape[1]))
        sequence = F.relu(self.embed(x.view(len(x), self.steps, self.genes_per_step)))
        states, _ = self.lstm(sequence)
        return self.classifier(self.dropout(states[:, -1]))
