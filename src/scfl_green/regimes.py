"""Regimes: ways to arrive at weights. Each calls ``Job.fit``; they differ in how often, where and from what."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from scfl_green.callbacks import EachEpoch
from scfl_green.data.partition import Part
from scfl_green.errors import InputError
from scfl_green.federated.simulate import simulate
from scfl_green.job import Job, Weights


@dataclass(frozen=True)
class Outcome:
    """The weights a regime arrived at, the parts they are to be tested on, how it went there, and ``more`` for the
    record that only this regime knows."""

    weights: Weights
    parts: Sequence[Part]
    epochs: int
    rounds: int = 0
    local_epochs: int = 0
    more: dict[str, Any] = field(default_factory=dict)


def central(job: Job, *, epochs: int) -> Outcome:
    """Train on the pooled training cells of all clients: what a federation is compared with."""
    parts = list(job.split.clients.values())
    return _alone(job, Part.pooled(parts), parts, epochs)


def federated(job: Job, *, strategy: Any, rounds: int, local_epochs: int) -> Outcome:
    """Train where the cells are and average the weights, by a strategy of ``flwr.serverapp.strategy``."""
    parts = list(job.split.clients.values())
    weights = simulate(job, parts, strategy, rounds, local_epochs)
    return Outcome(weights, parts, rounds * local_epochs, rounds, local_epochs)


def finetune(job: Job, *, epochs: int, client: str | None = None) -> Outcome:
    """Train on at a newcomer client, from the weights of an earlier run that did not see its cells."""
    newcomers = job.split.newcomers
    if job.pretrained is None:
        raise InputError("regime=finetune starts from an earlier run: name its folder with weights=logs/runs/NAME")
    if not newcomers:
        raise InputError("regime=finetune needs a client that was held out: set split.newcomers")
    if client is not None and client not in newcomers:
        raise InputError(f"regime.client={client}: the newcomers are {', '.join(newcomers)}")
    part = newcomers[client] if client else next(iter(newcomers.values()))
    if part.name in job.seen:
        raise InputError(f"the weights have been trained on cells of {part.name!r}: it is no newcomer to them")
    if not job.split.to_test([part]):
        raise InputError(
            f"newcomer {part.name!r} has no test cells and no client is kept for the test: use split.test=cells"
        )
    return _alone(job, part, [part], epochs)


def _alone(job: Job, part: Part, parts: Sequence[Part], epochs: int) -> Outcome:
    weights, done = job.initial, 0
    for stage, until in enumerate([*([job.prune.after_epoch] if job.prune else []), epochs]):
        if stage > 0:
            weights = job.pruned(weights)
        report = EachEpoch(partial(job.report, "epoch", epochs), done)
        weights, _ = job.fit(part, weights, epochs=until - done, round_number=stage, callbacks=[report], validate=True)
        done = until
    return Outcome(weights, parts, epochs)
