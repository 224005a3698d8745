"""scDLC: a deep learning framework to classify large sample single-cell RNA-seq data."""

import torch.nn.functional as F
from torch import Tensor, nn

from scfl_green.models.base import CellClassifier, Optimizer, Scheduler, scaled


class ScDLC(CellClassifier):
    """Zhou et al. 2022 (BMC Genomics 23:504), "Methods": a fully connected layer at every step of a sequence of
    genes, two LSTM layers of 64, the last state, dropout, a fully connected layer.

    The sequence is the chosen genes in descending order of BSS/WSS, as ``Preparation`` hands them over, cut into
    ``steps`` steps of equal width (the last one padded with zeros): cells x genes -> cells x steps x genes a step.
    Deviation: the paper reads 100 genes, one a step; here a step holds many genes, since steps are what a recurrent
    layer costs. ``data.n_genes=100 model.steps=100`` is the paper's.
    """

    def __init__(
        self,
        n_genes: int,
        n_types: int,
        optimizer: Optimizer,
        scheduler: Scheduler | None = None,
        steps: int = 5,
        hidden: int = 64,
        layers: int = 2,
        dropout: float = 0.3,
        width: float = 1.0,
    ) -> None:
        super().__init__(n_types, optimizer, scheduler)
        self.steps = steps
        self.genes_per_step = -(-n_genes // steps)
        size = scaled(hidden, width)
        self.embed = nn.Linear(self.genes_per_step, size)
        self.lstm = nn.LSTM(size, size, num_layers=layers, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(size, n_types)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, self.steps * self.genes_per_step - x.shape[1]))
        sequence = F.relu(self.embed(x.view(len(x), self.steps, self.genes_per_step)))
        states, _ = self.lstm(sequence)
        return self.classifier(self.dropout(states[:, -1]))
