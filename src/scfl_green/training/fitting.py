"""One fit: what it is for, and how a Trainer is run for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytorch_lightning as pl

from scfl_green.data.features.datamodule import CellDataModule
from scfl_green.energy.ledger import FIT
from scfl_green.models.base import CellClassifier


@dataclass(frozen=True)
class Fit:
    """The options of a fit: its epochs, its round and further callbacks, whether every epoch is validated, its
    ``phase`` in the ledger, and Lightning's checkpoint of an epoch of the same fit to ``resume`` from."""

    epochs: int = 1
    round_number: int = 0
    callbacks: Sequence[pl.Callback] = ()
    validate: bool = False
    phase: str = FIT
    resume: Path | None = None


class Fitter(Protocol):
    """Runs a Trainer for one fit."""

    # Whether a fit that was killed goes on after its last epoch; else it begins anew.
    resumable: bool

    def fit(self, trainer: pl.Trainer, model: CellClassifier, data: CellDataModule, fit: Fit) -> float:
        """The epochs trained, a fraction where the fit ended within one."""


class PlainFit:
    """Lightning's own fit."""

    resumable = True

    def fit(self, trainer: pl.Trainer, model: CellClassifier, data: CellDataModule, fit: Fit) -> float:
        trainer.fit(model, datamodule=data, ckpt_path=fit.resume, weights_only=True)
        return trainer.current_epoch
