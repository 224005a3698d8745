"""Regimes: central and federated. They decide how often, where and from which weights ``Job.fit`` runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from scfl_green.bounds import Count
from scfl_green.data.partition import Part
from scfl_green.federated.about import about_weights
from scfl_green.federated.federation import Federation
from scfl_green.federated.oneshot import OneShot
from scfl_green.models.calibration import Calibration
from scfl_green.models.prune import Weights
from scfl_green.training.job import Job
from scfl_green.training.single_site import Arm, fit_single_site
from scfl_green.training.survey import Survey, in_turn


@dataclass(frozen=True)
class Trained:
    """Weights, the parts whose cells they were trained on, and what the validation cells of these tell of them."""

    weights: Weights
    parts: Sequence[Part]
    calibration: Calibration | None = None


@dataclass(frozen=True)
class Outcome:
    """What was trained, one model for all parts or one for each, and the length of training; ``record`` (fields) and
    ``rows`` (one per epoch) hold what only this regime reports, and ``answer`` tells it in a sentence from the record
    of the run. ``survey`` asks the parts for the calibration."""

    models: Sequence[Trained]
    epochs: int
    rounds: int = 0
    local_epochs: int = 0
    record: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    survey: Survey = in_turn
    answer: Callable[[dict[str, Any]], str] | None = None

    @property
    def parts(self) -> list[Part]:
        return [part for model in self.models for part in model.parts]

    def answers(self, record: dict[str, Any]) -> list[str]:
        return [self.answer(record)] if self.answer else []


def central(job: Job, *, epochs: Count, solver: Federation | OneShot | None = None) -> Outcome:
    """Train on the pooled training cells of all clients: the baseline for a federation, in closed form if that is."""
    parts = list(job.split.clients.values())
    weights, done = trained_alone(job, Arm("central", Part.pooled(parts), job.initial, job.hooks), epochs, solver)
    return Outcome([Trained(weights, parts)], done)


def trained_alone(job: Job, arm: Arm, epochs: int, solver: Federation | OneShot | None) -> tuple[Weights, int]:
    """Train an arm as a federation with this ``solver`` would: by gradients, or in closed form; weights and epochs."""
    if isinstance(solver, OneShot):
        return solver.alone(job, arm.part, arm.hooks), 1
    return fit_single_site(job, arm, epochs)


def federated(job: Job, *, federation: Federation | OneShot) -> Outcome:
    """Train at each client and average the weights."""
    parts = list(job.split.clients.values())
    result = federation.train(job, parts)
    models, rounds, local_epochs = [Trained(result.weights, parts)], result.rounds, federation.local_epochs
    n_workers, timeout = federation.parallel_clients, federation.timeout_seconds
    survey = partial(about_weights, n_workers=n_workers, timeout_seconds=timeout)
    return Outcome(models, rounds * local_epochs, rounds, local_epochs, result.record, survey=survey)
