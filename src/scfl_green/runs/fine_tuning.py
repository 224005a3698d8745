"""Fine-tuning at a newcomer, beside the untouched weights and training from scratch."""

import hashlib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

from scfl_green.bounds import Count
from scfl_green.data.partition import Part
from scfl_green.energy.ledger import FIT, TEST
from scfl_green.errors import InputError
from scfl_green.models.prune import Weights
from scfl_green.models.scores import Scored
from scfl_green.runs.answer import answer
from scfl_green.runs.newcomer import FineTuning, newcomer_of
from scfl_green.runs.regimes import Outcome, Trained
from scfl_green.training.callbacks import Freeze
from scfl_green.training.hooks import Hook, Hooks, State, Step
from scfl_green.training.job import Job
from scfl_green.training.single_site import SCORE, Arm, fit_single_site
from scfl_green.training.testing import TestResult

SCRATCH = "scratch"
DEFAULTS = FineTuning()
F1 = "validation_weighted_f1"


def finetune(job: Job, *, epochs: Count, finetuning: FineTuning = DEFAULTS) -> Outcome:
    """Fine-tune the weights of an earlier run at a newcomer, and train from scratch as a baseline: same cells, epochs
    and stopping rule. The baseline's emissions do not count as this run's.

    The untouched weights are epoch 0; they are kept if weights are chosen by validation cells and no epoch scores
    better there. Test cells are scored once, at the end, for each of the three, unless a curve is asked for.
    """
    part = newcomer_of(job, finetuning.client)
    if finetuning.target_f1 and not len(part.validation):
        raise InputError("finetuning.target_f1 needs validation cells: set split.validation above 0")
    # The other hooks, such as progress, follow only the first arm.
    copies = {name: deepcopy(hook) for name, hook in job.hooks.members.items() if hook.per_arm}
    freeze = [Freeze(finetuning.freeze)] if finetuning.freeze else []
    arms = [
        Arm("from the federation", part, job.initial, job.hooks, FIT, finetuning.patience, freeze, pretrained=True),
        Arm("from scratch", part, job.untrained, Hooks(copies), SCRATCH, finetuning.patience),
    ]
    tuned, scratch = (_train_arm(job, arm, epochs, finetuning.curve) for arm in arms)
    compared = _compare(tuned, scratch, finetuning.target_f1)
    record = compared | _scores(job, part, scratch.weights) | _paid_back(job, compared)
    rows = [*tuned.rows, *scratch.rows]
    return Outcome(
        [Trained(tuned.weights, [part])], tuned.epochs, record=record, rows=rows, answer=partial(answer, part.name)
    )


@dataclass(frozen=True)
class _Result:
    """The final weights of an arm, its epochs, a row per epoch, and the row of the epoch whose weights are final (empty
    if a callback has made others)."""

    weights: Weights
    epochs: int
    rows: Sequence[dict[str, Any]]
    final: Mapping[str, Any]

    def best(self) -> float | None:
        """The highest weighted F1 on validation cells; None without validation cells."""
        return max((row[F1] for row in self.rows if row[F1] is not None), default=None)

    def at(self, f1: float | None) -> Mapping[str, Any]:
        """The row of the first epoch that reached this weighted F1 on validation cells; empty if none did."""
        return next((row for row in self.rows if f1 is not None and row[F1] >= f1), {})


def _train_arm(job: Job, arm: Arm, epochs: int, curve: bool) -> _Result:
    history = _Epochs(job, arm, job.split.to_test([arm.part]) if curve else [])
    # A copy, so that the job's own hooks do not include the history of an arm.
    arm.hooks = Hooks({**arm.hooks.members, "curve": history})
    weights, done = fit_single_site(job, arm, epochs)
    return _Result(weights, done, history.rows, history.row_of(weights))


class _Epochs(Hook):
    """Records a row per epoch of an arm: scores on validation cells, and on ``test_parts``, and the consumption so far;
    and hashes of the weights, which tell the final ones."""

    def __init__(self, job: Job, arm: Arm, test_parts: Sequence[Part]) -> None:
        self.job, self.arm, self.test_parts = job, arm, test_parts
        self.rows: list[dict[str, Any]] = []
        self.hashes: list[str] = []

    def before(self, step: Step, competes: bool) -> None:
        self._add(step, step.weights(), _untouched(self.job, self.test_parts) if self.test_parts else {})

    def after(self, step: Step) -> None:
        weights = self.job.weights()
        self._add(step, weights, self.job.test(self.test_parts, weights).scores if self.test_parts else {})

    def _add(self, step: Step, weights: Weights, scores: dict[str, float]) -> None:
        self.rows.append(
            {
                "arm": self.arm.name,
                "client": self.arm.part.name,
                "epoch": step.number,
                F1: step.metrics.get(SCORE),
                "energy_kwh": step.used.energy_kwh,
                "emissions_kg": step.used.emissions_kg,
                **{f"test_{name}": value for name, value in scores.items()},
            }
        )
        self.hashes.append(_hash(weights))

    def row_of(self, weights: Weights) -> dict[str, Any]:
        own = _hash(weights)
        return next((row for row, other in zip(self.rows, self.hashes, strict=True) if other == own), {})

    def state_dict(self) -> State:
        return {"rows": self.rows, "hashes": self.hashes}

    def load_state_dict(self, state: State) -> None:
        self.rows, self.hashes = state["rows"], state["hashes"]


def _hash(weights: Weights) -> str:
    found = hashlib.blake2b(digest_size=16)
    for name in sorted(weights):
        found.update(weights[name].numpy().data)
    return found.hexdigest()


def _compare(tuned: _Result, scratch: _Result, target: float | None) -> dict[str, Any]:
    """The cost at which each arm reached the target on validation cells (None if it did not), and what is kept."""
    best = [arm.best() for arm in (tuned, scratch)]
    f1 = target or (None if None in best else min(best))  # type: ignore[type-var]
    costs = {
        f"{arm}_{field}_to_target": result.at(f1).get(field)
        for arm, result in (("tuned", tuned), ("scratch", scratch))
        for field in ("epoch", "energy_kwh", "emissions_kg")
    }
    return {
        "target_validation_f1": f1,
        **costs,
        "untouched_validation_f1": tuned.rows[0][F1],
        "kept_validation_f1": tuned.final.get(F1),
        "kept_epoch": tuned.final.get("epoch"),
        "scratch_epochs": scratch.epochs,
        "scratch_emissions_kg": scratch.rows[-1]["emissions_kg"],
    }


def _scores(job: Job, part: Part, scratch: Weights) -> dict[str, float]:
    """Scores on test cells of the untouched weights and of those from scratch."""
    parts = job.split.to_test([part])
    tested = {"untouched": _untouched(job, parts), "scratch": job.test(parts, scratch).scores}
    return {f"{arm}_{name}": value for arm, scores in tested.items() for name, value in scores.items()}


def _untouched(job: Job, parts: Sequence[Part]) -> dict[str, float]:
    with job.meter.phase(TEST):
        return TestResult.of({part.name: Scored.of(*job.untouched(part.test)) for part in parts}).scores


def _paid_back(job: Job, compared: Mapping[str, Any]) -> dict[str, Any]:
    """The number of newcomers whose savings pay back the emissions of pre-training; None without savings."""
    assert job.start is not None
    pretraining_kg = job.start.emissions_kg
    tuned_kg, scratch_kg = (compared[f"{arm}_emissions_kg_to_target"] for arm in ("tuned", "scratch"))
    saved_kg = scratch_kg - tuned_kg if scratch_kg is not None and tuned_kg is not None else 0.0
    return {
        "pretraining_emissions_kg": pretraining_kg,
        "newcomers_to_pay_back": pretraining_kg / saved_kg if pretraining_kg and saved_kg > 0 else None,
    }
