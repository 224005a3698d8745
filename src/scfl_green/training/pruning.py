"""Pruning as a hook: the network becomes smaller between two rounds or epochs."""

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
    """Takes ``fraction`` of the units out of every hidden layer, once: after ``after_round`` rounds of a federation,
    where the server does it between two rounds, or after ``after_epoch`` epochs elsewhere."""

    trains_once = "opt=prune prunes before fine-tuning: fine-tune the weights of a pruned run"
    reshapes = True

    def __init__(self, fraction: Annotated[float, Field(gt=0, lt=1)], after_round: Count, after_epoch: Count) -> None:
        self.fraction = fraction
        self.after_step = {"round": after_round, "epoch": after_epoch}
        self.model: CellClassifier

    def begin(self, job: "Job") -> None:
        self.model = job.model
        try:
            self.model.hidden_units()
        except NotImplementedError:
            raise InputError(
                f"opt=prune: {type(self.model).__name__} does not say where its hidden units are; define hidden_units()"
            ) from None

    def after(self, step: Step) -> Weights | None:
        if step.number != self.after_step[step.unit]:
            return None
        return pruned(step.weights(), self.model.hidden_units(), self.fraction)
