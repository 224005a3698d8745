"""Scores of what a run trained, on its test cells, and their tables."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from scfl_green.data.dataset import Dataset
from scfl_green.models.scores import BINS, prediction_scores
from scfl_green.runs.regimes import Outcome
from scfl_green.training.calibrate import calibrate
from scfl_green.training.job import Job
from scfl_green.training.testing import Predicted, TestResult, mean, pooled

ELSEWHERE = "elsewhere_"
# The calibration error after temperature scaling.
SCALED = "calibration_error_scaled"
SCORES = ("accuracy", "weighted_f1", "macro_f1")


def calibrated(job: Job, outcome: Outcome) -> Outcome:
    """The outcome with the calibration of each model, by the validation cells of the parts it was trained on."""
    models = [
        replace(model, calibration=calibrate(job, model.weights, model.parts, outcome.survey))
        for model in outcome.models
    ]
    return replace(outcome, models=models)


def score(job: Job, outcome: Outcome) -> TestResult:
    """Test every model: on the test cells of the parts it was trained on, pooled over models; or, where test cells are
    of held-out clients, on all of them, with the mean over models.

    The scores of several models also have how each does on the test cells of the others' parts, pooled: by part, and
    the mean over models (``elsewhere_...``). If all are calibrated, they have the calibration error that is left
    (``SCALED``).
    """
    tested = job.split.to_test(outcome.parts)
    predicted = [job.predict(tested, model.weights) for model in outcome.models]
    result = _result(job, outcome, predicted)
    temperatures = [model.calibration.temperature for model in outcome.models if model.calibration]
    if len(temperatures) == len(predicted):
        scaled = [
            {name: (logits / temperature, labels) for name, (logits, labels) in of_model.items()}
            for of_model, temperature in zip(predicted, temperatures, strict=True)
        ]
        result.scores[SCALED] = _result(job, outcome, scaled).scores["calibration_error"]
    return result


def _result(job: Job, outcome: Outcome, predicted: Sequence[Predicted]) -> TestResult:
    """The scores of what the models have predicted, each for all test cells."""
    if job.split.tested:
        return TestResult.mean([TestResult.of(of_model) for of_model in predicted])
    own: dict[str, tuple[Tensor, Tensor]] = {}
    elsewhere: dict[str, dict[str, float]] = {}
    for model, of_model in zip(outcome.models, predicted, strict=True):
        others, homes = dict(of_model), [part.name for part in model.parts]
        own |= {name: others.pop(name) for name in homes if name in others}
        if others:
            scores = {ELSEWHERE + name: value for name, value in prediction_scores(*pooled(others)).items()}
            elsewhere |= dict.fromkeys(homes, scores)
    result = TestResult.of(own)
    if elsewhere:
        result.scores.update(mean(list(elsewhere.values())))
    for name, scores in result.by_part.items():
        scores.update(elsewhere.get(name, {}))
    return result


def calibration_fields(outcome: Outcome) -> dict[str, Any]:
    """The temperature, a mean over models, and the validation cells that it rests on; none and 0 without them."""
    found = [model.calibration for model in outcome.models if model.calibration]
    return {
        "temperature": sum(one.temperature for one in found) / len(found) if found else None,
        "cells_calibration": sum(one.n_cells for one in found),
    }


def test_tables(dataset: Dataset, tested: TestResult) -> dict[str, pd.DataFrame]:
    """``confusion`` of cell types, ``calibration`` by confidence, and the scores of ``sites``, by name."""
    types = list(dataset.types)
    return {
        "confusion": pd.DataFrame(tested.confusion.numpy(), pd.Index(types, name="true"), types),
        "calibration": _calibration(tested.bins),
        "sites": _sites(dataset, tested),
    }


def _calibration(bins: Tensor) -> pd.DataFrame:
    """Test cells by confidence: their number, mean confidence and accuracy (none where there are no cells)."""
    edges = np.arange(BINS + 1) / BINS
    index = pd.Index(edges[:-1], name="confidence_from")
    sums = pd.DataFrame(bins.numpy(), index, ["cells", "confidence", "accuracy"])
    means = sums[["confidence", "accuracy"]].div(sums["cells"].replace(0, np.nan), axis=0)
    return means.assign(confidence_to=edges[1:], cells=sums["cells"].astype(int))[
        ["confidence_to", "cells", "confidence", "accuracy"]
    ]


def _sites(dataset: Dataset, tested: TestResult) -> pd.DataFrame:
    parts = {name: part for of_kind in vars(dataset.split).values() for name, part in of_kind.items()}
    rows = {
        name: {"cells_test": len(parts[name].test)} | {key: v for key, v in scores.items() if key.endswith(SCORES)}
        for name, scores in tested.by_part.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("site")
