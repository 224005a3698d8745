"""Regimes: ways to arrive at weights. Each calls ``Job.fit``; they differ in how often, where and from what."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pytorch_lightning.callbacks import Callback

from scfl_green.data.partition import Part
from scfl_green.energy.ledger import FIT
from scfl_green.errors import InputError
from scfl_green.federated.simulate import simulate
from scfl_green.training.alone import fit_alone
from scfl_green.training.callbacks import Freeze
from scfl_green.training.job import Job, Weights


@dataclass(frozen=True)
class Outcome:
    """The weights a regime arrived at, the parts they are to be tested on, how it went there, and ``more`` for the
    record and ``rows``, one an epoch, that only this regime knows."""

    weights: Weights
    parts: Sequence[Part]
    epochs: int
    rounds: int = 0
    local_epochs: int = 0
    more: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)


def central(job: Job, *, epochs: int) -> Outcome:
    """Train on the pooled training cells of all clients: what a federation is compared with."""
    parts = list(job.split.clients.values())
    after = partial(job.ended, "epoch", epochs)
    weights = fit_alone(job, Part.pooled(parts), "central", job.initial, epochs, after)
    return Outcome(weights, parts, len(job.history))


def federated(job: Job, *, strategy: Any, rounds: int, local_epochs: int, **of_simulation: Any) -> Outcome:
    """Train where the cells are and average the weights, by a strategy of ``flwr.serverapp.strategy``; the rest goes
    to ``simulate``."""
    parts = list(job.split.clients.values())
    federation = simulate(job, parts, strategy, rounds, local_epochs, **of_simulation)
    done = len(job.history)
    more = {"clients_by_round": federation.clients_by_round, "refused": federation.refused}
    return Outcome(federation.weights, parts, done * local_epochs, done, local_epochs, more)


def finetune(
    job: Job,
    *,
    epochs: int,
    client: str | int | None = None,
    patience: int | None = None,
    freeze: Sequence[str] = (),
    target_f1: float | None = None,
) -> Outcome:
    """Train on at a newcomer client, from the weights of an earlier run that did not see its cells, and beside it from
    scratch: the same cells, epochs and rule of stopping, as a reference whose emissions are not this run's.

    With ``patience``, an arm stops after as many epochs without a better weighted F1 on validation cells, and ends with
    its best weights. ``freeze`` keeps parameters by the beginnings of their names. Test cells are scored after every
    epoch for the record alone; ``target_f1`` is what both arms' costs are compared at, by default the F1 that both
    reach.
    """
    # Chunks are named by numbers.
    part = _newcomer(job, None if client is None else str(client))
    frozen = [Freeze(freeze)] if freeze else []
    tuned = _arm(job, part, "from the federation", job.initial, epochs, patience, frozen, FIT)
    scratch = _arm(job, part, "from scratch", job.untrained, epochs, patience, [], "scratch")
    compared = _compared(tuned, scratch, target_f1, job.pretraining_kg)
    return Outcome(tuned.weights, [part], len(tuned.rows), more=compared, rows=tuned.rows + scratch.rows)


def _newcomer(job: Job, client: str | None) -> Part:
    newcomers = job.split.newcomers
    if job.prune is not None:
        raise InputError("opt=prune prunes before fine-tuning: fine-tune the weights of a pruned run")
    if job.privacy is not None:
        raise InputError("privacy=dp_sgd hides cells in one training, regime=finetune does two: use another regime")
    if job.pretrained is None:
        raise InputError("regime=finetune starts from an earlier run: name its folder with weights=logs/runs/NAME")
    if not newcomers:
        raise InputError("regime=finetune needs a client that was held out: set split.newcomers")
    if client is not None and client not in newcomers:
        raise InputError(f"finetuning.client={client}: the newcomers are {', '.join(newcomers)}")
    part = next(iter(newcomers.values())) if client is None else newcomers[client]
    if part.name in job.seen:
        raise InputError(f"the weights have been trained on cells of {part.name!r}: it is no newcomer to them")
    if not job.split.to_test([part]):
        raise InputError(f"newcomer {part.name!r} has no test cells: use split.test=cells")
    return part


@dataclass(frozen=True)
class Arm:
    """Weights arrived at, their scores on the test cells, and a row an epoch: scores on validation and test cells, and
    what had been used by then."""

    weights: Weights
    scores: dict[str, float]
    rows: list[dict[str, Any]]

    def at(self, f1: float) -> dict[str, Any]:
        """The first epoch that reached a weighted F1 on the test cells; nothing where none did."""
        return next((row for row in self.rows if row["test_weighted_f1"] >= f1), {})


def _arm(
    job: Job,
    part: Part,
    arm: str,
    start: Weights,
    epochs: int,
    patience: int | None,
    callbacks: Sequence[Callback],
    fit_as: str,
) -> Arm:
    kept = job.checkpoint.state
    rows: list[dict[str, Any]] = kept.get(arm, []) if job.checkpoint.begun else []
    kept[arm] = rows
    if not rows:
        job.history.clear()
    tested = job.split.to_test([part])

    def after(epoch: int, metrics: dict[str, float]) -> bool:
        enough = job.ended("epoch", epochs, epoch, metrics, fit_as)
        used = job.meter.total(fit_as)
        of_validation = metrics.get("validation/weighted_f1")
        spent = {"energy_kwh": used.energy_kwh, "emissions_kg": used.emissions_kg}
        scores = {f"test_{name}": value for name, value in job.test(tested, job.weights())[""].items()}
        about = {"arm": arm, "client": part.name, "epoch": epoch, "validation_weighted_f1": of_validation}
        rows.append(about | spent | scores)
        return enough

    weights = fit_alone(job, part, arm, start, epochs, after, patience, callbacks, fit_as)
    return Arm(weights, job.test(tested, weights)[""], rows)


def _compared(tuned: Arm, scratch: Arm, target: float | None, pretraining_kg: float | None) -> dict[str, Any]:
    """What each arm needed to reach the target (None where it did not), and after how many newcomers what pre-training
    emitted is paid back."""
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
