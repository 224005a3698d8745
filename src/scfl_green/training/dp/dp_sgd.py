"""Differentially private training: DP-SGD by Opacus, with a budget of each client."""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl

from scfl_green.data.features.datamodule import CellDataModule, Features
from scfl_green.data.partition import Part
from scfl_green.errors import InputError, listed
from scfl_green.files import write_atomically
from scfl_green.models.base import CellClassifier
from scfl_green.models.scores import UNLABELLED
from scfl_green.training.dp.gradients import check_gradients, gradients_by_cell
from scfl_green.training.dp.steps import History, PoissonBatches, Private, epsilon_of

# Cells that a framework is tried on before it is trained.
TRIED = 32


@dataclass
class DPSGD:
    """Fits that hide each single cell of a client (Abadi et al. 2016, CCS, "Deep Learning with Differential Privacy").

    A step draws each cell with probability 1 / (steps an epoch), clips the gradient of each cell to ``max_grad_norm``
    and adds Gaussian noise of ``noise_multiplier`` times that. Before a fit would take a client past ``epsilon`` at
    ``delta``, it ends: with as many steps as are left, maybe none. ``histories`` has the steps of each client, for
    accountants and checkpoints; ``rows`` one line a fit. Draws and noise come from the operating system, never from a
    run's seed, which is in the record: who could draw them again would know what they hide.
    """

    noise_multiplier: float
    max_grad_norm: float
    epsilon: float
    delta: float
    histories: dict[str, History] = field(default_factory=dict, init=False)
    rows: list[dict[str, Any]] = field(default_factory=list, init=False)
    stopped: set[str] = field(default_factory=set, init=False)

    def check(
        self, model: CellClassifier, features: Features, parts: Mapping[str, Part], precision: str, pretrained: Any
    ) -> None:
        """Raises InputError for what would make an epsilon false, before anything is trained; says what no epsilon
        covers."""
        if pretrained is not None:
            raise InputError("weights: no epsilon of this run covers what they have seen; start privacy=dp_sgd without")
        if precision != "32-true":
            raise InputError(f"privacy=dp_sgd clips in float32: set trainer.precision=32-true, not {precision}")
        rows = max((part.train for part in parts.values()), key=len)
        self._check_delta(len(rows))
        if int(features.labels.min()) == UNLABELLED:
            raise InputError("privacy=dp_sgd: a cell without a type changes what others weigh; leave such cells out")
        check_gradients(model, *features.batch(rows[:TRIED]))
        print(
            f"privacy: one cell of a client, in its weights, within epsilon {self.epsilon:g} at delta {self.delta:g}; "
            "what else is told has no noise: choice and means of genes, numbers of cells, scores on validation and "
            "test cells; and model.json names the cells that were trained on",
            flush=True,
        )

    def _check_delta(self, n_cells: int) -> None:
        if self.delta * n_cells >= 1:
            raise InputError(f"privacy.delta={self.delta:g} should be below 1 / {n_cells}, the cells of a client")

    def fit(
        self, trainer: pl.Trainer, model: CellClassifier, data: CellDataModule, round_number: int, counts: bool
    ) -> float:
        """``trainer.fit``, privately; gives the epochs trained, a fraction where the budget ended them. A fit whose
        weights nobody sees need not count."""
        part, cells = data.part, len(data.part.train)
        self._check_delta(cells)
        steps = -(-cells // data.batch_size)
        history = self.histories.setdefault(part.name, []) if counts else []
        before, wanted = _taken(history), steps * (trainer.max_epochs or 1)
        left = self._affordable(history, 1 / steps, wanted) if counts else wanted
        if before + left == 0:
            raise InputError(
                f"privacy.epsilon={self.epsilon:g}: one step of {part.name!r}, which draws a cell in {steps}, takes "
                "more; raise privacy.noise_multiplier or privacy.epsilon"
            )
        data.train_batches = batches = PoissonBatches(part.train, steps, left)
        private = Private(self.noise_multiplier, self.max_grad_norm, batches, history)
        trainer.callbacks.append(private)  # type: ignore[attr-defined]
        told, model.told = model.told, ("validation",)
        try:
            with gradients_by_cell(model):
                trainer.fit(model, datamodule=data)
        finally:
            model.told = told
        if counts:
            self._enter(part.name, round_number, left < wanted)
        return (_taken(history) - before) / steps

    def _affordable(self, history: History, rate: float, wanted: int) -> int:
        """The most of the ``wanted`` steps that stay within the budget."""

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

    def _enter(self, client: str, round_number: int, stopped: bool) -> None:
        if stopped:
            self.stopped.add(client)
        noise, rate, _ = self.histories[client][-1]
        about = {"round": round_number, "client": client, "steps": _taken(self.histories[client])}
        about |= {"sample_rate": rate, "noise_multiplier": noise, "epsilon": self.spent(client), "delta": self.delta}
        self.rows.append(about | {"stopped": stopped})

    def state(self) -> dict[str, Any]:
        """What a checkpoint needs, as plain values."""
        return {"histories": self.histories, "rows": self.rows, "stopped": sorted(self.stopped)}

    def take_up(self, state: dict[str, Any]) -> None:
        """Go on from the ``state`` of a run that was killed."""
        for client, history in state.get("histories", {}).items():
            self.histories[client] = [(noise, rate, steps) for noise, rate, steps in history]
        self.rows += state.get("rows", [])
        self.stopped |= set(state.get("stopped", []))

    @property
    def over(self) -> bool:
        """No client has steps left."""
        return bool(self.histories) and self.stopped >= self.histories.keys()

    def summary(self) -> dict[str, Any]:
        """Fields of the record: the largest epsilon of a client, and the clients that the budget has stopped."""
        largest = max(map(self.spent, self.histories), default=0.0)
        return {"epsilon": largest, "delta": self.delta, "out_of_budget": sorted(self.stopped)}

    def told(self) -> str:
        """What was spent, in a line."""
        spent = self.summary()["epsilon"]
        stopped = f"; without steps left: {listed(sorted(self.stopped))}" if self.stopped else ""
        return f"privacy: epsilon {spent:.2f} of a budget of {self.epsilon:g} at delta {self.delta:g}{stopped}"

    def write(self, path: Path) -> None:
        """``epsilon.csv``: a row a round and client, of all its steps so far."""
        write_atomically(path, pd.DataFrame(self.rows).to_csv(index=False).encode())


def _taken(history: History) -> int:
    return sum(steps for _, _, steps in history)
