"""What a training ends with: its best weights, not its last."""

from typing import Any

from scfl_green.models.prune import Weights
from scfl_green.training.hooks import Hook, State, Step

SCORE = "validation/weighted_f1"


class BestEnd(Hook):
    """Ends a training with the weights of the epoch, or of the federation's round, whose weighted F1 on validation
    cells was highest: early stopping in hindsight (Prechelt 1998, "Early Stopping - But When?").

    Ties go to the later ones, but to the untouched weights of fine-tuning. Weights from before pruning do not compete.
    Without validation cells a training ends with its last weights.
    """

    per_arm = validates = True

    def __init__(self) -> None:
        self.best: tuple[float, int, Weights] | None = None
        self.fine_tunes, self.passed_over = False, ""

    def before(self, step: Step, competes: bool) -> None:
        self.fine_tunes = True
        if competes and SCORE in step.metrics:
            self.best = step.metrics[SCORE], step.number, step.weights()

    def after(self, step: Step) -> Weights | None:
        if SCORE not in step.metrics:
            return None
        score, weights = step.metrics[SCORE], step.weights()
        if self.best is None or self._better(score, weights):
            self.best = score, step.number, weights
        if not step.last:
            return None
        if (number := self.best[1]) < step.number:
            self.passed_over = f"ended with the weights of {step.unit} {number}, the best on validation cells"
        return self.best[2]

    def _better(self, score: float, weights: Weights) -> bool:
        assert self.best is not None
        highest, number, best = self.best
        if any(best[name].shape != value.shape for name, value in weights.items()):
            return True
        return score > highest or (score == highest and number > 0)

    def state_dict(self) -> State:
        return {"best": self.best}

    def load_state_dict(self, state: State) -> None:
        self.best = state["best"]

    def note(self) -> str:
        # The answer of fine-tuning says what is kept.
        return "" if self.fine_tunes else self.passed_over

    def record(self) -> dict[str, Any]:
        return {"best_step": self.best[1] if self.best else None}
