"""The one Trainer that serves all fits of a job."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities.rank_zero import rank_zero_only
from pytorch_lightning.plugins import environments
from torch import Tensor

from scfl_green.errors import InputError

LOG = logging.getLogger(__name__)
# Each would take longer than training on a small client.
QUIET = dict.fromkeys(("logger", "enable_checkpointing", "enable_model_summary", "enable_progress_bar"), False)


def stand_alone() -> None:
    """Let Lightning take this process for the only one of its run, whatever SLURM, torchrun or MPI have told it: those
    beside it are other runs. Else it would wait for them, stay silent, or go on from a checkpoint of SLURM's."""
    rank_zero_only.rank = 0  # type: ignore[attr-defined]
    for launcher in ("LSFEnvironment", "MPIEnvironment", "SLURMEnvironment", "TorchElasticEnvironment"):
        setattr(getattr(environments, launcher), "detect", staticmethod(lambda: False))  # noqa: B010  # mypy minds


def effective_precision(requested: str, device: str) -> str:
    """Lightning's name of the precision on a device: ``mixed`` is bf16 on ``cpu`` and fp16 on ``cuda``.

    Raises InputError for fp16 on a CPU, which Lightning would silently replace by bf16. Warns of processors that have
    to emulate bf16.
    """
    if device == "cpu" and requested.startswith("16"):
        raise InputError(f"trainer.precision={requested}: a CPU has no fp16 training; use mixed or bf16-mixed")
    if requested == "mixed":
        requested = "16-mixed" if device == "cuda" else "bf16-mixed"
    if device == "cpu" and requested == "bf16-mixed" and torch.backends.cpu.get_cpu_capability() == "AVX2":
        LOG.warning("bf16: this processor (AVX2) has no instructions for it; training will be slower and emit more")
    return requested


class ReusableTrainer:
    """Resets and returns the same Trainer for every fit: making a new one takes as long as some fits."""

    def __init__(self, make: Callable[..., pl.Trainer]) -> None:
        stand_alone()
        self.trainer = make(**QUIET, num_sanity_val_steps=0)

    def __call__(self, *callbacks: pl.Callback, epochs: int = 1) -> pl.Trainer:
        """The Trainer, reset, with these callbacks and no others, for a fit of ``epochs``."""
        self.trainer.callbacks = [*callbacks]  # type: ignore[attr-defined]  # set by a connector, which mypy does not see
        self.trainer.fit_loop.max_epochs = epochs
        self.trainer.fit_loop.epoch_progress.reset()
        return self.trainer

    @contextmanager
    def inference(self, model: pl.LightningModule) -> Iterator[Callable[[Tensor], Tensor]]:
        """The model as a function of features, with the device and precision of fits; also usable during a fit."""
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
