"""Calibration: temperature, conformal sets and novelty from sums, and its strict reading."""

import json
import math
from copy import deepcopy
from functools import reduce
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from scfl_green.models.calibration import (
    BINS,
    TEMPERATURES,
    Calibration,
    best_temperature,
    filled,
    histogram,
    likelihood_sums,
    novelty_bins,
    score_bins,
)
from scfl_green.models.novelty import ProfileSums
from scfl_green.models.scores import UNLABELLED

N_TYPES, N_GENES = 4, 6


def made_up(n_cells: int, seed: int, sharpness: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits that are ``sharpness`` times those by which labels were drawn, labels, and features."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n_cells, N_TYPES, generator=generator)
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=generator)[:, 0]
    centres = 6 * torch.eye(N_TYPES, N_GENES)
    return sharpness * logits, labels, centres[labels] + torch.randn(n_cells, N_GENES, generator=generator)


def calibrated(n_cells: int = 1000, seed: int = 0, sharpness: float = 1.0) -> Calibration:
    logits, labels, features = made_up(n_cells, seed, sharpness)
    temperature = best_temperature(likelihood_sums(logits, labels))
    profiles = ProfileSums.zeros(N_TYPES, N_GENES)
    profiles.add(*made_up(500, seed + 1)[:0:-1])
    bins = score_bins((logits.double() / temperature).softmax(dim=1))[range(n_cells), labels].long()
    scores = np.zeros((N_TYPES, BINS), np.int64)
    np.add.at(scores, (labels.numpy(), bins.numpy()), 1)
    novelty = np.bincount(novelty_bins(profiles.novelty(features)).long().numpy(), minlength=BINS)
    return Calibration(temperature, scores, novelty, profiles)


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_the_temperature_is_found_that_the_logits_were_sharpened_by(sharpness: float) -> None:
    logits, labels, _ = made_up(5000, 0, sharpness)
    temperature = best_temperature(likelihood_sums(logits, labels))
    assert temperature == pytest.approx(sharpness, rel=0.08)
    by_torch = [float(torch.nn.functional.cross_entropy(logits.double() / t, labels)) for t in TEMPERATURES]
    assert temperature == TEMPERATURES[np.argmin(by_torch)]


def test_sums_of_sites_are_those_of_the_pooled_cells_to_the_bit_in_any_order() -> None:
    logits, labels, features = made_up(600, 3)
    labels[::7] = UNLABELLED
    sites = [np.sort(rows) for rows in np.array_split(np.random.default_rng(0).permutation(600), 5)]
    for order in (sites, sites[::-1]):
        sums = reduce(np.add, (likelihood_sums(logits[rows], labels[rows]) for rows in order))
        np.testing.assert_array_equal(sums, likelihood_sums(logits, labels))
        apart, pooled = ProfileSums.zeros(N_TYPES, N_GENES), ProfileSums.zeros(N_TYPES, N_GENES)
        for rows in order:
            apart.add(features[rows], labels[rows])
        pooled.add(features, labels)
        assert apart.to_json() == pooled.to_json()
    assert pooled.n.sum() == (labels != UNLABELLED).sum()


def test_a_few_cells_that_are_all_right_do_not_make_a_model_certain() -> None:
    logits, labels = 4 * torch.eye(N_TYPES), torch.arange(N_TYPES)
    assert 0.5 < best_temperature(likelihood_sums(logits, labels)) < 1
    assert best_temperature(likelihood_sums(logits[:0], labels[:0])) == 1


@pytest.mark.parametrize("coverage", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("n_cells", [30, 400])
def test_sets_hold_the_true_type_as_often_as_promised(coverage: float, n_cells: int) -> None:
    """Over many draws of the validation cells, as the promise says; up to the 1 / (n + 1) of a finite sample and the
    cells in one bin."""
    logits, labels, _ = made_up(4000, 99)
    covered = []
    for seed in range(40):
        calibration = calibrated(n_cells, seed)
        sets = calibration.prediction_sets(calibration.probabilities(logits), coverage)
        covered.append(float(sets[range(4000), labels].double().mean()))
    assert coverage - 0.02 <= np.mean(covered) <= coverage + 1 / (n_cells + 1) + 0.02


def test_the_threshold_is_that_of_the_pooled_cells_up_to_a_bin() -> None:
    logits, labels, _ = made_up(1000, 0)
    calibration = calibrated(1000, 0)
    own = calibration.probabilities(logits)[range(1000), labels]
    exact = own.sort(descending=True).values[math.ceil(1001 * 0.9) - 1]
    probabilities = calibration.probabilities(made_up(1000, 5)[0])
    sets = calibration.prediction_sets(probabilities)
    wrong = sets != (probabilities >= exact)
    assert bool((score_bins(probabilities[wrong]) == score_bins(exact)).all())
    assert bool(sets[probabilities >= exact].all())


def test_by_type_every_type_has_its_coverage_and_one_of_few_cells_takes_the_common_threshold() -> None:
    logits, labels, _ = made_up(8000, 7)
    logits[labels == 0] -= 2 * torch.eye(N_TYPES)[0]  # a type that is found less often
    calibration, first, second = calibrated(), slice(0, 4000), slice(4000, 8000)
    scores = np.zeros((N_TYPES, BINS), np.int64)
    bins = score_bins(calibration.probabilities(logits[first]))[range(4000), labels[first]].long()
    np.add.at(scores, (labels[first].numpy(), bins.numpy()), 1)
    calibration = Calibration(calibration.temperature, scores, calibration.novelty, calibration.profiles)
    probabilities, of = calibration.probabilities(logits[second]), labels[second]
    for by_type, least in ((True, 0.87), (False, 0.0)):
        sets = calibration.prediction_sets(probabilities, by_type=by_type)
        worst = min(float(sets[of == k, k].double().mean()) for k in range(N_TYPES))
        assert least <= worst <= (0.93 if by_type else 0.85)
    scores[0] = 0
    few = calibration.prediction_sets(probabilities, by_type=True)
    assert bool((few[:, 0] == calibration.prediction_sets(probabilities)[:, 0]).all())


def test_too_few_cells_for_a_threshold_give_sets_of_all_types() -> None:
    calibration = calibrated(8)
    assert bool(calibration.prediction_sets(calibration.probabilities(made_up(50, 1)[0])).all())
    for coverage in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="coverage"):
            calibration.prediction_sets(torch.ones(1, N_TYPES), coverage)


def test_p_values_of_cells_like_those_of_validation_are_uniform_and_those_of_new_ones_small() -> None:
    alike = np.concatenate([calibrated(200, seed).novelty_p(made_up(500, 100 + seed)[2]).numpy() for seed in range(10)])
    for alpha in (0.05, 0.2, 0.5):
        assert alpha - 0.03 <= (alike <= alpha).mean() <= alpha + 0.02
    calibration = calibrated(200)
    new = torch.full((100, N_GENES), 1.5)  # in the middle between all types
    assert calibration.novelty_p(new).tolist() == [pytest.approx(1 / 201)] * 100
    assert calibration.novelty_p(torch.full((1, N_GENES), math.nan)).tolist() == [pytest.approx(1 / 201)]


def test_novelty_is_the_relative_mahalanobis_distance() -> None:
    _, labels, features = made_up(400, 2)
    sums = ProfileSums.zeros(N_TYPES + 1, N_GENES)  # a type without cells is never the nearest
    sums.add(features, labels)
    x = features.double().numpy()
    means = np.stack([x[labels == k].mean(axis=0) for k in range(N_TYPES)])
    residual = x - means[labels]

    def squared(of: np.ndarray, covariance: np.ndarray) -> np.ndarray:
        ridge = 1e-3 * covariance.trace() / N_GENES * np.eye(N_GENES)
        return np.einsum("ij,jk,ik->i", of, np.linalg.inv(covariance + ridge), of)

    within, overall = (of.T @ of / 400 for of in (residual, x - x.mean(axis=0)))
    nearest = np.stack([squared(x - mean, within) for mean in means]).min(axis=0)
    expected = nearest - squared(x - x.mean(axis=0), overall)
    np.testing.assert_allclose(sums.novelty(features), expected, rtol=1e-2, atol=1e-2)


def test_constant_genes_are_no_harm() -> None:
    _, labels, features = made_up(100, 2)
    features[:, 2:] = 0
    sums = ProfileSums.zeros(N_TYPES, N_GENES)
    sums.add(features, labels)
    assert bool(sums.novelty(features).isfinite().all())
    nothing = ProfileSums.zeros(N_TYPES, N_GENES)
    nothing.add(0 * features, labels)
    assert bool((nothing.novelty(0 * features) == 0).all())


def test_what_is_stored_is_read_again() -> None:
    calibration = calibrated()
    again = Calibration.from_json(json.loads(json.dumps(calibration.to_json())), N_TYPES)
    logits, _, features = made_up(50, 8)
    assert again.n_cells == calibration.n_cells == 1000
    assert torch.equal(again.probabilities(logits), calibration.probabilities(logits))
    assert torch.equal(again.novelty_p(features), calibration.novelty_p(features))
    assert again.to_json() == calibration.to_json()
    np.testing.assert_array_equal(histogram(filled(again.scores), again.scores.shape), calibration.scores)


DAMAGE: dict[str, Any] = {
    "temperature": [math.nan, 0.0, -1.0, 1e9, 1.01, "1.0", None, True, [1.0]],
    "n_cells": [0, -1, 999, 1e3 + 0.5, "1000"],
    "scores": [
        [],
        [[0, 0]],
        [[0, 0, -5]],
        [[9, 0, 1000]],
        [[0, BINS, 1000]],
        [[0, -1, 1000]],
        [[0, 0, 1e3]],
        "x",
        None,
    ],
    "novelty": [[[0, 500], [0, 500]], [[0, 2**70]], [[0, 2**50]], [[0, math.nan]], [[[0, 1000]]], {}],
    "profiles": [{}, [], None],
}
PROFILE_DAMAGE: dict[str, Any] = {
    "n": [[], [1, 1], [-1, 500, 1, 1], [0, 0, 0, 0], [1.5, 1, 1, 1]],
    "linear": [[[0] * N_GENES] * 3, [[0] * (N_GENES + 1)] * N_TYPES, [[], [], [], []], [[2**40] * N_GENES] * N_TYPES],
    "squared": [[[0] * N_GENES] * N_GENES, [[1, 2], [3, 4]], [[2**70] * N_GENES] * N_GENES, "x"],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field in DAMAGE for value in DAMAGE[field]])
def test_a_damaged_or_hostile_calibration_is_refused(field: str, value: Any) -> None:
    stored = calibrated().to_json() | {field: value}
    with pytest.raises((ValueError, KeyError, TypeError)):
        Calibration.from_json(stored, N_TYPES)


@pytest.mark.parametrize(("field", "value"), [(f, value) for f in PROFILE_DAMAGE for value in PROFILE_DAMAGE[f]])
def test_damaged_or_hostile_sums_are_refused(field: str, value: Any) -> None:
    stored = deepcopy(calibrated().to_json())
    stored["profiles"][field] = value
    with pytest.raises((ValueError, KeyError, TypeError)):
        Calibration.from_json(stored, N_TYPES)
    with pytest.raises(ValueError, match="types"):
        Calibration.from_json(calibrated().to_json(), N_TYPES + 1)
