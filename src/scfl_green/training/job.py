"""Job: the only thing that fits and scores weights, whatever the regime."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from scfl_green.data.features.datamodule import CellDataModule, Features
from scfl_green.data.partition import Part, Split
from scfl_green.energy.flops import FlopsPerCell
from scfl_green.energy.ledger import FIT, TEST, VALIDATE, WARM_UP, Budget
from scfl_green.energy.meter import EnergyMeter, MeasureEmissions
from scfl_green.errors import InputError
from scfl_green.models.base import CellClassifier
from scfl_green.models.prune import Prune, Weights, resize
from scfl_green.models.scores import Confusion, classification_scores
from scfl_green.training.callbacks import ShortFit
from scfl_green.training.checkpoint import Checkpoint
from scfl_green.training.resident import Resident

if TYPE_CHECKING:
    from scfl_green.training.dp.dp_sgd import DPSGD  # imports Opacus, which a run without it need not have

# Told of (unit, total, step, metrics), e.g. ("round", 5, 1, {...}), whenever a round or epoch ends.
Report = Callable[[str, int, int, dict[str, float]], None]


@dataclass
class Job:
    """One model on one dataset. A regime decides how often, where and from which weights it is fitted.

    ``initial`` are the weights to start from: ``pretrained`` ones of an earlier run where given, else those that
    the model was made with (``untrained``); ``seen`` are the clients that they were trained on, which emitted
    ``pretraining_kg``. ``trainer`` makes a Trainer (a partial of ``pl.Trainer``), which serves all fits; ``callbacks``
    makes the callbacks of one. ``packed``: Lightning is handed an epoch at a time, not a batch. The same seed gives the
    same bits: each epoch is seeded by (seed, client, round, epoch), so that the order in which clients train does not
    matter. What a killed run had put into ``checkpoint`` is in it again.
    """

    model: CellClassifier
    features: Features
    split: Split
    trainer: Callable[..., pl.Trainer]
    meter: EnergyMeter
    batch_size: int
    seed: int
    report: Report
    packed: bool = True
    callbacks: Callable[[], list[pl.Callback]] = list
    pretrained: Weights | None = None
    untrained: Weights = field(init=False)
    initial: Weights = field(init=False)
    seen: frozenset[str] = frozenset()
    pretraining_kg: float | None = None
    prune: Prune | None = None
    budget: Budget | None = None
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    privacy: "DPSGD | None" = None
    history: list[tuple[float, float]] = field(default_factory=list, init=False)
    confusion: Tensor = field(init=False)
    last_good: Weights | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.pretrained is not None and self.pretrained.keys() != self.model.state_dict().keys():
            raise InputError(f"weights: they are not those of a {type(self.model).__name__}; choose their model=")
        # Kept, since every fit leaves its own weights in the one resident model.
        self.untrained = self.weights()
        self.initial = self.pretrained or self.untrained
        self.history += [(grams, f1) for grams, f1 in self.checkpoint.state.get("history", [])]
        if self.privacy is not None:
            self.privacy.check(self.model, self.features, self.split.clients, self.resident.precision, self.pretrained)
            self.privacy.take_up(self.checkpoint.state.get("privacy", {}))

    def ended(self, unit: str, total: int, step: int, metrics: dict[str, float], fit_as: str = FIT) -> bool:
        """Report a finished round or epoch, or only measure it if its fit does not count; true: it is enough."""
        if self.privacy is not None:
            metrics = metrics | {"privacy/epsilon": self.privacy.summary()["epsilon"]}
        if fit_as == FIT:
            self.report(unit, total, step, metrics)
        else:
            self.meter.read()
        self.history.append(self._spent(fit_as, metrics))
        return self.enough

    @property
    def enough(self) -> bool:
        """A budget is spent."""
        over = self.privacy is not None and self.privacy.over
        return over or (self.budget is not None and bool(self.history) and self.budget.spent(self.history))

    def keep(self) -> None:
        """Write a checkpoint of what the regime has put into it, with what has been used and reached so far."""
        self.checkpoint.state |= {"history": self.history, "used": self.meter.rows()}
        self.checkpoint.state |= {"privacy": self.privacy.state()} if self.privacy else {}
        self.checkpoint.save()

    def _spent(self, phase: str, metrics: dict[str, float]) -> tuple[float, float]:
        """Grams of CO2e spent on a phase so far, and the weighted F1 on validation cells that they have bought."""
        if self.budget is not None and "validation/weighted_f1" not in metrics:
            raise InputError("callbacks=carbon_budget keeps the best weights on validation cells, and there are none")
        kg = self.meter.total(phase).emissions_kg + (self.meter.transfer()[1] if phase == FIT else 0.0)
        return kg * 1e3, metrics.get("validation/weighted_f1", 0.0)

    def weights(self) -> Weights:
        """A copy of those that the model has now."""
        return {name: value.detach().cpu().contiguous().clone() for name, value in self.model.state_dict().items()}

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
        resume: Path | None = None,
    ) -> tuple[Weights, dict[str, float]]:
        """Train from ``weights`` on a part's training cells for ``epochs``, with a fresh optimiser, or on from
        ``resume``, Lightning's checkpoint of an epoch of the same fit; gives the weights arrived at and the metrics of
        the last epoch. ``fit_as`` names its phase in the ledger where it is not to count as the run's training."""
        self._load(weights)
        seed = [self.seed, zlib.crc32(part.name.encode()), round_number]
        measure = MeasureEmissions(self.meter, round_number, part.name, fit_as)
        more = [*self.callbacks(), *callbacks]
        trainer = self.resident(measure, ShortFit(seed), *more, epochs=epochs)
        trainer.limit_val_batches = 1.0 if validate and len(part.validation) else 0
        self.model.automatic_optimization, self.model.logging = not self.packed, bool(more)
        data = CellDataModule(self.features, part, self.batch_size, seed, self.packed)
        if self.privacy is None:
            trainer.fit(self.model, datamodule=data, ckpt_path=resume, weights_only=True)
            trained: float = trainer.current_epoch
        else:
            with self.meter.phase(fit_as, round_number, part.name):
                trained = self.privacy.fit(trainer, self.model, data, round_number, counts=fit_as != WARM_UP)
        entry = self.meter.entry(fit_as, round_number, part.name)
        entry.cells += round(trained * len(part.train))
        entry.flops += self.flops_per_cell(self.model) * trained * len(part.train)
        return self.weights(), dict(self.model.scores)

    def validate(self, part: Part, weights: Weights, round_number: int = 0) -> dict[str, float]:
        """Loss and scores of ``weights`` on a part's validation cells."""
        self._load(weights)
        batches = CellDataModule(self.features, part, self.batch_size, [self.seed]).val_dataloader()
        # Without Lightning's loop, which takes as long as training a small client.
        with self.meter.phase(VALIDATE, round_number, part.name), self.resident.inference(self.model):
            return self.model.validated(batches)

    def test(self, parts: Sequence[Part], weights: Weights) -> dict[str, dict[str, float]]:
        """Scores on the test cells of all parts together (under ``""``) and of each by name; ``confusion`` then counts
        them by true (rows) and predicted cell type."""
        self._load(weights)
        every, by_client = Confusion(self.model.n_types), {}
        with self.meter.phase(TEST), self.resident.inference(self.model) as infer:
            for part in parts:
                batches = CellDataModule(self.features, part, 1024, [self.seed]).test_dataloader()
                predicted = torch.cat([infer(x).argmax(dim=1).cpu() for x, _ in batches])
                for confusion in (every, own := Confusion(self.model.n_types)):
                    confusion.add(predicted, torch.from_numpy(self.features.labels[part.test]))
                by_client[part.name] = own
        self.confusion = every.matrix
        return {name: classification_scores(of.matrix) for name, of in {"": every, **by_client}.items()}

    def warm_up(self) -> None:
        """One step that counts for nothing, so that the first fit does not pay for what a process does once."""
        weights = self.weights()
        part = next(iter(self.split.clients.values()))
        few = replace(part, train=part.train[: self.batch_size])
        with self.meter.phase(WARM_UP):
            self.fit(few, weights, epochs=1, fit_as=WARM_UP)
        self.model.load_state_dict(weights)

    @cached_property
    def resident(self) -> Resident:
        """The Trainer of every fit; its device and its precision."""
        return Resident(self.trainer)

    def _load(self, weights: Weights) -> None:
        resize(self.model, weights)
        self.model.load_state_dict(weights)

    def pruned(self, weights: Weights) -> Weights:
        """The weights without the hidden units that ``prune`` takes out."""
        assert self.prune is not None
        self._load(weights)
        return self.prune(weights, self.model.hidden_units())

    @cached_property
    def flops_per_cell(self) -> FlopsPerCell:
        rows = np.concatenate([part.train for part in self.split.clients.values()])[: self.batch_size]
        return FlopsPerCell(*self.features.batch(rows))
