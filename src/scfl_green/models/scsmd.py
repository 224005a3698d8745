"""scSMD: a deep learning method for accurate clustering of single cells based on auto-encoder."""

from torch import Tensor, nn

from scfl_green.models.base import CellClassifier, Optimizer, Scheduler, scaled


class ScSMD(CellClassifier):
    """Cui et al. 2025 (BMC Bioinformatics 26), in the study's form: genes -> 1024 -> latent 64 -> dropout -> types.

    Layer normalisation stands where the authors normalise by batch: batch statistics average badly across
    clients, whose cells differ.
    """

    def __init__(
        self,
        n_genes: int,
        n_types: int,
        optimizer: Optimizer,
        scheduler: Scheduler | None = None,
        hidden: int = 1024,
        latent: int = 64,
        dropout: float = 0.3,
        width: float = 1.0,
    ) -> None:
        super().__init__(n_types, optimizer, scheduler)
        hidden, latent = scaled(hidden, width), scaled(latent, width)
        self.encoder = nn.Sequential(
            nn.Linear(n_genes, hidden), nn.LayerNorm(hidden), nn.ReLU(), nn.Linear(hidden, latent), nn.ReLU()
        )
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(latent, n_types))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.encoder(x))
