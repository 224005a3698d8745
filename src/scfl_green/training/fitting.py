"""One fit: its options, and the interface of what runs it."""

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
    """Options of a fit; ``callbacks`` are added to the job's, ``validate`` scores validation cells after every epoch,
    ``phase`` is its name in the ledger, and ``resume`` Lightning's checkpoint of an earlier epoch of the same fit."""

    epochs: int = 1
    round_number: int = 0
    callbacks: Sequence[pl.Callback] = ()
    validate: bool = False
    phase: str = FIT
    resume: Path | None = None


class Fitter(Protocol):
    """Runs one fit with a Trainer."""

    # Whether a killed fit resumes after its last finished epoch; else it starts over.
    resumable: bool

    def fit(self, trainer: pl.Trainer, model: CellClassifier, data: CellDataModule, fit: Fit) -> float:
        """Train; returns the epochs trained, a fraction if the fit ended within one."""


class PlainFit:
    """Lightning's own fit, without privacy."""

    resumable = True

    def fit(self, trainer: pl.Trainer, model: CellClassifier, data: CellDataModule, fit: Fit) -> float:
        trainer.fit(model, datamodule=data, ckpt_path=fit.resume, weights_only=True)
        return trainer.current_epoch
