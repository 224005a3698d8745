"""CellClassifier, the base class of every framework: loss, scores and optimiser."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor

from scfl_green.models.broad import Broad, cross_entropy
from scfl_green.models.packed import train_on_batches
from scfl_green.models.prune import Units
from scfl_green.models.scores import Tally

Optimizer = Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer]
Scheduler = Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]


def scaled(size: int, width: float) -> int:
    """A hidden layer's size times ``width``; at least one unit."""
    return max(1, round(size * width))


class CellClassifier(pl.LightningModule):
    """A classifier of cells: features (cells x genes) in, logits (cells x types) out.

    A framework takes ``n_genes``, ``n_types``, its layer sizes and ``width``, and passes ``**training`` on to this
    class: what makes the optimiser from the parameters, and the learning-rate scheduler from the optimiser, or instead
    ``decay``, with which the learning rate falls over the epochs of each fit (``set_rate``). It defines its layers and
    ``forward``. If it minimises more than the cross-entropy, it overrides ``loss``, or ``penalty`` for terms that
    depend on no cell. Labels may stand for several types, which are then in ``broad`` (``models.broad``).

    It is an ordinary LightningModule, for any Trainer and loader. Loss and scores are logged once an epoch, as
    ``train/...`` and ``validation/...``, for the stages in ``scored_stages``; ``scores`` holds the last epoch's.
    ``logging = False`` skips the logging, which takes longer than an epoch on a small client. With
    ``automatic_optimization = False`` a training step takes all batches of an epoch (``models.packed``).
    """

    # Terms of the loss that compare the cells of a batch; they have no per-cell gradient.
    between_cells: Sequence[str] = ()
    broad: Broad = ()

    def __init__(
        self, n_types: int, optimizer: Optimizer, scheduler: Scheduler | None = None, decay: bool = False
    ) -> None:
        super().__init__()
        self.n_types, self.decay = n_types, decay
        self.optimizer_of, self.scheduler_of = optimizer, scheduler
        self.scores: dict[str, float] = {}
        self.logging = True
        self.scored_stages: Sequence[str] = ("train", "validation")
        self._tallies: dict[str, Tally] = {}

    def hidden_units(self) -> Sequence[Units]:
        """Where the units of each hidden layer lie in the weights; ``opt=prune`` may remove them."""
        raise NotImplementedError

    def loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The logits of a batch, and the terms whose sum is minimised, by name."""
        logits = self(x)
        return logits, {"cross_entropy": self.cross_entropy(logits, y)}

    def cross_entropy(self, logits: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(logits, y, self.broad) if self.broad else F.cross_entropy(logits, y)

    def penalty(self) -> dict[str, Tensor]:
        """Terms of the loss that depend on no cell, such as weight decay."""
        return {}

    def _step(self, stage: str, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        logits, terms = self.loss(x, y)
        terms = terms | self.penalty()
        values = torch.stack(list(terms.values()))
        if stage in self.scored_stages:
            if stage not in self._tallies:
                self._tallies[stage] = Tally(self.n_types, terms, y.device)
            self._tallies[stage].add(values.detach(), logits.detach().argmax(dim=1), y)
        return values.sum()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        """A batch; or, where Lightning leaves optimisation to us, an iterator over all batches of an epoch."""
        loss = None
        if self.automatic_optimization:
            loss = self._step("train", batch)
        else:
            train_on_batches(self, batch, partial(self._step, "train"))
        # Not in on_train_epoch_end, which runs after that of the callbacks, and they read these values.
        if self.trainer.is_last_batch and "train" in self.scored_stages:
            self._log_epoch("train")
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._step("validation", batch)

    def validated(self, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """The loss and scores that a Trainer's validation would give; expects the model in evaluation mode."""
        self.logging, self.scores = False, {}
        self._tallies.pop("validation", None)
        for x, y in batches:
            self._step("validation", (x.to(self.device), y.to(self.device)))
        self._log_epoch("validation")
        return dict(self.scores)

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The predicted cell types, as class indices."""
        return self(batch[0]).argmax(dim=1)

    def _log_epoch(self, stage: str) -> None:
        values = {f"{stage}/{name}": value for name, value in self._tallies.pop(stage).scores().items()}
        self.scores |= values
        if self.logging:
            self.log_dict(values, on_step=False, on_epoch=True, batch_size=1)

    def on_validation_epoch_end(self) -> None:
        self._log_epoch("validation")

    def on_fit_start(self) -> None:
        # An earlier fit may have stopped in the middle of an epoch.
        self.scores = {}
        self._tallies.clear()

    def on_train_epoch_start(self) -> None:
        if (epochs := self.trainer.max_epochs or 0) > 0:  # -1 for a Trainer that counts steps
            self.set_rate(self.optimizers(use_pl_optimizer=False), self.trainer.current_epoch, epochs)

    def set_rate(self, optimizer: Any, epoch: int, epochs: int) -> None:
        """With ``decay``, set the learning rate of an epoch (from 0): the configured one times 1 - epoch / epochs."""
        for group in optimizer.param_groups if self.decay else ():
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * (1 - epoch / epochs)

    def configure_optimizers(self):  # type: ignore[no-untyped-def]  # Lightning's return type is a union of ten
        if self.decay and self.scheduler_of is not None:
            raise ValueError("model.decay and model.scheduler both set the learning rate: choose one")
        optimizer = self.optimizer_of(self.parameters())
        if self.scheduler_of is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.scheduler_of(optimizer), "interval": "step"}}
