"""Hooks: how budgets, pruning, privacy and progress take part in any training."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scfl_green.energy.ledger import Entry
from scfl_green.models.prune import Weights

if TYPE_CHECKING:
    from scfl_green.training.job import Job

# The state of one object in a checkpoint: plain values and tensors.
State = dict[str, Any]


@dataclass
class Step:
    """The state of training after an epoch, or after a round of a federation.

    ``unit`` is ``epoch`` or ``round``; ``number`` counts from 1 to at most ``total``; ``last``: training ends here.
    Hooks may add to ``metrics``. ``used`` is the consumption of training so far, ``transfer_kg`` the kg CO2e of its
    messages. ``weights`` returns a copy of the current weights.
    """

    unit: str
    number: int
    total: int
    metrics: dict[str, float]
    used: Entry
    transfer_kg: float
    weights: Callable[[], Weights]
    last: bool = False

    @property
    def emissions_kg(self) -> float:
        return self.used.emissions_kg + self.transfer_kg


@dataclass(frozen=True)
class PartialStep:
    """The state of training within a step: ``done`` of the ``of`` ``parts`` (clients or batches) of epoch or round
    ``number``."""

    unit: str
    number: int
    total: int
    done: int
    of: int
    parts: str


class Hook:
    """Called after every epoch or round; a subclass overrides what it needs."""

    # Whether training must end after this step.
    exhausted = False
    # Whether the baseline of fine-tuning gets its own copy of this hook.
    per_arm = False
    # The error that regime=finetune, which trains twice, ends in; empty if it is allowed.
    no_finetuning = ""
    # Whether scores on validation cells decide what it does: their validation is then part of training.
    validates = False
    # The error that regime=local, which trains once at each site, ends in; empty if it is allowed.
    no_local = ""
    # Whether trained weights must not be calibrated, which takes exact sums over cells.
    no_calibration = False
    # Whether it changes the shapes of weights.
    reshapes = False
    # Packages whose versions go into the record.
    packages: tuple[str, ...] = ()

    def begin(self, job: "Job") -> None:
        """Check the job before training; raises InputError if this hook cannot work with it."""

    def before(self, step: Step, competes: bool) -> None:
        """Called before the first epoch of weights that were trained elsewhere, as step 0; ``competes``: whether
        training may end with them."""

    def after(self, step: Step) -> Weights | None:
        """The weights to continue (or, after the last step, to end) with; None to keep the current ones."""
        return None

    def within(self, step: PartialStep) -> None:
        """Called within an epoch or round, whenever more of it is done."""

    def state_dict(self) -> State:
        """What a killed run needs to resume."""
        return {}

    def load_state_dict(self, state: State) -> None:
        """Resume from the state of a killed run."""

    def record(self) -> dict[str, Any]:
        """Fields for the record of the run."""
        return {}

    def write(self, folder: Path) -> None:
        """Write files into the run's folder; also called after a failed training."""

    def note(self) -> str:
        """A line for the end of the run's output."""
        return ""


class Hooks:
    """The hooks of one training, by name, called in this order."""

    def __init__(self, members: Mapping[str, Hook | None] | None = None) -> None:
        self.members = {name: hook for name, hook in (members or {}).items() if hook is not None}

    def __iter__(self) -> Iterator[Hook]:
        return iter(self.members.values())

    @property
    def exhausted(self) -> bool:
        return any(hook.exhausted for hook in self)

    def before(self, step: Step, competes: bool) -> None:
        for hook in self:
            hook.before(step, competes)

    def after(self, step: Step) -> Weights | None:
        """The weights after all hooks; None if no hook has changed them."""
        changed = None
        for hook in self:
            if (new := hook.after(step)) is not None:
                changed = new
                step.weights = lambda weights=new: weights  # type: ignore[misc]
            step.last = step.last or hook.exhausted
        return changed

    def within(self, step: PartialStep) -> None:
        for hook in self:
            hook.within(step)

    def state_dict(self) -> State:
        return {name: hook.state_dict() for name, hook in self.members.items()}

    def load_state_dict(self, state: State) -> None:
        for name, saved in state.items():
            self.members[name].load_state_dict(saved)

    def record(self) -> dict[str, Any]:
        return {field: value for hook in self for field, value in hook.record().items()}
