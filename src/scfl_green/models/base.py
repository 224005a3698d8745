"""What every framework shares: the loss, the scores and the optimiser of a classifier of cells."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from scfl_green.prune import Units

Optimizer = Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer]
Scheduler = Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler]

# The label of a cell whose type is missing.
UNLABELLED = -1


def scaled(size: int, width: float) -> int:
    """A hidden size under the dial ``model.width``; never below one unit."""
    return max(1, round(size * width))


def classification_scores(predicted: Tensor, labels: Tensor, n_types: int) -> dict[str, float]:
    """Accuracy, weighted and macro F1 over labelled cells; types absent from truth and prediction count in none."""
    # One count for all three: scored one by one, they take longer than an epoch of a small client.
    counts = multiclass_confusion_matrix(predicted, labels, n_types, ignore_index=UNLABELLED, validate_args=False)
    right, true, found = counts.diag(), counts.sum(dim=1), counts.sum(dim=0)
    f1 = 2 * right / (true + found).clamp_min(1)
    n_cells = max(int(counts.sum()), 1)
    return {
        "accuracy": float(right.sum()) / n_cells,
        "weighted_f1": float((f1 * true).sum()) / n_cells,
        "macro_f1": float(f1.sum()) / max(int((true + found).count_nonzero()), 1),
    }


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
        self._seen: dict[str, list[tuple[dict[str, Tensor], Tensor, Tensor]]] = {"train": [], "validation": []}

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
        if stage in self.told:
            self._note(stage, logits, terms, y)
        return torch.stack(list(terms.values())).sum()

    def _note(self, stage: str, logits: Tensor, terms: dict[str, Tensor], y: Tensor) -> None:
        detached = {name: term.detach() for name, term in terms.items()}
        self._seen[stage].append((detached, logits.detach().argmax(dim=1), y))

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
        optimizer: Any = self.optimizers()
        scheduler: Any = self.lr_schedulers()
        for x, y in batches:
            optimizer.zero_grad()
            loss = self._step("train", (x.to(self.device), y.to(self.device)))
            # Lightning's precision covers the whole training step, of which only the loss is meant.
            with torch.autocast(self.device.type, enabled=False):
                self.manual_backward(loss)
            optimizer.step()
            # It would hold the weights before this step.
            torch.clear_autocast_cache()
            if scheduler is not None:
                scheduler.step()

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._step("validation", batch)

    def validated(self, batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """Loss and scores, as of a Trainer's validation, in evaluation mode."""
        self.logging, self.scores, self._seen["validation"] = False, {}, []
        for x, y in batches:
            self._step("validation", (x.to(self.device), y.to(self.device)))
        self._log_epoch("validation")
        return dict(self.scores)

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Positions of the predicted cell types."""
        return self(batch[0]).argmax(dim=1)

    def _log_epoch(self, stage: str) -> None:
        seen, self._seen[stage] = self._seen[stage], []
        terms, predicted, labels = zip(*seen, strict=True)
        cells = torch.tensor([len(y) for y in labels], dtype=torch.float64)
        means = {name: float(cells @ torch.stack([t[name] for t in terms]).double().cpu()) for name in terms[0]}
        means = {name: value / float(cells.sum()) for name, value in means.items()}
        scores = classification_scores(torch.cat(predicted), torch.cat(labels), self.n_types)
        values = {"loss": sum(means.values()), **(means if len(means) > 1 else {}), **scores}
        values = {f"{stage}/{name}": value for name, value in values.items()}
        self.scores |= values
        if self.logging:
            self.log_dict(values, on_step=False, on_epoch=True, batch_size=1)

    def on_validation_epoch_end(self) -> None:
        self._log_epoch("validation")

    def on_fit_start(self) -> None:
        # An earlier fit may have ended in the middle of an epoch.
        self.scores = {}
        self._seen = {"train": [], "validation": []}

    def configure_optimizers(self):  # type: ignore[no-untyped-def]  # Lightning's return type is a union of ten
        optimizer = self.optimizer_of(self.parameters())
        if self.scheduler_of is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.scheduler_of(optimizer), "interval": "step"}}
