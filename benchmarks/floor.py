"""The floor: a federation as a loop written by hand, with the same steps on the same batches and nothing else."""

import zlib
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import Times
from benchmarks.setting import Setting
from scfl_green.data.features.datamodule import Batches
from scfl_green.data.partition import Part
from scfl_green.models.base import CellClassifier
from scfl_green.training.callbacks import ShortFit

Weights = dict[str, Tensor]
# What the same steps may differ by, added up in another order.
AGREE = 1e-5


class Floor:
    """Cells in a dense tensor, one model, fresh Adam for each client, weights averaged in float64; each round's are
    scored on the clients' validation cells, where there are any."""

    def __init__(self, setting: Setting, parts: Sequence[Part] | None = None) -> None:
        self.job, self.parts = setting.job, parts or list(setting.dataset.split.clients.values())
        self.model = setting.new_model()
        self.x, self.y = setting.dataset.features.batch(np.arange(len(setting.dataset.features.labels)))
        self.rounds, self.epochs = setting.cfg.federation.rounds, setting.cfg.federation.local_epochs

    def run(self) -> Weights:
        weights = {name: value.clone() for name, value in self.job.initial.items()}
        total = sum(len(part.train) for part in self.parts)
        for round_number in range(1, self.rounds + 1):
            mean = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in weights.items()}
            for part in self.parts:
                self.model.load_state_dict(weights)
                self.train(part, round_number)
                for name, value in self.model.state_dict().items():
                    mean[name] += value.double() * (len(part.train) / total)
            weights = {name: value.to(weights[name].dtype) for name, value in mean.items()}
            self.model.load_state_dict(weights)
            for part in self.parts:
                self.validate(part)
        return weights

    def train(self, part: Part, round_number: int) -> None:
        seed = [self.job.seed, zlib.crc32(part.name.encode()), round_number]
        optimizer, batches = (
            self.model.optimizer_of(self.model.parameters()),
            Batches(part.train, self.job.batch_size, seed),
        )
        self.model.train()
        for epoch in range(self.epochs):
            batches.set_epoch(epoch)
            self.model.set_rate(optimizer, epoch, self.epochs)
            ShortFit(seed).on_train_epoch_start(SimpleNamespace(current_epoch=epoch), self.model)  # dropout's seed
            for rows in batches:
                optimizer.zero_grad()
                loss(self.model, self.x[rows], self.y[rows])[1].backward()
                optimizer.step()

    @torch.no_grad()
    def validate(self, part: Part) -> list[float]:
        self.model.eval()
        found = []
        for rows in Batches(part.validation, self.job.batch_size):
            logits, value = loss(self.model, self.x[rows], self.y[rows])
            found.append((float(value), int((logits.argmax(dim=1) == self.y[rows]).sum())))
        return [sum(column) / max(len(part.validation), 1) for column in zip(*found, strict=True)]


def loss(model: CellClassifier, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    logits, terms = model.loss(x, y)
    return logits, torch.stack([*terms.values(), *model.penalty().values()]).sum()


def check_agreement(what: str, ours: Times, floor: Times) -> float:
    """The largest difference of any weight. AssertionError above ``AGREE``: then they have not done the same work."""
    apart = max(float((ours.returned[name] - value).abs().max()) for name, value in floor.returned.items())
    if not apart <= AGREE:
        raise AssertionError(f"{what}: weights differ from the hand-written loop's by {apart:.3g}, not {AGREE:g}")
    return apart
