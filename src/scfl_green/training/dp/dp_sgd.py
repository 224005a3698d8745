"""Differentially private training: DP-SGD by Opacus, with a budget per client."""

import logging
from bisect import bisect_right
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pandas as pd
import pytorch_lightning as pl
from pydantic import Field

from scfl_green.bounds import Positive
from scfl_green.data.features.datamodule import CellDataModule
from scfl_green.energy.ledger import WARM_UP
from scfl_green.errors import InputError, listed
from scfl_green.files import write_atomically
from scfl_green.models.base import CellClassifier
from scfl_green.training.dp.gradients import check_gradients, gradients_by_cell
from scfl_green.training.dp.steps import History, PoissonBatches, Private, epsilon_of
from scfl_green.training.hooks import Hook, State, Step

if TYPE_CHECKING:
    from scfl_green.training.fitting import Fit
    from scfl_green.training.job import Job

LOG = logging.getLogger(__name__)
# Cells of the trial batch for check_gradients.
TRIAL_CELLS = 32
Delta = Annotated[float, Field(gt=0, lt=1)]


class DPSGD(Hook):
    """Training that protects each cell (Abadi et al. 2016, CCS, "Deep Learning with Differential Privacy").

    A step draws each cell with probability 1 / (steps an epoch), clips the gradient of each cell to ``max_grad_norm``
    and adds Gaussian noise of ``noise_multiplier`` times that. A fit ends before a client would exceed
    ``epsilon`` at ``delta``, possibly without a step. ``histories`` holds each client's steps, for accountants and
    checkpoints; ``rows`` one row per fit. Sampling and noise are seeded by the operating system, never by the run's
    seed, which is in the record: whoever can repeat the noise can remove it.
    """

    no_finetuning = "privacy=dp_sgd covers one training, regime=finetune does two: use another regime"
    no_calibration = True
    packages = ("opacus",)
    # A killed fit is discarded unseen, with the budget it spent.
    resumable = False

    def __init__(self, noise_multiplier: Positive, max_grad_norm: Positive, epsilon: Positive, delta: Delta) -> None:
        self.noise_multiplier, self.max_grad_norm = noise_multiplier, max_grad_norm
        self.epsilon, self.delta = epsilon, delta
        self.histories: dict[str, History] = {}
        self.rows: list[dict[str, Any]] = []
        self.stopped: set[str] = set()
        self.elsewhere = False

    def begin(self, job: "Job") -> None:
        """Raises InputError for settings that would make epsilon false, and logs what epsilon does not cover."""
        if job.start is not None:
            raise InputError("weights: no epsilon of this run covers what they have seen; set weights=null")
        if (precision := job.reusable.precision) != "32-true":
            raise InputError(f"privacy=dp_sgd clips in float32: set trainer.precision=32-true, not {precision}")
        rows = max((part.train for part in job.split.clients.values()), key=len)
        self._check_delta(len(rows))
        self.elsewhere = not job.has_cells
        if self.elsewhere:
            return  # every site checks its own cells, and counts its own epsilon, which stays within the budget
        if int(job.features.labels.min()) < 0:
            raise InputError(
                "privacy=dp_sgd: a cell of no single type changes the weight of others; leave such cells out"
            )
        check_gradients(job.model, *job.features.batch(rows[:TRIAL_CELLS]))
        LOG.info(
            "privacy: weights protect each cell of a client within epsilon %g at delta %g; everything else that leaves "
            "a client has no noise: choice and means of genes, numbers of cells, scores on validation and test cells; "
            "and model.json names the training cells",
            self.epsilon,
            self.delta,
        )

    def _check_delta(self, n_cells: int) -> None:
        if self.delta * n_cells >= 1:
            raise InputError(f"privacy.delta={self.delta:g} should be below 1 / {n_cells}, the cells of a client")

    def fit(self, trainer: pl.Trainer, model: CellClassifier, data: CellDataModule, fit: "Fit") -> float:
        """Train privately; returns the epochs trained, a fraction if the budget ended them. A warm-up, whose weights
        are discarded, spends nothing."""
        part, cells, counts = data.part, len(data.part.train), fit.phase != WARM_UP
        self._check_delta(cells)
        steps = -(-cells // data.batch_size)
        history = self.histories.setdefault(part.name, []) if counts else []
        before, wanted = _taken(history), steps * (trainer.max_epochs or 1)
        left = self._affordable(history, 1 / steps, wanted) if counts else wanted
        if before + left == 0:
            raise InputError(
                f"privacy.epsilon={self.epsilon:g}: one step of {part.name!r} (sample rate 1/{steps}) takes more: "
                "raise privacy.noise_multiplier or privacy.epsilon"
            )
        data.train_batches = batches = PoissonBatches(part.train, steps, left)
        private = Private(self.noise_multiplier, self.max_grad_norm, batches, history)
        trainer.callbacks.append(private)  # type: ignore[attr-defined]
        scored, model.scored_stages = model.scored_stages, ("validation",)
        try:
            with gradients_by_cell(model):
                trainer.fit(model, datamodule=data)
        finally:
            model.scored_stages = scored
        if counts:
            self._add_row(part.name, fit.round_number, left < wanted)
        return (_taken(history) - before) / steps

    def _affordable(self, history: History, rate: float, wanted: int) -> int:
        """How many of the ``wanted`` steps the budget allows."""

        def after(steps: int) -> float:
            *earlier, last = [*history, (self.noise_multiplier, rate, 0)]
            if earlier and earlier[-1][:2] == last[:2]:
                last = earlier.pop()
            return epsilon_of((*earlier, (*last[:2], last[2] + steps)), self.delta)

        if after(wanted) <= self.epsilon:
            return wanted
        return bisect_right(range(1, wanted), self.epsilon, key=after)

    def spent(self, client: str) -> float:
        """Epsilon of all steps of a client."""
        return epsilon_of(tuple(self.histories[client]), self.delta)

    def _add_row(self, client: str, round_number: int, stopped: bool) -> None:
        if stopped:
            self.stopped.add(client)
        noise, rate, _ = self.histories[client][-1]
        row = {"round": round_number, "client": client, "steps": _taken(self.histories[client])}
        row |= {"sample_rate": rate, "noise_multiplier": noise, "epsilon": self.spent(client), "delta": self.delta}
        self.rows.append(row | {"stopped": stopped})

    @property
    def exhausted(self) -> bool:  # type: ignore[override]
        """Whether no client has steps left."""
        return bool(self.histories) and self.stopped >= self.histories.keys()

    def after(self, step: Step) -> None:
        step.metrics["privacy/epsilon"] = self._largest()

    def state_dict(self) -> State:
        return {"histories": self.histories, "rows": self.rows, "stopped": sorted(self.stopped)}

    def load_state_dict(self, state: State) -> None:
        self.histories, self.rows, self.stopped = state["histories"], state["rows"], set(state["stopped"])

    def record(self) -> dict[str, Any]:
        """The largest epsilon of any client, and the clients whose budget is used up."""
        return {"epsilon": self._largest(), "delta": self.delta, "out_of_budget": sorted(self.stopped)}

    def _largest(self) -> float:
        return self.epsilon if self.elsewhere else max(map(self.spent, self.histories), default=0.0)

    def note(self) -> str:
        """The spent budget, in a line."""
        stopped = f"; without steps left: {listed(sorted(self.stopped))}" if self.stopped else ""
        return (
            f"privacy: epsilon {self._largest():.2f} of a budget of {self.epsilon:g} at delta {self.delta:g}{stopped}"
        )

    def write(self, folder: Path) -> None:
        """Write ``epsilon.csv``: a row per round and client, with all its steps so far."""
        if self.rows:
            write_atomically(folder / "epsilon.csv", pd.DataFrame(self.rows).to_csv(index=False).encode())


def _taken(history: History) -> int:
    return sum(steps for _, _, steps in history)
