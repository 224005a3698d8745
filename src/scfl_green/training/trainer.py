"""The one Trainer that serves all fits of a job."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytorch_lightning as pl
import torch
from torch import Tensor

from scfl_green.errors import InputError

# Each of these would cost a fit more than training a small client.
QUIET = dict.fromkeys(("logger", "enable_checkpointing", "enable_model_summary", "enable_progress_bar"), False)


def effective_precision(requested: str, device: str) -> str:
    """The Lightning precision that ``mixed`` means on a device (``cpu``, ``cuda``): bf16 there, fp16 here.

    Raises InputError for 16-bit floats on a CPU, which Lightning would silently turn into bf16.
    """
    if requested == "mixed":
        return "16-mixed" if device == "cuda" else "bf16-mixed"
    if device == "cpu" and requested.startswith("16"):
        raise InputError(f"trainer.precision={requested}: a CPU has no fp16 training; use mixed or bf16-mixed")
    return requested


class ReusableTrainer:
    """Lends out the Trainer that ``make`` makes, as good as new: making another costs as much as some fits."""

    def __init__(self, make: Callable[..., pl.Trainer]) -> None:
        self.trainer = make(**QUIET, num_sanity_val_steps=0)

    def __call__(self, *callbacks: pl.Callback, epochs: int = 1) -> pl.Trainer:
        """The Trainer with these callbacks and no others, about to run its first of ``epochs``."""
        self.trainer.callbacks = [*callbacks]  # type: ignore[attr-defined]  # set by a connector, out of mypy's sight
        self.trainer.fit_loop.max_epochs = epochs
        self.trainer.fit_loop.epoch_progress.reset()
        return self.trainer

    @contextmanager
    def inference(self, model: pl.LightningModule) -> Iterator[Callable[[Tensor], Tensor]]:
        """The model as a function of features, on the device and in the precision of fits; also within a fit."""
        plugin, device, was_training = self.trainer.precision_plugin, self.trainer.strategy.root_device, model.training
        model.to(device).eval()
        try:
            with torch.inference_mode(), plugin.forward_context():
                yield lambda x: model(plugin.convert_input(x.to(device)))
        finally:
            model.train(was_training)

    @property
    def device(self) -> str:
        """The kind of device that fits run on: ``cpu``, ``cuda``, ..."""
        return self.trainer.strategy.root_device.type

    @property
    def precision(self) -> str:
        """Lightning's name of the precision that fits run in."""
        return self.trainer.precision
