"""A training ends with what is best on validation cells."""

from functools import partial
from typing import TYPE_CHECKING

import pytest
import torch

from jobs import make_job, simulated
from scfl_green.data.reading.cells import Cells
from scfl_green.energy.ledger import Entry
from scfl_green.energy.meter import EnergyMeter
from scfl_green.runs.each_site import local
from scfl_green.runs.regimes import central
from scfl_green.training.ending import SCORE, BestEnd
from scfl_green.training.hooks import Hook, Step
from scfl_green.training.job import Job

if TYPE_CHECKING:
    from scfl_green.models.prune import Weights


class Seen(Hook):
    """Keeps the weights and scores of every epoch or round."""

    def __init__(self) -> None:
        self.scores: list[float] = []
        self.weights: list[Weights] = []

    def after(self, step: Step) -> None:
        self.scores.append(step.metrics[SCORE])
        self.weights.append(step.weights())


def ruined_by(job: Job) -> Job:
    """With a learning rate at which later epochs are worse."""
    job.model.optimizer_of = partial(torch.optim.Adam, lr=0.1)
    return job


@pytest.mark.parametrize("regime", ["central", "federated"])
def test_a_training_ends_with_its_best_weights(few: Cells, meter: EnergyMeter, regime: str) -> None:
    seen, end = Seen(), BestEnd()
    job = ruined_by(make_job(few, meter, hooks={"seen": seen, "end": end}))
    weights = central(job, epochs=6).models[0].weights if regime == "central" else simulated(job, rounds=6).weights
    best = max(range(6), key=lambda n: (seen.scores[n], n))
    assert len(set(seen.scores)) > 1
    assert end.record() == {"best_step": best + 1}
    assert all(torch.equal(weights[name], value) for name, value in seen.weights[best].items())


def test_each_site_alone_ends_with_its_own_best(few: Cells, meter: EnergyMeter) -> None:
    end = BestEnd()
    models = local(ruined_by(make_job(few, meter, hooks={"end": end})), epochs=3).models
    assert end.best is None
    assert not torch.equal(*[model.weights["layers.0.weight"] for model in models[:2]])


def step(number: int, score: float | None, size: int = 2, last: bool = False) -> Step:
    metrics = {} if score is None else {SCORE: score}
    return Step("epoch", number, 3, metrics, Entry("fit", 0, ""), 0.0, lambda: {"w": torch.full((size,), number)}, last)


def test_ties_go_to_the_later_but_to_the_untouched() -> None:
    end = BestEnd()
    assert end.after(step(1, 0.5)) is None
    assert end.after(step(2, 0.5, last=True))["w"][0] == 2
    end = BestEnd()
    end.before(step(0, 0.5), competes=True)
    assert end.after(step(1, 0.5, last=True))["w"][0] == 0
    end = BestEnd()
    end.before(step(0, 0.9), competes=False)
    assert end.after(step(1, 0.5, last=True))["w"][0] == 1


def test_a_run_says_that_it_ended_with_earlier_weights() -> None:
    end = BestEnd()
    end.after(step(1, 0.6))
    end.after(step(2, 0.5, last=True))
    assert end.note() == "ended with the weights of epoch 1, the best on validation cells"
    end = BestEnd()
    end.after(step(1, 0.6, last=True))
    assert end.note() == ""


def test_weights_from_before_pruning_do_not_compete() -> None:
    end = BestEnd()
    end.after(step(1, 0.9))
    end.after(step(2, 0.5, size=1))
    assert end.after(step(3, 0.4, size=1, last=True))["w"][0] == 2


def test_without_validation_cells_it_ends_with_the_last() -> None:
    end = BestEnd()
    assert end.after(step(1, None, last=True)) is None
    assert end.record() == {"best_step": None}
