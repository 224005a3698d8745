"""Training at one site, for central training and fine-tuning; a killed training resumes."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback, EarlyStopping
from torch import Tensor

from scfl_green.data.partition import Part
from scfl_green.energy.ledger import CHECKPOINT, FIT, TRACKING, VALIDATE
from scfl_green.errors import InputError
from scfl_green.models.prune import Weights
from scfl_green.models.scores import prediction_scores
from scfl_green.training.ending import SCORE
from scfl_green.training.hooks import Hooks, PartialStep, State
from scfl_green.training.job import Job

# Before the end of the epoch, so that its checkpoint has counted this epoch already.
AFTER_VALIDATION: dict[str, Any] = {"check_on_train_epoch_end": False}

# Of progress within an epoch; more often would take longer than the batches.
SECONDS_BETWEEN_REPORTS = 0.1


@dataclass
class Arm:
    """One training on the cells of one part, starting from ``weights``.

    ``name`` is used in checkpoints and records, ``phase`` in the ledger. With ``patience``, training stops after that
    many epochs without a better weighted F1 on validation cells. ``pretrained``: the weights are the job's initial
    ones, which are scored before training, as epoch 0, and compete with those of the epochs if they know all types.
    """

    name: str
    part: Part
    weights: Weights
    hooks: Hooks
    phase: str = FIT
    patience: int | None = None
    callbacks: Sequence[Callback] = field(default_factory=list)
    pretrained: bool = False

    def all_callbacks(self, before: Mapping[str, float] | None = None) -> list[Callback]:
        """The callbacks of a fit of weights with the scores ``before``."""
        if self.patience is None:
            return [*self.callbacks]
        if not len(self.part.validation):
            raise InputError("finetuning.patience needs validation cells: set split.validation above 0")
        stop = EarlyStopping(SCORE, mode="max", patience=self.patience, **AFTER_VALIDATION)
        if before:
            stop.best_score = torch.tensor(before[SCORE])
        return [*self.callbacks, stop]


def fit_single_site(job: Job, arm: Arm, epochs: int) -> tuple[Weights, int]:
    """Train an arm; returns its weights and the epochs trained.

    When a hook changes the weights between two epochs, a new stage begins, with a fresh optimiser.
    """
    state: State = job.saved.get(arm.name, {})
    arm.hooks.load_state_dict(state.get("hooks", {}))
    initial: State = {"weights": arm.weights, "done": 0, "stage": 0, "ended": False}
    weights, done, stage, ended = ((initial | state)[key] for key in initial)
    # A training that resumes has them in its checkpoint.
    before = _epoch_0(job, arm, epochs) if arm.pretrained and not state else {}
    while not ended:
        epoch_end = _EpochEnd(job, arm, done, epochs, stage)
        with _resumed(state) as path:
            if path is not None:
                weights = torch.load(path, weights_only=True)["state_dict"]
            how = {"validate": True, "phase": arm.phase, "resume": path}
            callbacks = [epoch_end, *arm.all_callbacks(before)]
            weights, _ = job.fit(
                arm.part, weights, epochs=epochs - done, round_number=stage, callbacks=callbacks, **how
            )
        # Unless a hook changed the weights, nothing is left to train.
        ended = epoch_end.ended or epoch_end.changed is None
        weights, done, stage, before = epoch_end.changed or weights, epoch_end.done, stage + 1, {}
        state = {"weights": weights, "done": done, "stage": stage, "ended": ended}
        job.checkpoint(arm.name, state | {"hooks": arm.hooks.state_dict()})
    return weights, done


def _epoch_0(job: Job, arm: Arm, epochs: int) -> dict[str, float]:
    """Score the job's initial weights on validation cells, if there are any, and tell the hooks; empty if they do not
    compete, since they have yet to learn types."""
    scores: dict[str, float] = {}
    if len(arm.part.validation):
        deciding = job.validates([*job.callbacks(), *arm.all_callbacks()])
        with job.meter.phase(FIT if deciding else VALIDATE, 0, arm.part.name):
            found = prediction_scores(*job.untouched(arm.part.validation))
        scores = {f"validation/{name}": value for name, value in found.items()}
    step = job.step("epoch", 0, epochs, arm.phase)
    step.metrics |= scores
    step.weights = lambda: arm.weights
    with job.meter.phase(TRACKING):
        arm.hooks.before(step, competes := job.n_known == job.model.n_types)
    return scores if competes else {}


@contextmanager
def _resumed(state: State) -> Iterator[Path | None]:
    """Lightning's checkpoint of the last epoch as a file; None without one."""
    checkpoint: Tensor | None = state.get("lightning")
    if checkpoint is None:
        yield None
        return
    with TemporaryDirectory() as folder:
        (path := Path(folder) / "epoch.ckpt").write_bytes(checkpoint.numpy().tobytes())
        yield path


class _EpochEnd(Callback):
    """Calls an arm's hooks after every epoch of a stage, which began after ``before`` epochs, and writes a checkpoint
    after each but the last; ends the stage when a hook changes the weights or ends training."""

    def __init__(self, job: Job, arm: Arm, before: int, total: int, stage: int) -> None:
        self.job, self.arm, self.before, self.total, self.stage = job, arm, before, total, stage
        self.changed: Weights | None = None
        self.done, self.ended, self.next_report = before, False, 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        of = trainer.num_training_batches
        # A packed epoch is a single batch.
        if of == 1 or (batch_idx + 1 < of and time.monotonic() < self.next_report):
            return
        number = self.before + trainer.current_epoch + 1
        with self.job.meter.phase(TRACKING):
            self.arm.hooks.within(PartialStep("epoch", number, self.total, batch_idx + 1, int(of), "batches"))
        self.next_report = time.monotonic() + SECONDS_BETWEEN_REPORTS

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.done = self.before + trainer.current_epoch + 1
        step = self.job.step("epoch", self.done, self.total, self.arm.phase)
        step.metrics |= {name: float(value) for name, value in trainer.callback_metrics.items()}
        step.last = trainer.should_stop or self.done == self.total
        with self.job.meter.phase(TRACKING):
            self.changed = self.arm.hooks.after(step)
        self.ended = step.last
        trainer.should_stop = step.last or self.changed is not None
        if not trainer.should_stop and self.job.fitter.resumable:
            self._checkpoint(trainer)

    def _checkpoint(self, trainer: Trainer) -> None:
        with self.job.meter.phase(CHECKPOINT), TemporaryDirectory() as folder:
            trainer.save_checkpoint(path := Path(folder) / "epoch.ckpt")
            content = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
        state = {"lightning": content, "done": self.before, "stage": self.stage, "hooks": self.arm.hooks.state_dict()}
        self.job.checkpoint(self.arm.name, state)
