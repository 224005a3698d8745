"""A federation of one round gives the classifier of the pooled cells, however they are spread."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from conftest import compose_config
from jobs import make_job
from scfl_green.data.partition import Part
from scfl_green.data.reading.cells import Cells
from scfl_green.energy.meter import EnergyMeter
from scfl_green.errors import InputError
from scfl_green.federated.oneshot import OneShot, _checked
from scfl_green.models.actinn import ACTINN
from scfl_green.models.linear import Linear
from scfl_green.models.moments import NEVER, Moments
from scfl_green.models.prune import Weights
from scfl_green.runs.run import run
from scfl_green.training.budget import CarbonBudget
from scfl_green.training.job import Job
from scfl_green.training.survey import moments

RIDGE = 0.3
LINEAR = partial(Linear, l2=0.0)


def by_study(rows: np.ndarray, job: Job) -> list[np.ndarray]:
    return [part.train for part in job.split.clients.values()]


def at_random(rows: np.ndarray, job: Job) -> list[np.ndarray]:
    return np.array_split(np.random.default_rng(0).permutation(rows), 5)


def by_type(rows: np.ndarray, job: Job) -> list[np.ndarray]:
    """Every site has one type."""
    return [rows[job.features.labels[rows] == of_type] for of_type in np.unique(job.features.labels[rows])]


def uneven(rows: np.ndarray, job: Job) -> list[np.ndarray]:
    return np.split(rows, [1, 3, 10])


def federated(job: Job, parts: list[np.ndarray]) -> Weights:
    sites = [Part(f"site {n}", rows, rows[:0], rows[:0]) for n, rows in enumerate(parts)]
    return OneShot(RIDGE).train(job, sites).weights


@pytest.fixture
def job(few: Cells, meter: EnergyMeter) -> Job:
    return make_job(few, meter, model=LINEAR)


@pytest.fixture
def rows(job: Job) -> np.ndarray:
    return np.concatenate([part.train for part in job.split.clients.values()])


@pytest.mark.parametrize("spread", [by_study, at_random, by_type, uneven])
def test_any_partition_gives_the_pooled_solution(
    job: Job, rows: np.ndarray, spread: Callable[[np.ndarray, Job], list[np.ndarray]]
) -> None:
    n_types, n_genes = job.model.n_types, job.features.n_genes
    pooled = Moments.of(job.batches(rows), n_types, n_genes).discriminant(RIDGE)
    weights = federated(job, spread(rows, job))
    for ours, theirs in zip(weights.values(), pooled, strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) < 1e-5


def test_it_is_scikit_learns_discriminant_analysis(job: Job, rows: np.ndarray) -> None:
    x, y = job.features.batch(rows)
    # Its shrunk covariance is ours, divided by 1 + ridge.
    reference = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=RIDGE / (1 + RIDGE)).fit(x.double(), y)
    ours = federated(job, by_study(rows, job))["classifier.weight"].double() * (1 + RIDGE)
    np.testing.assert_allclose(ours[reference.classes_], reference.coef_, rtol=1e-3, atol=1e-4)


def test_a_type_without_training_cells_is_never_predicted(job: Job, rows: np.ndarray) -> None:
    known = rows[job.features.labels[rows] != 0]
    weights = federated(job, [known])
    assert weights["classifier.bias"][0] == NEVER
    logits, _ = job.logits(rows, weights)
    assert (logits.argmax(dim=1) != 0).all()


def test_what_no_cells_give_is_refused(job: Job) -> None:
    part = next(iter(job.split.clients.values()))
    told = moments(job, part, job.untrained, {})
    assert _checked(told, job, part).cells.sum() == len(part.train)
    for wrong in (
        {},
        told | {"linear": told["linear"][:, 1:]},
        told | {"products": np.full_like(told["products"], np.nan)},
        told | {"cells": told["cells"] * 2},
        told | {"cells": -told["cells"]},
    ):
        with pytest.raises(InputError, match=part.name):
            _checked(wrong, job, part)


def test_what_cannot_be_solved_once_is_refused(few: Cells, meter: EnergyMeter) -> None:
    for choices, message in (({"model": ACTINN}, "model=linear"), ({"hooks": {"b": CarbonBudget(1.0)}}, "end=best")):
        job = make_job(few, meter, **{"model": LINEAR} | choices)
        with pytest.raises(InputError, match=message):
            OneShot(RIDGE).train(job, [*job.split.clients.values()])
    job = make_job(few, meter, model=LINEAR)
    with pytest.raises(InputError, match="message="):
        replace(OneShot(RIDGE), codec="int3").train(job, [*job.split.clients.values()])


def test_a_run_of_it(tmp_path: Path) -> None:
    record = run(compose_config(tmp_path, "model=linear", "federation=oneshot", "data.n_genes=200", "logger=none"))
    assert (record["rounds"], record["epochs"], record["best_step"]) == (1, 1, None)
    assert record["accuracy"] > 0.85
    up = 4 * (4 * 200 * 201 / 2 + 8 * 9 * 200)
    assert record["bytes_up"] - up == pytest.approx(0.5e6, abs=0.5e6)  # and sums by gene
    assert record["energy_kwh"] > 0
    assert record["cells_seen"] == record["cells_train"]


def test_it_is_the_same_in_every_regime_and_each_sites_own_alone(tmp_path: Path) -> None:
    choices = ["model=closed_form", "data.n_genes=100", "logger=none"]
    weights, records = {}, {}
    for regime in ("federated", "central", "local"):
        records[regime] = run(compose_config(tmp_path / regime, f"regime={regime}", *choices))
        folder = tmp_path / regime / "run" / ("site-1" if regime == "local" else "")
        weights[regime] = load_file(folder / "weights.safetensors")
    for name, ours in weights["federated"].items():
        torch.testing.assert_close(ours, weights["central"][name], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(ours, weights["local"][name], rtol=0.1)
    assert {record["epochs"] for record in records.values()} == {1}
    assert records["central"]["cells_seen"] == records["local"]["cells_seen"] == records["central"]["cells_train"]
    assert 0.8 < records["local"]["accuracy"] < records["central"]["accuracy"]
    assert all(record["energy_kwh"] > 0 for record in records.values())


def test_sums_travel_in_halves() -> None:
    x, y = torch.randn(30, 7), torch.arange(30) % 3
    whole = Moments.of([(x, y)], 3, 7)
    again = whole.half().whole()
    torch.testing.assert_close(again.products, whole.products, rtol=1e-6, atol=1e-6)
    assert torch.equal(again.products, again.products.T)
