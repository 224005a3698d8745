"""Pruning as a hook: shrinks the network between two rounds or epochs."""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from scfl_green.bounds import Count
from scfl_green.errors import InputError
from scfl_green.models.prune import Weights, pruned
from scfl_green.training.hooks import Hook, Step

if TYPE_CHECKING:
    from scfl_green.models.base import CellClassifier
    from scfl_green.training.job import Job


class Prune(Hook):
    """Removes ``fraction`` of the units of every hidden layer once: after ``after_round`` rounds, on the server of a
    federation, or after ``after_epoch`` epochs in other regimes."""

    no_finetuning = "regime=finetune cannot prune: set opt=baseline, and weights= to a run of opt=prune"
    reshapes = True

    def __init__(self, fraction: Annotated[float, Field(gt=0, lt=1)], after_round: Count, after_epoch: Count) -> None:
        self.fraction = fraction
        self.after_step = {"round": after_round, "epoch": after_epoch}
        self.model: CellClassifier

    def begin(self, job: "Job") -> None:
        self.model = job.model
        name = type(self.model).__name__
        try:
            units = self.model.hidden_units()
        except NotImplementedError:
            raise InputError(
                f"opt=prune needs to know the hidden units of {name}: define hidden_units() in it"
            ) from None
        if not units:
            raise InputError(f"opt=prune: {name} has no hidden units that can be removed: choose another opt")

    def after(self, step: Step) -> Weights | None:
        if step.number != self.after_step[step.unit]:
            return None
        return pruned(step.weights(), self.model.hidden_units(), self.fraction)
