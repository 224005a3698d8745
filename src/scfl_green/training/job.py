"""Job: the only thing that fits and scores weights, whatever the regime."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from scfl_green.data.features.datamodule import CellDataModule, Features
from scfl_green.data.partition import Part, Split
from scfl_green.energy.flops import FlopsPerCell
from scfl_green.energy.ledger import CHECKPOINT, FIT, TEST, VALIDATE, WARM_UP
from scfl_green.energy.meter import EnergyMeter, MeasureEmissions
from scfl_green.errors import InputError
from scfl_green.models.base import CellClassifier
from scfl_green.models.prune import Weights, resize
from scfl_green.models.scores import confusion_matrix, prediction_scores
from scfl_green.training.callbacks import ShortFit
from scfl_green.training.fitting import Fit, Fitter, PlainFit
from scfl_green.training.hooks import Hooks, State, Step
from scfl_green.training.trained_model import TrainedModel
from scfl_green.training.trainer import ReusableTrainer


@dataclass(frozen=True)
class Tested:
    """Scores on the test cells of all parts together and of each by name, and the confusion matrix of all: cells by
    true (rows) and predicted cell type."""

    scores: dict[str, float]
    by_part: dict[str, dict[str, float]]
    confusion: Tensor


@dataclass
class Job:
    """One model on one dataset. A regime decides how often, where and from which weights it is fitted.

    ``start`` is the trained model to start from, if any: ``initial`` are its weights, or else those that the model was
    made with (``untrained``). ``trainer`` makes a Trainer (a partial of ``pl.Trainer``), which serves all fits;
    ``callbacks`` makes the callbacks of one; ``fitter`` runs it. ``packed``: Lightning is handed an epoch at a time,
    not a batch. ``hooks`` are called after every epoch or round. ``kept`` has the states that a killed run had kept, by
    name of its parts; ``save`` writes new ones to disk. The same seed gives the same bits: each epoch is seeded by
    (seed, client, round, epoch), so that the order in which clients train does not matter.
    """

    model: CellClassifier
    features: Features
    split: Split
    trainer: Callable[..., pl.Trainer]
    meter: EnergyMeter
    batch_size: int
    seed: int
    packed: bool = True
    callbacks: Callable[[], list[pl.Callback]] = list
    start: TrainedModel | None = None
    fitter: Fitter = field(default_factory=PlainFit)
    hooks: Hooks = field(default_factory=Hooks)
    kept: Mapping[str, State] = field(default_factory=dict)
    save: Callable[[dict[str, State]], None] = lambda _: None
    untrained: Weights = field(init=False)
    initial: Weights = field(init=False)

    def __post_init__(self) -> None:
        if self.start is not None and self.start.weights.keys() != self.model.state_dict().keys():
            raise InputError(f"weights: they are not those of a {type(self.model).__name__}; choose their model=")
        # Kept, since every fit leaves its own weights in the one resident model.
        self.untrained = self.weights()
        self.initial = self.start.weights if self.start else self.untrained
        for hook in self.hooks:
            hook.begin(self)

    def step(self, unit: str, number: int, total: int, phase: str = FIT) -> Step:
        """The step that has just ended, with what its training has used so far."""
        self.meter.read()
        transfer_kg = self.meter.transfer()[1] if phase == FIT else 0.0
        return Step(unit, number, total, {}, self.meter.total(phase), transfer_kg, self.weights)

    def keep(self, name: str, state: State) -> None:
        """Write a checkpoint with a new state of one part, beside those of the others and what has been used so far."""
        with self.meter.phase(CHECKPOINT):
            self.save({name: state, "energy": {"rows": self.meter.rows()}})

    def weights(self) -> Weights:
        """A copy of the weights that the model has now."""
        return {name: value.detach().cpu().contiguous().clone() for name, value in self.model.state_dict().items()}

    def fit(self, part: Part, weights: Weights, **options: Any) -> tuple[Weights, dict[str, float]]:
        """Train from ``weights`` on a part's training cells, with a fresh optimiser; ``options`` are those of ``Fit``.
        Returns the weights arrived at and the metrics of the last epoch."""
        self._load(weights)
        fit = Fit(**options)
        place = fit.round_number, part.name
        seed = [self.seed, zlib.crc32(part.name.encode()), fit.round_number]
        more = [*self.callbacks(), *fit.callbacks]
        measure = MeasureEmissions(self.meter, *place, fit.phase)
        trainer = self.reusable(measure, ShortFit(seed), *more, epochs=fit.epochs)
        trainer.limit_val_batches = 1.0 if fit.validate and len(part.validation) else 0
        self.model.automatic_optimization, self.model.logging = not self.packed, bool(more)
        data = CellDataModule(self.features, part, self.batch_size, seed, self.packed)
        with self.meter.phase(fit.phase, *place):
            trained = self.fitter.fit(trainer, self.model, data, fit)
        entry = self.meter.entry(fit.phase, *place)
        entry.cells += round(trained * len(part.train))
        entry.flops += self.flops_per_cell(self.model) * trained * len(part.train)
        return self.weights(), dict(self.model.scores)

    def validate(self, part: Part, weights: Weights, round_number: int = 0) -> dict[str, float]:
        """Loss and scores of ``weights`` on a part's validation cells."""
        self._load(weights)
        batches = CellDataModule(self.features, part, self.batch_size, [self.seed]).val_dataloader()
        # Without Lightning's loop, which takes as long as training a small client.
        with self.meter.phase(VALIDATE, round_number, part.name), self.reusable.inference(self.model):
            return self.model.validated(batches)

    def test(self, parts: Sequence[Part], weights: Weights) -> Tested:
        """Scores of ``weights`` on the test cells of these parts."""
        self._load(weights)
        found: dict[str, tuple[Tensor, Tensor]] = {}
        with self.meter.phase(TEST), self.reusable.inference(self.model) as infer:
            for part in parts:
                batches = CellDataModule(self.features, part, 1024, [self.seed]).test_dataloader()
                logits = torch.cat([infer(x).float().cpu() for x, _ in batches])
                found[part.name] = logits, torch.from_numpy(self.features.labels[part.test])
        every, labels = (torch.cat(tensors) for tensors in zip(*found.values(), strict=True))
        by_part = {name: prediction_scores(*own) for name, own in found.items()}
        return Tested(prediction_scores(every, labels), by_part, confusion_matrix(every, labels))

    def warm_up(self) -> None:
        """One step that counts for nothing, so that the first fit does not pay for what a process does once."""
        weights = self.weights()
        part = next(iter(self.split.clients.values()))
        few = replace(part, train=part.train[: self.batch_size])
        with self.meter.phase(WARM_UP):
            self.fit(few, weights, epochs=1, phase=WARM_UP)
        self.model.load_state_dict(weights)

    @cached_property
    def reusable(self) -> ReusableTrainer:
        """The Trainer of every fit; its device and its precision."""
        return ReusableTrainer(self.trainer)

    def _load(self, weights: Weights) -> None:
        resize(self.model, weights)
        self.model.load_state_dict(weights)

    @cached_property
    def flops_per_cell(self) -> FlopsPerCell:
        rows = np.concatenate([part.train for part in self.split.clients.values()])[: self.batch_size]
        return FlopsPerCell(*self.features.batch(rows))
