"""Job: trains and scores one model on one dataset; every regime uses it."""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from scfl_green.data.features.datamodule import Batch, CellDataModule, Features
from scfl_green.data.partition import Part, Split
from scfl_green.energy.callback import MeasureEmissions
from scfl_green.energy.flops import FlopsPerCell
from scfl_green.energy.ledger import CALIBRATE, CHECKPOINT, FIT, TEST, VALIDATE, WARM_UP
from scfl_green.energy.meter import EnergyMeter
from scfl_green.errors import InputError
from scfl_green.models.base import CellClassifier
from scfl_green.models.prune import Weights, resize
from scfl_green.models.scores import Scored
from scfl_green.training.callbacks import ShortFit
from scfl_green.training.fitting import Fit, Fitter, PlainFit
from scfl_green.training.hooks import Hooks, State, Step
from scfl_green.training.testing import TestResult
from scfl_green.training.trained_model import TrainedModel
from scfl_green.training.trainer import ReusableTrainer


@dataclass
class Job:
    """One model on one dataset. A regime decides how often, where and from which weights it is trained.

    ``initial`` are the weights of ``start``, the model to start from, or else the ``untrained`` ones of ``model``.
    ``trainer`` makes the Trainer of all fits (a partial of ``pl.Trainer``), ``callbacks`` the callbacks of each, and
    ``fitter`` runs them. ``packed``: Lightning gets a whole epoch at a time, not a batch. ``hooks`` are called after
    every epoch or round. ``saved`` holds the checkpoint of a killed run by part; ``save`` writes a new one. ``agreed``
    is the hash of what the sites of a federation agreed on, ``network`` how they are reached (None: in this process).
    Equal seeds give equal bits: each epoch is seeded from (seed, client, round, epoch), in whatever order.

    The server of sites on other machines has a job without features, whose parts only count their cells.
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
    saved: Mapping[str, State] = field(default_factory=dict)
    save: Callable[[dict[str, State]], None] = lambda _: None
    agreed: str = ""
    network: Any = None
    untrained: Weights = field(init=False)
    initial: Weights = field(init=False)

    def __post_init__(self) -> None:
        if self.start is not None and self.start.weights.keys() != self.model.state_dict().keys():
            name, own = type(self.model).__name__, str(self.start.config.get("_target_")).rpartition(".")[2]
            raise InputError(f"weights are not those of a {name}: set model= to the model that was trained ({own})")
        # A copy, since every fit overwrites the weights of the model.
        self.untrained = self.weights()
        self.initial = self.start.weights if self.start else self.untrained
        for hook in self.hooks:
            hook.begin(self)

    def step(self, unit: str, number: int, total: int, phase: str = FIT) -> Step:
        """The step that has just ended, with the consumption of training so far."""
        self.meter.read()
        if unit == "round":
            self.meter.wait_for_slowest(number)
        transfer_kg = self.meter.transfer()[1] if phase == FIT else 0.0
        return Step(unit, number, total, {}, self.meter.trained(phase), transfer_kg, self.weights)

    def checkpoint(self, name: str, state: State) -> None:
        """Write a checkpoint with the new state of one part, and the ledger so far."""
        with self.meter.phase(CHECKPOINT):
            self.save({name: state, "energy": self.meter.state_dict()})

    def weights(self) -> Weights:
        """A copy of the model's current weights."""
        return {name: value.detach().cpu().contiguous().clone() for name, value in self.model.state_dict().items()}

    def fit(self, part: Part, weights: Weights, **options: Any) -> tuple[Weights, dict[str, float]]:
        """Train from ``weights`` on a part's training cells, with a fresh optimiser and the ``options`` of ``Fit``.
        Returns the trained weights and the metrics of the last epoch."""
        fit = Fit(**options)
        site = fit.round_number, part.name
        with self.meter.phase(fit.phase, *site):
            self._load(weights)
            epochs = self._fit(part, fit)
            trained = self.weights()
        entry = self.meter.entry(fit.phase, *site)
        entry.cells += round(epochs * len(part.train))
        entry.flops += self.flops_per_cell(self.model) * epochs * len(part.train)
        return trained, dict(self.model.scores)

    def _fit(self, part: Part, fit: Fit) -> float:
        """Train the model as it is; returns the epochs trained."""
        seed = [self.seed, zlib.crc32(part.name.encode()), fit.round_number]
        # A warm-up has no validation, which a user's callbacks may wait for.
        callbacks = [*(self.callbacks() if fit.phase != WARM_UP else []), *fit.callbacks]
        validation = fit.phase if self.validates(callbacks) else VALIDATE
        measure = MeasureEmissions(self.meter, fit.round_number, part.name, fit.phase, validation)
        trainer = self.reusable(measure, ShortFit(seed), *callbacks, epochs=fit.epochs)
        trainer.limit_val_batches = 1.0 if fit.validate and len(part.validation) else 0
        self.model.automatic_optimization, self.model.logging = not self.packed, bool(callbacks)
        data = CellDataModule(self.features, part, self.batch_size, seed, self.packed)
        return self.fitter.fit(trainer, self.model, data, fit)

    def validates(self, callbacks: Sequence[pl.Callback] = ()) -> bool:
        """Whether scores on validation cells decide anything: then validation is part of training."""
        return any(hook.validates for hook in self.hooks) or any(getattr(c, "monitor", None) for c in callbacks)

    def validate(self, part: Part, weights: Weights, round_number: int = 0) -> dict[str, float]:
        """Loss and scores of ``weights`` on a part's validation cells."""
        phase = FIT if self.validates() else VALIDATE
        # Not by Lightning's loop, which takes as long as training on a small client.
        with self.meter.phase(phase, round_number, part.name):
            self._load(weights)  # outside of inference mode, whose tensors could not be trained
            batches = CellDataModule(self.features, part, self.batch_size, [self.seed]).val_dataloader()
            with self.reusable.inference(self.model):
                return self.model.validated(batches)

    def test(self, parts: Sequence[Part], weights: Weights) -> TestResult:
        """Scores of ``weights`` on the test cells of these parts."""
        return TestResult.of({part.name: self.tested(part, weights) for part in parts})

    def tested(self, part: Part, weights: Weights, temperature: float = 1.0) -> Scored:
        """What the test cells of a part tell of ``weights``."""
        self.meter.entry(TEST).cells += len(part.test)
        with self.meter.phase(TEST):
            return Scored.of(*self.logits(part.test, weights), temperature)

    def validated(self, part: Part, weights: Weights) -> Scored:
        """What its validation cells tell; not part of training."""
        with self.meter.phase(CALIBRATE):
            return Scored.of(*self.logits(part.validation, weights))

    def logits(self, rows: np.ndarray, weights: Weights) -> tuple[Tensor, Tensor]:
        """The logits of ``weights`` for these cells (cells x types, float32), and the cells' labels."""
        self._load(weights)
        with self.reusable.inference(self.model) as infer:
            logits = [torch.empty(0, self.model.n_types), *(infer(x).float().cpu() for x, _ in self.batches(rows))]
        return torch.cat(logits), torch.from_numpy(self.features.labels[rows])

    def untouched(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """The same of the initial weights, which predict no type that they do not know, although they may have been
        given (untrained) outputs for it."""
        logits, labels = self.logits(rows, self.initial)
        logits[:, self.n_known :] = -torch.inf
        return logits, labels

    @property
    def n_known(self) -> int:
        """The number of types that the initial weights know."""
        return self.model.n_types if self.start is None else len(self.start.types)

    def batches(self, rows: np.ndarray) -> Iterator[Batch]:
        """Features and labels of these cells in batches that are large enough for inference."""
        return self.features.batches([rows[start : start + 1024] for start in range(0, len(rows), 1024)])

    def warm_up(self) -> None:
        """Train briefly and discard the result, so that the first fit does not pay the one-time costs of a process."""
        if not self.has_cells:
            return
        weights = self.weights()
        part = next(iter(self.split.clients.values()))
        one_batch = replace(part, train=part.train[: self.batch_size])
        with self.meter.phase(WARM_UP):
            self.fit(one_batch, weights, epochs=1, phase=WARM_UP)
        self.model.load_state_dict(weights)

    @property
    def has_cells(self) -> bool:
        """Whether the cells are in this process."""
        return len(self.features.labels) > 0

    @cached_property
    def reusable(self) -> ReusableTrainer:
        """The Trainer of all fits."""
        return ReusableTrainer(self.trainer)

    def _load(self, weights: Weights) -> None:
        resize(self.model, weights)
        self.model.load_state_dict(weights)

    @cached_property
    def flops_per_cell(self) -> FlopsPerCell:
        rows = np.concatenate([part.train for part in self.split.clients.values()])[: self.batch_size]
        return FlopsPerCell(*self.features.batch(rows))
