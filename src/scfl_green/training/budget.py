"""The carbon budget: ends training when a limit is reached."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from scfl_green.bounds import Count, Positive
from scfl_green.errors import InputError
from scfl_green.training.ending import SCORE
from scfl_green.training.hooks import Hook, State, Step

if TYPE_CHECKING:
    from scfl_green.training.job import Job

NO_SCORES = "callbacks=carbon_budget needs scores on validation cells: set split.validation above 0"


class CarbonBudget(Hook):
    """Ends training once it has emitted ``grams`` of CO2e, transfer included, or once the last ``window`` epochs (or
    rounds) have gained less weighted F1 per gram than ``min_f1_per_gram``; None: no such limit.

    Weighted F1 is on validation cells.
    """

    per_arm = validates = True
    no_local = "callbacks=carbon_budget ends one training, regime=local has one at each site: use another regime"

    def __init__(self, grams: Positive | None = None, min_f1_per_gram: float | None = None, window: Count = 2) -> None:
        self.grams, self.min_f1_per_gram, self.window = grams, min_f1_per_gram, window
        self.history: list[tuple[float, float]] = []

    @property
    def exhausted(self) -> bool:  # type: ignore[override]
        return bool(self.history) and self.crossed(self.history)

    def crossed(self, history: Sequence[tuple[float, float]]) -> bool:
        """Whether a limit is crossed; ``history`` holds grams emitted and F1 reached after every epoch or round."""
        if self.grams is not None and history[-1][0] >= self.grams:
            return True
        if self.min_f1_per_gram is None or len(history) <= self.window:
            return False
        (grams, f1), (before_grams, before_f1) = history[-1], history[-1 - self.window]
        return f1 - before_f1 < self.min_f1_per_gram * (grams - before_grams)

    def begin(self, job: "Job") -> None:
        if not any(len(part.validation) for part in [*job.split.clients.values(), *job.split.newcomers.values()]):
            raise InputError(NO_SCORES)

    def after(self, step: Step) -> None:
        if SCORE not in step.metrics:
            raise InputError(NO_SCORES)
        self.history.append((step.emissions_kg * 1e3, step.metrics[SCORE]))

    def state_dict(self) -> State:
        return {"history": self.history}

    def load_state_dict(self, state: State) -> None:
        self.history = state["history"]
