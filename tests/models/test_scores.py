"""Scores: of an epoch's counts and of predictions, the same, and those of scikit-learn."""

import math
from functools import reduce
from operator import add

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from scfl_green.models.scores import (
    BINS,
    UNIT,
    UNLABELLED,
    Scored,
    Tally,
    calibration_error,
    confusion_scores,
    prediction_scores,
    reliability,
)

CASES = {
    # Type 5 occurs in neither labels nor predictions, type 4 only in predictions; some cells have no label.
    "many types": (6, 4, 5, 0.1),
    "absent types": (9, 1, 2, 0.0),
    "one type among several": (3, 1, 1, 0.0),
    "a single type": (1, 1, 1, 0.5),
}


def made_up(n_types: int, labelled: int, predicted: int, missing: float) -> tuple[Tensor, Tensor]:
    """Logits and labels of 200 cells, drawn from the first ``labelled`` and ``predicted`` of the types."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, labelled, (200,), generator=generator)
    labels[torch.rand(200, generator=generator) < missing] = UNLABELLED
    logits = torch.randn(200, n_types, generator=generator)
    logits[:, predicted:] -= 100
    return logits, labels


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_both_ways_to_score_agree_with_scikit_learn(case: tuple[int, int, int, float]) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    logits, labels = made_up(*case)
    tally = Tally(case[0], {"cross_entropy": torch.zeros(())}, labels.device)
    for batch in torch.arange(200).split(64):
        tally.add(torch.zeros(1), logits[batch].argmax(dim=1), labels[batch])
    true, predicted = labels[labels != UNLABELLED], logits.argmax(dim=1)[labels != UNLABELLED]
    expected = {"accuracy": metrics.accuracy_score(true, predicted)}
    for average in ("weighted", "macro"):
        expected[f"{average}_f1"] = metrics.f1_score(true, predicted, average=average)
    counted, by_torchmetrics = tally.scores(), prediction_scores(logits, labels)
    for name, value in expected.items():
        assert counted[name] == pytest.approx(value, abs=1e-6)
        assert by_torchmetrics[name] == pytest.approx(value, abs=1e-6)
    balanced = metrics.balanced_accuracy_score(true, predicted)
    assert by_torchmetrics["balanced_accuracy"] == pytest.approx(balanced, abs=1e-6)
    counts = metrics.confusion_matrix(true, predicted, labels=range(case[0]))
    np.testing.assert_array_equal(Scored.of(logits, labels).confusion, counts)
    np.testing.assert_array_equal(tally.counts[:UNLABELLED], counts)


def test_no_labelled_cells_score_zero() -> None:
    scores = prediction_scores(torch.randn(3, 4), torch.full((3,), UNLABELLED))
    assert set(scores.values()) == set(confusion_scores(torch.zeros(4, 4, dtype=torch.int64)).values()) == {0.0}


def test_what_sites_tell_adds_up_to_the_scores_of_all_cells_to_the_bit() -> None:
    logits, labels = made_up(6, 4, 5, 0.1)
    parts = [Scored.of(logits[rows], labels[rows], 2.0) for rows in torch.arange(200).split(37)]
    together, whole = reduce(add, reversed(parts)), Scored.of(logits, labels, 2.0)
    assert together.scores() == whole.scores()
    for name, value in vars(whole).items():
        assert torch.equal(getattr(together, name), value)


def test_the_calibration_error_is_how_far_confidence_is_from_accuracy() -> None:
    # All cells are predicted with confidence 0.8, and half of those with a label are right.
    sure = math.log(0.8 / 0.2)
    logits = torch.tensor([[sure, 0.0]] * 9)
    labels = torch.tensor([0, 1] * 4 + [UNLABELLED])
    assert prediction_scores(logits, labels)["calibration_error"] == pytest.approx(0.3, abs=1e-6)


def test_the_calibration_error_is_that_of_torchmetrics_where_no_confidence_is_full() -> None:
    logits, labels = made_up(6, 4, 5, 0.1)
    theirs = multiclass_calibration_error(logits.softmax(dim=1), labels, 6, n_bins=BINS, ignore_index=UNLABELLED)
    assert calibration_error(reliability(logits, labels)) == pytest.approx(float(theirs), abs=1e-6)


def test_a_cell_of_full_confidence_is_in_the_last_bin_and_each_labelled_cell_in_one() -> None:
    logits = torch.tensor([[1000.0, 0.0], [1000.0, 0.0], [0.0, 0.0], [0.0, 3.0]])
    bins = reliability(logits, torch.tensor([0, 1, 0, UNLABELLED]))
    assert bins[:, 0].tolist() == [0] * 7 + [1] + [0] * 6 + [2]  # 0.5 is in the eighth, from 7/15 to 8/15
    assert bins[-1].tolist() == [2, round(2 / UNIT), 1]
    assert calibration_error(bins) == pytest.approx((1 + 0.5) / 3)
