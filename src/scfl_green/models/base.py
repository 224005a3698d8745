"""What every framework shares: the loss, the scores and the optimiser of a classifier of cells."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.plugins.precision import Precision
from pytorch_lightning.strategies import SingleDeviceStrategy
from pytorch_lightning.utilities.model_helpers import is_overridden
from torch import Tensor

from scfl_green.models.prune import Units
from scfl_green.models.scores import Tally

STEP_HOOKS = ("on_before_backward", "on_after_backward", "on_before_optimizer_step", "backward")
Optimizer = Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer]
Scheduler = Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]


def scaled(size: int, width: float) -> int:
    """A hidden size under the dial ``model.width``; never below one unit."""
    return max(1, round(size * width))


class CellClassifier(pl.LightningModule):
    """Features of cells (cells x genes) in, logits (cells x types) out.

    A framework takes ``n_genes``, ``n_types``, its sizes, ``width`` and, as ``**training``, what this class takes:
    an optimiser and a scheduler, each but for its first argument. It defines its layers and ``forward``; one whose
    training needs more than cross-entropy also overrides ``loss`` (or ``penalty``, for what depends on no cell). Logged
    once an epoch: ``train/...`` and ``validation/...`` with loss and scores.

    An ordinary LightningModule, for any Trainer and loader. ``scores`` holds the last epoch's values; with
    ``logging = False`` they are not logged, which takes longer than an epoch of a small client; only stages in
    ``told`` are scored. With ``automatic_optimization = False`` a training step takes an iterator over all batches of
    an epoch (the packed step: Lightning's work around a step costs more than the step of a small network), with the
    same weights to the bit.
    """

    # The terms of the loss that compare the cells of a batch, so that no cell has a gradient of its own.
    between_cells: Sequence[str] = ()

    def __init__(self, n_types: int, optimizer: Optimizer, scheduler: Scheduler | None = None) -> None:
        super().__init__()
        self.n_types = n_types
        self.optimizer_of, self.scheduler_of = optimizer, scheduler
        self.scores: dict[str, float] = {}
        self.logging = True
        self.told: Sequence[str] = ("train", "validation")
        self._tallies: dict[str, Tally] = {}

    def hidden_units(self) -> Sequence[Units]:
        """Of every hidden layer, where its units lie in the weights: what ``opt=prune`` may take out."""
        raise NotImplementedError

    def loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits of a batch and the terms whose sum is minimised."""
        logits = self(x)
        return logits, {"cross_entropy": F.cross_entropy(logits, y)}

    def penalty(self) -> dict[str, Tensor]:
        """The terms of the loss that depend on no cell."""
        return {}

    def _step(self, stage: str, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        logits, terms = self.loss(x, y)
        terms = terms | self.penalty()
        values = torch.stack(list(terms.values()))
        if stage in self.told:
            if stage not in self._tallies:
                self._tallies[stage] = Tally(self.n_types, terms, y.device)
            self._tallies[stage].add(values.detach(), logits.detach().argmax(dim=1), y)
        return values.sum()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        loss = None
        if self.automatic_optimization:
            loss = self._step("train", batch)
        else:
            self._all_steps(batch)
        # Not in on_train_epoch_end, which comes after the callbacks that want to read these values.
        if self.trainer.is_last_batch and "train" in self.told:
            self._log_epoch("train")
        return loss

    def _all_steps(self, batches: Iterator[tuple[Tensor, Tensor]]) -> None:
        hooked = self._has_step_hooks()
        optimizer: Any = self.optimizers(use_pl_optimizer=hooked)
        scheduler: Any = self.lr_schedulers()
        backward = self.manual_backward if hooked else Tensor.backward
        # Lightning's precision covers the whole training step, of which only the loss is meant.
        mixed = torch.is_autocast_enabled(self.device.type)
        outside = partial(torch.autocast, self.device.type, enabled=False) if mixed else nullcontext
        for x, y in batches:
            optimizer.zero_grad()
            loss = self._step("train", (x.to(self.device), y.to(self.device)))
            with outside():
                backward(loss)
            optimizer.step()
            # It would hold the weights before this step.
            torch.clear_autocast_cache()
            if scheduler is not None:
                scheduler.step()

    def _has_step_hooks(self) -> bool:
        """Whether Lightning has anything to do around a step; its hooks take as long as a step of few cells."""
        trainer: Any = self.trainer
        plain = type(trainer.precision_plugin) is Precision and type(trainer.strategy) is SingleDeviceStrategy
        return not plain or any(is_overridden(hook, of) for of in (self, *trainer.callbacks) for hook in STEP_HOOKS)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._step("validation", batch)

    def validated(self, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Loss and scores, as of a Trainer's validation, in evaluation mode."""
        self.logging, self.scores = False, {}
        self._tallies.pop("validation", None)
        for x, y in batches:
            self._step("validation", (x.to(self.device), y.to(self.device)))
        self._log_epoch("validation")
        return dict(self.scores)

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Positions of the predicted cell types."""
        return self(batch[0]).argmax(dim=1)

    def _log_epoch(self, stage: str) -> None:
        values = {f"{stage}/{name}": value for name, value in self._tallies.pop(stage).scores().items()}
        self.scores |= values
        if self.logging:
            self.log_dict(values, on_step=False, on_epoch=True, batch_size=1)

    def on_validation_epoch_end(self) -> None:
        self._log_epoch("validation")

    def on_fit_start(self) -> None:
        # An earlier fit may have ended in the middle of an epoch.
        self.scores = {}
        self._tallies.clear()

    def configure_optimizers(self):  # type: ignore[no-untyped-def]  # Lightning's return type is a union of ten
        optimizer = self.optimizer_of(self.parameters())
        if self.scheduler_of is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.scheduler_of(optimizer), "interval": "step"}}
