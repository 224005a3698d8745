"""A federation of one round, which needs no gradients: sites add up sums, and the server solves."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial, reduce
from operator import add
from typing import Any, Literal

import numpy as np
import torch

from scfl_green.bounds import Count, Positive
from scfl_green.data.partition import Part
from scfl_green.data.wire import Arrays
from scfl_green.energy.ledger import AGGREGATE, FIT, TRACKING
from scfl_green.errors import InputError
from scfl_green.federated.about import about_weights
from scfl_green.federated.federation import Federated, check_sizes
from scfl_green.models.linear import Linear
from scfl_green.models.moments import Moments
from scfl_green.models.prune import Weights
from scfl_green.training.hooks import Hooks
from scfl_green.training.job import Job
from scfl_green.training.survey import MOMENTS, moments


@dataclass(frozen=True)
class OneShot:
    """Solves ``model=linear`` from exact sums over the training cells of all sites (``models.moments``), so that it
    equals the solution on the pooled cells however they are spread, as in analytic federated learning (He et al. 2025,
    CVPR, "AFL: A Single-Round Analytic Approach for Federated Learning with Pre-trained Models"; Fani et al. 2024,
    ICML, "Accelerating Heterogeneous Federated Learning with Closed-form Classifiers").

    Every site must have ``min_cells`` training cells, and answer within ``timeout_seconds``. Its message grows with the
    square of the number of genes.
    """

    ridge: Positive
    min_cells: int = 0
    timeout_seconds: Positive = 3600
    parallel_clients: Count = 1
    rounds: Literal[1] = 1
    local_epochs: Literal[1] = 1
    codec: Any = None

    def train(self, job: Job, parts: Sequence[Part]) -> Federated:
        check_sizes(parts, self.min_cells)
        self._check(job)
        ask_by = partial(about_weights, n_workers=self.parallel_clients, timeout_seconds=self.timeout_seconds)
        with ask_by(job, job.untrained, parts, round_number=1) as ask:
            answers = dict(ask(MOMENTS, {}))
        with job.meter.phase(AGGREGATE, 1):
            sums = [_checked(answers[part.name], job, part) for part in parts]
            weights = self._solved(reduce(add, sums), job)
        step = job.step("round", 1, 1)
        step.last, step.weights = True, lambda: weights
        with job.meter.phase(TRACKING):
            job.hooks.after(step)
        return Federated(weights, 1, {"clients_by_round": [len(parts)], "refused": []})

    def alone(self, job: Job, part: Part, hooks: Hooks) -> Weights:
        """The solution of the cells of one part, where they are: nothing travels."""
        self._check(job)
        answer = moments(job, part, job.untrained, {})
        with job.meter.phase(FIT, 1, part.name):
            weights = self._solved(_checked(answer, job, part), job)
        step = job.step("epoch", 1, 1)
        step.last, step.weights = True, lambda: weights
        with job.meter.phase(TRACKING):
            hooks.after(step)
        return weights

    def _check(self, job: Job) -> None:
        if not isinstance(job.model, Linear):
            raise InputError(f"federation=oneshot solves model=linear, not {type(job.model).__name__}")
        if self.codec is not None:
            raise InputError("message= codes changes of weights, and federation=oneshot sends sums: leave it out")
        if any(hook.validates or hook.no_calibration for hook in job.hooks):
            raise InputError(
                "federation=oneshot has no rounds to choose from and no gradients to add noise to: leave out end=best, "
                "callbacks=carbon_budget and privacy="
            )
        if job.start is not None:
            raise InputError("federation=oneshot starts from no weights: leave out weights=")

    def _solved(self, sums: Moments, job: Job) -> Weights:
        names = "classifier.weight", "classifier.bias"
        return {name: value.float() for name, value in zip(names, sums.discriminant(self.ridge), strict=True)}


def _checked(answer: Arrays, job: Job, part: Part) -> Moments:
    """What a site has told; InputError for what it cannot have summed."""
    n_types, n_genes = job.model.n_types, job.features.n_genes
    shapes = {"cells": (n_types,), "linear": (n_types, n_genes), "products": (n_genes * (n_genes + 1) // 2,)}
    if {name: array.shape for name, array in answer.items()} != shapes:
        raise InputError(f"{part.name} has not told sums of its features; why, is in its log")
    if not all(np.isfinite(array).all() for array in answer.values()):
        raise InputError(f"{part.name} has told sums that are not finite")
    sums = Moments(**{name: torch.from_numpy(array) for name, array in answer.items()})
    if (sums.cells < 0).any() or sums.cells.sum() > len(part.train):
        raise InputError(f"{part.name} has told sums of {sums.cells.sum():g} cells; it has {len(part.train)}")
    return sums.whole()
