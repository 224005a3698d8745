"""What every framework shares: the loss, the scores and the optimiser of a classifier of cells."""

from collections.abc import Callable, Iterable, Sequence

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score

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

    def score(of: Callable[..., Tensor], average: str) -> float:
        return float(of(predicted, labels, n_types, average=average, ignore_index=UNLABELLED))

    return {
        "accuracy": score(multiclass_accuracy, "micro"),
        "weighted_f1": score(multiclass_f1_score, "weighted"),
        "macro_f1": score(multiclass_f1_score, "macro"),
    }


class CellClassifier(pl.LightningModule):
    """Features of cells (cells x genes) in, logits (cells x types) out.

    A framework takes ``n_genes``, ``n_types``, its sizes, ``width`` and, as ``**training``, what this class takes:
    an optimiser and a scheduler, each but for its first argument. It defines its layers and ``forward``; one whose
    training needs more than cross-entropy also overrides ``loss``. Logged once an epoch: ``train/...`` and
    ``validation/...`` with loss and scores.
    """

    def __init__(self, n_types: int, optimizer: Optimizer, scheduler: Scheduler | None = None) -> None:
        super().__init__()
        self.n_types = n_types
        self.optimizer_of, self.scheduler_of = optimizer, scheduler
        self._seen: dict[str, list[tuple[dict[str, Tensor], Tensor, Tensor]]] = {"train": [], "validation": []}

    def hidden_units(self) -> Sequence[Units]:
        """Of every hidden layer, where its units lie in the weights: what ``opt=prune`` may take out."""
        raise NotImplementedError

    def loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Logits of a batch and the terms whose sum is minimised."""
        logits = self(x)
        return logits, {"cross_entropy": F.cross_entropy(logits, y)}

    def _step(self, stage: str, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        logits, terms = self.loss(x, y)
        detached = {name: term.detach() for name, term in terms.items()}
        self._seen[stage].append((detached, logits.detach().argmax(dim=1), y))
        return torch.stack(list(terms.values())).sum()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = self._step("train", batch)
        # Not in on_train_epoch_end, which comes after the callbacks that want to read these values.
        if self.trainer.is_last_batch:
            self._log_epoch("train")
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._step("validation", batch)

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
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=1)

    def on_validation_epoch_end(self) -> None:
        self._log_epoch("validation")

    def on_fit_start(self) -> None:
        # An earlier fit may have ended in the middle of an epoch.
        self._seen = {"train": [], "validation": []}

    def configure_optimizers(self):  # type: ignore[no-untyped-def]  # Lightning's return type is a union of ten
        optimizer = self.optimizer_of(self.parameters())
        if self.scheduler_of is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": self.scheduler_of(optimizer), "interval": "step"}}
