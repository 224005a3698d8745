"""Scores of what a run trained, on its test cells, and their tables."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from scfl_green.data.dataset import Dataset
from scfl_green.data.partition import Part
from scfl_green.energy.ledger import TEST
from scfl_green.errors import InputError
from scfl_green.models.scores import BINS, UNIT, Scored
from scfl_green.runs.regimes import Outcome, Trained
from scfl_green.training.calibrate import calibrate
from scfl_green.training.job import Job
from scfl_green.training.survey import Arrays, Survey
from scfl_green.training.testing import TestResult, mean, pooled

LOG = logging.getLogger(__name__)
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
    (``SCALED``). A site that fails is left out, with a line in the log.
    """
    parts = job.split.to_test(outcome.parts)
    tested = [
        dict(scored(job, model, parts, outcome.survey, {"temperature": np.array([_temperature(model)])}))
        for model in outcome.models
    ]
    if not all(tested):
        raise InputError("no site has answered how well it predicts its test cells; see the log")
    result = _result(job, outcome, tested)
    if all(model.calibration for model in outcome.models):
        result.scores[SCALED] = result.scaled_error
    return result


def _temperature(model: Trained) -> float:
    return model.calibration.temperature if model.calibration else 1.0


def scored(
    job: Job, model: Trained, parts: Sequence[Part], survey: Survey, question: Arrays
) -> Iterator[tuple[str, Scored]]:
    """What the test cells of each part tell of a model, given its temperature, or without one its validation cells."""
    n_cells = {part.name: len(part.test if question else part.validation) for part in parts}
    with survey(job, model.weights, parts) as ask:
        for site, sums in ask(TEST, question):
            try:
                yield site, _checked(sums, job.model.n_types, n_cells[site])
            except (ValueError, KeyError) as error:
                LOG.warning("test without %s: %s", site, error)


def _checked(sums: Arrays, n_types: int, most_cells: int) -> Scored:
    """A site's answer; ValueError or KeyError for what no test cells can give."""
    shapes = {"confusion": (n_types, n_types), "bins": (BINS, 3), "scaled": (BINS, 3)}
    if {name: a.shape for name, a in sums.items()} != shapes or any(a.dtype != np.int64 for a in sums.values()):
        raise ValueError("sums of another form")
    counts = [sums["confusion"], sums["bins"][:, [0, 2]], sums["scaled"][:, [0, 2]]]
    if any((a < 0).any() for a in sums.values()) or any((a > most_cells).any() for a in counts):
        raise ValueError("sums of more cells than it has told, or of fewer than none")  # which could overflow
    tested = Scored(*(torch.from_numpy(sums[name]) for name in shapes))
    n = int(tested.confusion.sum())
    for bins in (tested.bins, tested.scaled):
        cells, confidence, right = bins.T
        if (right > cells).any() or (confidence * UNIT > cells * (1 + 1e-9)).any() or int(cells.sum()) != n:
            raise ValueError("sums that no cells have")
    if n > most_cells:
        raise ValueError("sums of more cells than it has told")
    return tested


def _result(job: Job, outcome: Outcome, tested: Sequence[Mapping[str, Scored]]) -> TestResult:
    """The scores of the models by what all test cells tell of each."""
    if job.split.tested:
        return TestResult.mean([TestResult.of(of_model) for of_model in tested])
    own: dict[str, Scored] = {}
    elsewhere: dict[str, dict[str, float]] = {}
    for model, of_model in zip(outcome.models, tested, strict=True):
        others, homes = dict(of_model), [part.name for part in model.parts]
        own |= {name: others.pop(name) for name in homes if name in others}
        if others:
            scores = {ELSEWHERE + name: value for name, value in pooled(others).scores().items()}
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
    sums = pd.DataFrame(bins.double().numpy() * [1, UNIT, 1], index, ["cells", "confidence", "accuracy"])
    means = sums[["confidence", "accuracy"]].div(sums["cells"].replace(0, np.nan), axis=0)
    return means.assign(confidence_to=edges[1:], cells=sums["cells"].astype(int))[
        ["confidence_to", "cells", "confidence", "accuracy"]
    ]


def _sites(dataset: Dataset, tested: TestResult) -> pd.DataFrame:
    parts = dataset.split.parts
    rows = {
        name: {"cells_test": len(parts[name].test)} | {key: v for key, v in scores.items() if key.endswith(SCORES)}
        for name, scores in tested.by_part.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("site")
