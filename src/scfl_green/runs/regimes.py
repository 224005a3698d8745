"""Regimes: central, federated and fine-tuning. They decide how often, where and from which weights ``Job.fit`` runs."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from scfl_green.bounds import Count, Fraction
from scfl_green.data.partition import Part
from scfl_green.energy.ledger import FIT
from scfl_green.errors import InputError
from scfl_green.federated.calibrate import by_message
from scfl_green.federated.simulate import Federation, simulate
from scfl_green.models.calibration import Calibration
from scfl_green.models.prune import Weights
from scfl_green.training.calibrate import Survey, in_turn
from scfl_green.training.callbacks import Freeze
from scfl_green.training.hooks import Hook, Hooks, State, Step
from scfl_green.training.job import Job
from scfl_green.training.single_site import Arm, fit_single_site

SCRATCH = "scratch"


@dataclass(frozen=True)
class Trained:
    """Weights, the parts whose cells they were trained on, and what the validation cells of these tell of them."""

    weights: Weights
    parts: Sequence[Part]
    calibration: Calibration | None = None


@dataclass(frozen=True)
class Outcome:
    """What was trained, one model for all parts or one for each, and the length of training; ``record`` (fields) and
    ``rows`` (one per epoch) hold what only this regime reports. ``survey`` asks the parts for the calibration."""

    models: Sequence[Trained]
    epochs: int
    rounds: int = 0
    local_epochs: int = 0
    record: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    survey: Survey = in_turn

    @property
    def parts(self) -> list[Part]:
        return [part for model in self.models for part in model.parts]


def central(job: Job, *, epochs: Count) -> Outcome:
    """Train on the pooled training cells of all clients: the baseline for a federation."""
    parts = list(job.split.clients.values())
    weights, done = fit_single_site(job, Arm("central", Part.pooled(parts), job.initial, job.hooks), epochs)
    return Outcome([Trained(weights, parts)], done)


def federated(job: Job, *, federation: Federation) -> Outcome:
    """Train at each client and average the weights."""
    parts = list(job.split.clients.values())
    result = simulate(job, parts, federation)
    models, rounds, local_epochs = [Trained(result.weights, parts)], result.rounds, federation.local_epochs
    n_workers, timeout = federation.parallel_clients, federation.timeout_seconds
    survey = partial(by_message, n_workers=n_workers, timeout_seconds=timeout)
    return Outcome(models, rounds * local_epochs, rounds, local_epochs, result.record, survey=survey)


def finetune(
    job: Job,
    *,
    epochs: Count,
    client: str | int | None = None,
    patience: Count | None = None,
    freeze: Sequence[str] = (),
    target_f1: Fraction | None = None,
) -> Outcome:
    """Fine-tune the weights of an earlier run on a held-out client, and train from scratch as a baseline: same cells,
    epochs and stopping rule. The baseline's emissions do not count as this run's.

    With ``patience``, an arm stops after that many epochs without a better weighted F1 on validation cells, and ends
    with its best weights. ``freeze``: prefixes of parameters to keep. Test cells are scored after every epoch, only for
    the record. The costs of both arms are compared at ``target_f1``, by default the highest F1 that both reach.
    """
    # Clients that are chunks have numbers as names.
    part = _newcomer(job, None if client is None else str(client))
    # The other hooks, such as progress, follow only the first arm.
    copies = {name: deepcopy(hook) for name, hook in job.hooks.members.items() if hook.per_arm}
    arms = [
        Arm("from the federation", part, job.initial, job.hooks, FIT, patience, [Freeze(freeze)] if freeze else []),
        Arm("from scratch", part, job.untrained, Hooks(copies), SCRATCH, patience),
    ]
    tuned, scratch = (_train_arm(job, arm, epochs) for arm in arms)
    assert job.start is not None
    comparison = _compare(tuned, scratch, target_f1, job.start.emissions_kg)
    trained = [Trained(tuned.weights, [part])]
    return Outcome(trained, tuned.epochs, record=comparison, rows=tuned.rows + scratch.rows)


def _newcomer(job: Job, client: str | None) -> Part:
    """The held-out client to fine-tune on; InputError if the weights have seen all."""
    newcomers = job.split.newcomers
    for hook in job.hooks:
        if hook.no_finetuning:
            raise InputError(hook.no_finetuning)
    if job.start is None:
        raise InputError("regime=finetune starts from an earlier run: name its folder with weights=logs/runs/NAME")
    if not newcomers:
        raise InputError("regime=finetune needs a held-out client: set split.newcomers")
    if client is not None and client not in newcomers:
        raise InputError(f"finetuning.client={client}: the newcomers are {', '.join(newcomers)}")
    part = next(iter(newcomers.values())) if client is None else newcomers[client]
    if part.name in job.start.seen.clients:
        raise InputError(f"finetuning.client={part.name}: the weights were trained on its cells; choose another")
    if not job.split.to_test([part]):
        raise InputError(f"newcomer {part.name!r} has no test cells: use split.test=cells")
    return part


@dataclass(frozen=True)
class _Result:
    """The final weights of an arm, its epochs, its scores on test cells, and a row per epoch."""

    weights: Weights
    epochs: int
    scores: dict[str, float]
    rows: list[dict[str, Any]]

    def at(self, f1: float) -> dict[str, Any]:
        """The row of the first epoch that reached this weighted F1 on test cells; empty if none did."""
        return next((row for row in self.rows if row["test_weighted_f1"] >= f1), {})


def _train_arm(job: Job, arm: Arm, epochs: int) -> _Result:
    test_parts = job.split.to_test([arm.part])
    history = _EpochScores(job, arm, test_parts)
    # A copy, so that the job's own hooks do not include the history of an arm.
    arm.hooks = Hooks({**arm.hooks.members, "curve": history})
    weights, done = fit_single_site(job, arm, epochs)
    return _Result(weights, done, job.test(test_parts, weights).scores, history.rows)


class _EpochScores(Hook):
    """Records a row per epoch of an arm: scores on validation and test cells, and the consumption so far."""

    def __init__(self, job: Job, arm: Arm, test_parts: Sequence[Part]) -> None:
        self.job, self.arm, self.test_parts = job, arm, test_parts
        self.rows: list[dict[str, Any]] = []

    def after(self, step: Step) -> None:
        scores = self.job.test(self.test_parts, self.job.weights()).scores
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


def _compare(tuned: _Result, scratch: _Result, target: float | None, pretraining_kg: float | None) -> dict[str, Any]:
    """The cost at which each arm reached the target (None if it did not), and the number of newcomers that pay back the
    emissions of pre-training."""
    f1 = target or min(max(row["test_weighted_f1"] for row in arm.rows) for arm in (tuned, scratch))
    at_target = {"tuned": tuned.at(f1), "scratch": scratch.at(f1)}
    tuned_kg, scratch_kg = (row.get("emissions_kg") for row in at_target.values())
    saved_kg = scratch_kg - tuned_kg if scratch_kg is not None and tuned_kg is not None else 0.0
    costs = {
        f"{arm}_{field}_to_target": row.get(field)
        for arm, row in at_target.items()
        for field in ("epoch", "energy_kwh", "emissions_kg")
    }
    return {
        "target_f1": f1,
        **costs,
        "scratch_accuracy": scratch.scores["accuracy"],
        "scratch_weighted_f1": scratch.scores["weighted_f1"],
        "scratch_emissions_kg": scratch.rows[-1]["emissions_kg"],
        "pretraining_emissions_kg": pretraining_kg,
        "newcomers_to_pay_back": pretraining_kg / saved_kg if pretraining_kg and saved_kg > 0 else None,
    }
