"""The packed step: one training step of Lightning runs every optimiser step of an epoch, with the same result.

Lightning's work around a step costs more than the step of a small network.
"""

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import Precision
from pytorch_lightning.strategies import SingleDeviceStrategy
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor

Batch = tuple[Tensor, Tensor]
STEP_HOOKS = ("on_before_backward", "on_after_backward", "on_before_optimizer_step", "backward")


def train_on_batches(model: pl.LightningModule, batches: Iterable[Batch], loss_of: Callable[[Batch], Tensor]) -> None:
    """Take an optimiser step on each batch, under manual optimisation; bit-identical to Lightning's own loop."""
    hooked = _has_step_hooks(model)
    optimizer: Any = model.optimizers(use_pl_optimizer=hooked)
    scheduler: Any = model.lr_schedulers()
    backward = model.manual_backward if hooked else Tensor.backward
    # Lightning runs the whole training step under autocast; backward passes and optimiser steps belong outside it.
    mixed = torch.is_autocast_enabled(model.device.type)
    outside = partial(torch.autocast, model.device.type, enabled=False) if mixed else nullcontext
    for x, y in batches:
        optimizer.zero_grad()
        loss = loss_of((x.to(model.device), y.to(model.device)))
        with outside():
            backward(loss)
        optimizer.step()
        # The cache holds low-precision copies of the weights, which this step has changed.
        torch.clear_autocast_cache()
        if scheduler is not None:
            scheduler.step()


def _has_step_hooks(model: pl.LightningModule) -> bool:
    """Whether Lightning has anything to do around a step; its hooks take as long as a step on a few cells."""
    trainer: Any = model.trainer
    plain = type(trainer.precision_plugin) is Precision and type(trainer.strategy) is SingleDeviceStrategy
    return not plain or any(is_overridden(hook, of) for of in (model, *trainer.callbacks) for hook in STEP_HOOKS)
