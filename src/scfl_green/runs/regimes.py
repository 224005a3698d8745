"""Regimes: ways to arrive at weights. Each calls ``Job.fit``; they differ in how often, where and from what."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from scfl_green.bounds import Count, Fraction
from scfl_green.data.partition import Part
from scfl_green.energy.ledger import FIT
from scfl_green.errors import InputError
from scfl_green.federated.simulate import Federation, simulate
from scfl_green.models.prune import Weights
from scfl_green.training.callbacks import Freeze
from scfl_green.training.hooks import Hook, Hooks, State, Step
from scfl_green.training.job import Job
from scfl_green.training.single_site import Arm, fit_single_site

SCRATCH = "scratch"


@dataclass(frozen=True)
class Outcome:
    """The weights a regime arrived at, the parts to test them on, and how it went there; ``record`` has fields for the
    run's record, and ``rows`` one row an epoch, that only this regime knows."""

    weights: Weights
    parts: Sequence[Part]
    epochs: int
    rounds: int = 0
    local_epochs: int = 0
    record: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)


def central(job: Job, *, epochs: Count) -> Outcome:
    """Train on the pooled training cells of all clients: the reference for a federation."""
    parts = list(job.split.clients.values())
    weights, done = fit_single_site(job, Arm("central", Part.pooled(parts), job.initial, job.hooks), epochs)
    return Outcome(weights, parts, done)


def federated(job: Job, *, federation: Federation) -> Outcome:
    """Train where the cells are and average the weights."""
    parts = list(job.split.clients.values())
    result = simulate(job, parts, federation)
    local_epochs = federation.local_epochs
    return Outcome(result.weights, parts, result.rounds * local_epochs, result.rounds, local_epochs, result.record)


def finetune(
    job: Job,
    *,
    epochs: Count,
    client: str | int | None = None,
    patience: Count | None = None,
    freeze: Sequence[str] = (),
    target_f1: Fraction | None = None,
) -> Outcome:
    """Fine-tune the weights of an earlier run at a newcomer, whose cells they have not seen, and train from scratch
    beside: the same cells, epochs and rule of stopping, as a reference whose emissions are not this run's.

    With ``patience``, an arm stops after as many epochs without a better weighted F1 on validation cells, and ends with
    its best weights. ``freeze`` keeps the parameters whose names begin with one of these. Test cells are scored after
    every epoch for the record alone; ``target_f1`` is where the costs of both arms are compared, by default the F1 that
    both reach.
    """
    # Chunks are named by numbers.
    part = _newcomer(job, None if client is None else str(client))
    # Hooks that are not the run's own, such as its progress, watch the first arm alone.
    again = {name: deepcopy(hook) for name, hook in job.hooks.members.items() if hook.again}
    arms = [
        Arm("from the federation", part, job.initial, job.hooks, FIT, patience, [Freeze(freeze)] if freeze else []),
        Arm("from scratch", part, job.untrained, Hooks(again), SCRATCH, patience),
    ]
    tuned, scratch = (_trained(job, arm, epochs) for arm in arms)
    assert job.start is not None
    compared = _compared(tuned, scratch, target_f1, job.start.emissions_kg)
    return Outcome(tuned.weights, [part], tuned.epochs, record=compared, rows=tuned.rows + scratch.rows)


def _newcomer(job: Job, client: str | None) -> Part:
    """The client to fine-tune at; InputError where there is none that the weights have not seen."""
    newcomers = job.split.newcomers
    for hook in job.hooks:
        if hook.trains_once:
            raise InputError(hook.trains_once)
    if job.start is None:
        raise InputError("regime=finetune starts from an earlier run: name its folder with weights=logs/runs/NAME")
    if not newcomers:
        raise InputError("regime=finetune needs a client that was held out: set split.newcomers")
    if client is not None and client not in newcomers:
        raise InputError(f"finetuning.client={client}: the newcomers are {', '.join(newcomers)}")
    part = next(iter(newcomers.values())) if client is None else newcomers[client]
    if part.name in job.start.seen.clients:
        raise InputError(f"the weights have been trained on cells of {part.name!r}: it is no newcomer to them")
    if not job.split.to_test([part]):
        raise InputError(f"newcomer {part.name!r} has no test cells: use split.test=cells")
    return part


@dataclass(frozen=True)
class _Trained:
    """The weights and epochs of an arm, its scores on the test cells, and a row an epoch."""

    weights: Weights
    epochs: int
    scores: dict[str, float]
    rows: list[dict[str, Any]]

    def at(self, f1: float) -> dict[str, Any]:
        """The first epoch that reached a weighted F1 on the test cells; empty where none did."""
        return next((row for row in self.rows if row["test_weighted_f1"] >= f1), {})


def _trained(job: Job, arm: Arm, epochs: int) -> _Trained:
    tested = job.split.to_test([arm.part])
    curve = _Curve(job, arm, tested)
    # A copy: the run's own hooks get no rows of an arm.
    arm.hooks = Hooks({**arm.hooks.members, "curve": curve})
    weights, done = fit_single_site(job, arm, epochs)
    return _Trained(weights, done, job.test(tested, weights).scores, curve.rows)


class _Curve(Hook):
    """A row an epoch of an arm: scores on validation and test cells, and what had been used by then."""

    def __init__(self, job: Job, arm: Arm, tested: Sequence[Part]) -> None:
        self.job, self.arm, self.tested = job, arm, tested
        self.rows: list[dict[str, Any]] = []

    def after(self, step: Step) -> None:
        scores = self.job.test(self.tested, self.job.weights()).scores
        self.rows.append(
            {
                "arm": self.arm.name,
                "client": self.arm.part.name,
                "epoch": step.number,
                "validation_weighted_f1": step.metrics.get("validation/weighted_f1"),
                "energy_kwh": step.used.energy_kwh,
                "emissions_kg": step.used.emissions_kg,
                **{f"test_{name}": value for name, value in scores.items()},
            }
        )

    def state_dict(self) -> State:
        return {"rows": self.rows}

    def load_state_dict(self, state: State) -> None:
        self.rows = state["rows"]


def _compared(tuned: _Trained, scratch: _Trained, target: float | None, pretraining_kg: float | None) -> dict[str, Any]:
    """What each arm needed to reach the target (None where it did not), and after how many newcomers the emissions of
    pre-training are paid back."""
    f1 = target or min(max(row["test_weighted_f1"] for row in arm.rows) for arm in (tuned, scratch))
    first, alone = tuned.at(f1), scratch.at(f1)
    saved_kg = alone["emissions_kg"] - first["emissions_kg"] if first and alone else 0.0
    needed = {
        f"{arm}_{of}_to_target": row.get(of)
        for arm, row in (("tuned", first), ("scratch", alone))
        for of in ("epoch", "energy_kwh", "emissions_kg")
    }
    return {
        "target_f1": f1,
        **needed,
        "scratch_accuracy": scratch.scores["accuracy"],
        "scratch_weighted_f1": scratch.scores["weighted_f1"],
        "scratch_emissions_kg": scratch.rows[-1]["emissions_kg"],
        "pretraining_emissions_kg": pretraining_kg,
        "newcomers_to_pay_back": pretraining_kg / saved_kg if pretraining_kg and saved_kg > 0 else None,
    }
