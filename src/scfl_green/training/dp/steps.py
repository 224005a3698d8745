"""Private steps: Poisson sampling, clipped and noised gradients, and the accounting of epsilon."""

import math
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from opacus.accountants import PRVAccountant
from opacus.optimizers import DPOptimizer
from torch.utils.data import Sampler

# Steps taken so far: (noise multiplier, sample rate, number of steps), as in Opacus' accountants.
History = list[tuple[float, float, int]]


@cache
def epsilon_of(history: tuple[tuple[float, float, int], ...], delta: float) -> float:
    """Epsilon spent: the upper bound of Opacus' PRV accountant (Gopi et al. 2021, NeurIPS)."""
    if any(noise == 0 for noise, _, _ in history):
        return math.inf
    accountant = PRVAccountant()
    accountant.history = list(history)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # logarithms of 0 where every cell is drawn
        return float(accountant.get_epsilon(delta)) if history else 0.0


class PoissonBatches(Sampler[list[np.ndarray]]):
    """Poisson sampling, one item per epoch: each of ``steps`` batches draws each cell with probability 1 / ``steps``.
    After ``left`` batches there are no more."""

    def __init__(self, rows: np.ndarray, steps: int, left: int) -> None:
        self.rows, self.steps, self.left = rows, steps, left
        self.random = np.random.default_rng()

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[list[np.ndarray]]:
        n_steps = min(self.steps, self.left)
        self.left -= n_steps
        yield [self.rows[self.random.random(len(self.rows)) < 1 / self.steps] for _ in range(n_steps)]


class Private(pl.Callback):
    """Clips gradients, adds noise, records each step in ``history``, and ends the fit when no ``batches`` are left."""

    def __init__(
        self, noise_multiplier: float, max_grad_norm: float, batches: PoissonBatches, history: History
    ) -> None:
        self.noise_multiplier, self.max_grad_norm, self.batches = noise_multiplier, max_grad_norm, batches
        self.accountant = PRVAccountant()
        self.accountant.history = history

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        generator = torch.Generator(pl_module.device)
        generator.seed()
        (optimizer,) = trainer.strategy.optimizers
        private = _NoiseFirst(
            optimizer,
            noise_multiplier=self.noise_multiplier,
            max_grad_norm=self.max_grad_norm,
            expected_batch_size=len(self.batches.rows) / self.batches.steps,
            generator=generator,
        )
        private.attach_step_hook(self.accountant.get_optimizer_hook_fn(1 / self.batches.steps))
        trainer.strategy.optimizers = [private]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Seeded dropout would reveal a left-out cell: the masks of all later cells would shift.
        torch.seed()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.should_stop = trainer.should_stop or self.batches.left == 0

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: Any, optimizer: torch.optim.Optimizer) -> None:
        if penalty := pl_module.penalty():
            torch.stack([*penalty.values()]).sum().backward()


class _NoiseFirst(DPOptimizer):
    """Adds noise before ``closure`` runs the callbacks, which add the gradients of terms that depend on no cell."""

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        self.pre_step()
        return self.original_optimizer.step(closure)
