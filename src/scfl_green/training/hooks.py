"""Hooks: budgets, pruning, privacy and progress hang on a training, which knows none of them by name."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scfl_green.energy.ledger import Entry
from scfl_green.models.prune import Weights

if TYPE_CHECKING:
    from scfl_green.training.job import Job

# What a checkpoint holds of one object: plain values and tensors.
State = dict[str, Any]


@dataclass
class Step:
    """The end of an epoch, or of a round of a federation.

    ``unit`` is ``epoch`` or ``round``, ``number`` counts from 1 to at most ``total``, ``last`` says that training ends
    here. Hooks may add to ``metrics``. ``used`` is what the training has used so far, ``transfer_kg`` (kg CO2e) what
    its messages have. ``weights`` copies the weights arrived at.
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


class Hook:
    """Is called at the end of every epoch or round. A subclass overrides what it needs."""

    # Ends training after this step.
    enough = False
    # Whether a second training of the same run, as a reference, has a hook of its own like this one.
    again = False
    # Why a regime that trains twice is refused, if it is.
    trains_once = ""
    # Whether weights may come back in other shapes.
    reshapes = False
    # Packages whose versions belong into the record.
    packages: tuple[str, ...] = ()

    def begin(self, job: "Job") -> None:
        """Raise InputError, before anything is trained, for a job that this hook cannot work with."""

    def after(self, step: Step) -> Weights | None:
        """Weights to go on with, or to end with after the last step; None to leave them as they are."""
        return None

    def state_dict(self) -> State:
        """What a killed run needs to go on."""
        return {}

    def load_state_dict(self, state: State) -> None:
        """Go on from the state of a run that was killed."""

    def record(self) -> dict[str, Any]:
        """Fields for the record of the run."""
        return {}

    def write(self, folder: Path) -> None:
        """Write files into the run's folder; also called where training failed."""

    def note(self) -> str:
        """A line to end the run's output with."""
        return ""


class Hooks:
    """The hooks of one training, by name, called in this order."""

    def __init__(self, members: Mapping[str, Hook | None] | None = None) -> None:
        self.members = {name: hook for name, hook in (members or {}).items() if hook is not None}

    def __iter__(self) -> Iterator[Hook]:
        return iter(self.members.values())

    @property
    def enough(self) -> bool:
        return any(hook.enough for hook in self)

    def after(self, step: Step) -> Weights | None:
        """The weights that the last hook to change them has made; None if none has."""
        changed = None
        for hook in self:
            if (new := hook.after(step)) is not None:
                changed = new
                step.weights = lambda weights=new: weights  # type: ignore[misc]
            step.last = step.last or hook.enough
        return changed

    def state_dict(self) -> State:
        return {name: hook.state_dict() for name, hook in self.members.items()}

    def load_state_dict(self, state: State) -> None:
        for name, own in state.items():
            self.members[name].load_state_dict(own)

    def record(self) -> dict[str, Any]:
        return {field: value for hook in self for field, value in hook.record().items()}
