"""Job: the only thing that fits and scores weights, whatever the regime."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from scfl_green.carbon import EnergyMeter, MeasureEmissions
from scfl_green.data.datamodule import CellDataModule, Features
from scfl_green.data.partition import Part, Split
from scfl_green.errors import InputError
from scfl_green.flops import flops_per_cell
from scfl_green.ledger import FIT, TEST, Budget
from scfl_green.models.base import CellClassifier, classification_scores
from scfl_green.prune import Prune, Weights, resize

# Told of (unit, total, step, metrics), e.g. ("round", 5, 1, {...}), whenever a round or epoch ends.
Report = Callable[[str, int, int, dict[str, float]], None]

# A Trainer is made for every fit; each of these would cost it more than the fit of a small client.
QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_model_summary": False,
    "enable_progress_bar": False,
    "num_sanity_val_steps": 0,
}


def effective_precision(requested: str, device: str) -> str:
    """The Lightning precision that ``mixed`` means on a device (``cpu``, ``cuda``): bf16 there, fp16 here.

    Raises InputError for 16-bit floats on a CPU, which Lightning would silently turn into bf16.
    """
    if requested == "mixed":
        return "16-mixed" if device == "cuda" else "bf16-mixed"
    if device == "cpu" and requested.startswith("16"):
        raise InputError(f"trainer.precision={requested}: a CPU has no fp16 training; use mixed or bf16-mixed")
    return requested


@dataclass
class Job:
    """One model on one dataset. A regime decides how often, where and from which weights it is fitted.

    ``initial`` are the weights to start from: ``pretrained`` ones of an earlier run where given, else those that
    the model was made with (``untrained``); ``seen`` are the clients that they were trained on, which emitted
    ``pretraining_kg``. ``trainer`` makes a Trainer (a
    partial of ``pl.Trainer``), ``callbacks`` the callbacks of one fit. The same seed gives the same bits: each fit
    is seeded by (seed, client, round), so that the order in which clients train does not matter.
    """

    model: CellClassifier
    features: Features
    split: Split
    trainer: Callable[..., pl.Trainer]
    meter: EnergyMeter
    batch_size: int
    seed: int
    report: Report
    callbacks: Callable[[], list[pl.Callback]] = list
    pretrained: Weights | None = None
    untrained: Weights = field(init=False)
    initial: Weights = field(init=False)
    seen: frozenset[str] = frozenset()
    pretraining_kg: float | None = None
    prune: Prune | None = None
    budget: Budget | None = None
    history: list[tuple[float, float]] = field(default_factory=list, init=False)
    train_flops: float = field(default=0.0, init=False)
    cells_seen: int = field(default=0, init=False)
    confusion: Tensor = field(init=False)
    last_good: Weights | None = field(default=None, init=False)
    _flops: dict[int, float] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        if self.pretrained is not None and self.pretrained.keys() != self.model.state_dict().keys():
            raise InputError(f"weights: they are not those of a {type(self.model).__name__}; choose their model=")
        # Kept, since every fit leaves its own weights in the one resident model.
        self.untrained = self.weights()
        self.initial = self.pretrained or self.untrained

    def ended(self, unit: str, total: int, step: int, metrics: dict[str, float], fit_as: str = FIT) -> bool:
        """Report a finished round or epoch, or only measure it if its fit does not count; true: the budget is spent."""
        if fit_as == FIT:
            self.report(unit, total, step, metrics)
        else:
            self.meter.read()
        self.history.append(self._spent(fit_as, metrics))
        return self.budget is not None and self.budget.spent(self.history)

    def _spent(self, phase: str, metrics: dict[str, float]) -> tuple[float, float]:
        """Grams of CO2e spent on a phase so far, and the weighted F1 on validation cells that they have bought."""
        if self.budget is not None and "validation/weighted_f1" not in metrics:
            raise InputError("callbacks=carbon_budget keeps the best weights on validation cells, and there are none")
        used = self.meter.total(phase)
        transfer_kg = self.meter.transfer()[1] if phase == FIT else 0.0
        return (used.emissions_kg + transfer_kg) * 1e3, metrics.get("validation/weighted_f1", 0.0)

    def weights(self) -> Weights:
        """A copy of those that the model has now."""
        return {name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()}

    def fit(
        self,
        part: Part,
        weights: Weights,
        *,
        epochs: int,
        round_number: int = 0,
        callbacks: Sequence[pl.Callback] = (),
        validate: bool = False,
        fit_as: str = FIT,
    ) -> tuple[Weights, dict[str, float]]:
        """Train from ``weights`` on a part's training cells for ``epochs``, with a fresh optimiser; gives the
        weights arrived at and the metrics of the last epoch. ``fit_as`` names its phase in the ledger where it is not
        to count as the run's training."""
        self._load(weights)
        seed = [self.seed, zlib.crc32(part.name.encode()), round_number]
        torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
        trainer = self.trainer(
            max_epochs=epochs,
            limit_val_batches=1.0 if validate and len(part.validation) else 0,
            callbacks=[MeasureEmissions(self.meter, round_number, part.name, fit_as), *self.callbacks(), *callbacks],
            **QUIET,
        )
        trainer.fit(self.model, datamodule=CellDataModule(self.features, part, self.batch_size, seed))
        if fit_as == FIT:
            self.cells_seen += trainer.current_epoch * len(part.train)
            self.train_flops += self._flops_per_cell() * trainer.current_epoch * len(part.train)
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        return self.weights(), metrics

    def validate(self, part: Part, weights: Weights, round_number: int = 0) -> dict[str, float]:
        """Loss and scores of ``weights`` on a part's validation cells."""
        self._load(weights)
        trainer = self.trainer(callbacks=[MeasureEmissions(self.meter, round_number, part.name)], **QUIET)
        data = CellDataModule(self.features, part, self.batch_size, [self.seed])
        (metrics,) = trainer.validate(self.model, datamodule=data, verbose=False)
        return dict(metrics)

    def test(self, parts: Sequence[Part], weights: Weights) -> dict[str, dict[str, float]]:
        """Scores on the test cells of all parts together (under ``""``) and of each by name; ``confusion`` then counts
        them by true (rows) and predicted cell type."""
        self._load(weights)
        n_types = self.model.n_types
        predicted, labels = {}, {}
        with self.meter.phase(TEST):
            for part in parts:
                data = CellDataModule(self.features, part, 4096, [self.seed])
                batches = self.trainer(**QUIET).predict(self.model, data.test_dataloader())
                predicted[part.name] = torch.cat(cast("list[Tensor]", batches)).cpu()
                labels[part.name] = torch.from_numpy(self.features.labels[part.test])
        every = torch.cat([*predicted.values()]), torch.cat([*labels.values()])
        self.confusion = multiclass_confusion_matrix(*every, n_types)
        together = classification_scores(*every, n_types)
        return {"": together} | {n: classification_scores(predicted[n], labels[n], n_types) for n in predicted}

    def warm_up(self) -> None:
        """One step that counts for nothing, so that the first fit does not pay for what a process does once."""
        weights = self.weights()
        part = next(iter(self.split.clients.values()))
        few = replace(part, train=part.train[: self.batch_size])
        with self.meter.phase("warm-up"):
            trainer = self.trainer(max_epochs=1, limit_val_batches=0, **QUIET)
            trainer.fit(self.model, datamodule=CellDataModule(self.features, few, self.batch_size, [self.seed]))
        self.model.load_state_dict(weights)

    @property
    def device(self) -> str:
        """The kind of device that fits run on: ``cpu``, ``cuda``, ..."""
        return self.trainer(**QUIET).strategy.root_device.type

    @property
    def precision(self) -> str:
        """Lightning's name of the precision that fits run in."""
        return self.trainer(**QUIET).precision

    def _load(self, weights: Weights) -> None:
        resize(self.model, weights)
        self.model.load_state_dict(weights)

    def pruned(self, weights: Weights) -> Weights:
        """The weights without the hidden units that ``prune`` takes out."""
        assert self.prune is not None
        self._load(weights)
        return self.prune(weights, self.model.hidden_units())

    def _flops_per_cell(self) -> float:
        size = sum(p.numel() for p in self.model.parameters())
        if size not in self._flops:
            rows = np.concatenate([part.train for part in self.split.clients.values()])[: self.batch_size]
            self._flops[size] = flops_per_cell(self.model, *self.features[rows])
        return self._flops[size]
