"""Floating-point operations: the cost of training, whatever the machine."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from scfl_green.models.base import CellClassifier


class FlopsPerCell:
    """Operations to train a model on one cell, counted once for each size of the model."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.batch = x, y
        self.counted: dict[int, float] = {}

    def __call__(self, model: CellClassifier) -> float:
        size = sum(p.numel() for p in model.parameters())
        if size not in self.counted:
            self.counted[size] = flops_per_cell(model, *self.batch)
        return self.counted[size]


def flops_per_cell(model: CellClassifier, x: Tensor, y: Tensor) -> float:
    """Operations to train on one cell, forward and backward, counted on one batch."""
    with _without_onednn(), FlopCounterMode(display=False) as counter:
        _, terms = model.loss(x.to(model.device), y.to(model.device))
        torch.stack([*terms.values()]).sum().backward()
    model.zero_grad()
    return counter.get_total_flops() / len(x)


@contextmanager
def _without_onednn() -> Iterator[None]:
    """Disable oneDNN, whose LSTM is one fused operation that the FLOP counter does not know."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="TF32 acceleration")
        with torch.backends.mkldnn.flags(enabled=False):
            yield
