"""Calibration by messages: that of the pooled cells, outside of training's costs, and safe from bad answers."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.serverapp.strategy import FedAvg

from jobs import ONE, make_job, split_of, trained
from scfl_green.data.partition import Part
from scfl_green.data.reading.cells import Cells
from scfl_green.data.seen import Seen
from scfl_green.energy.ledger import CALIBRATE
from scfl_green.energy.meter import EnergyMeter
from scfl_green.errors import InputError
from scfl_green.federated.about import about_weights
from scfl_green.federated.federation import Federation
from scfl_green.models.calibration import BINS, Calibration
from scfl_green.models.prune import Weights
from scfl_green.runs.each_site import local
from scfl_green.runs.fine_tuning import finetune
from scfl_green.runs.regimes import central, federated
from scfl_green.runs.scoring import SCALED, calibrated, calibration_fields, score
from scfl_green.training.calibrate import calibrate
from scfl_green.training.hooks import Hook
from scfl_green.training.job import Job
from scfl_green.training.survey import ANSWERS, Arrays, Ask, Survey, calibration_sums, in_turn
from scfl_green.training.trained_model import TrainedModel

MESSAGES = partial(about_weights, n_workers=1, timeout_seconds=60)


@pytest.fixture(scope="module")
def job(few: Cells) -> Iterator[Job]:
    """A job that has trained a little on all cells."""
    meter = EnergyMeter("DEU")
    job = make_job(few, meter)
    job.initial, _ = job.fit(Part.pooled(clients(job)), job.initial, epochs=10)
    yield job
    meter.close()


@pytest.fixture(scope="module")
def told(job: Job) -> dict[str, dict[str, Arrays]]:
    """The true answers of every site to both questions, by its name."""
    heard: dict[str, dict[str, Arrays]] = {"first": {}, "second": {}}

    @contextmanager
    def survey(job: Job, weights: Weights, parts: Sequence[Part]) -> Iterator[Ask]:
        with in_turn(job, weights, parts) as ask:

            def overheard(kind: str, question: Arrays) -> Iterator[tuple[str, Arrays]]:
                for name, arrays in ask(kind, question):
                    heard["second" if question else "first"][name] = arrays
                    yield name, arrays

            yield overheard

    found(job, clients(job), survey=survey)
    return heard


def clients(job: Job) -> list[Part]:
    return list(job.split.clients.values())


def found(job: Job, parts: Sequence[Part], **how: Any) -> dict[str, Any]:
    calibration = calibrate(job, job.initial, parts, **how)
    assert calibration is not None
    return calibration.to_json()


def test_messages_give_the_calibration_of_the_pooled_cells_to_the_bit(job: Job) -> None:
    parts = clients(job)
    pooled = found(job, [Part.pooled(parts)])
    assert pooled["n_cells"] == sum(len(part.validation) for part in parts)
    assert found(job, parts[::-1]) == pooled
    assert found(job, parts, survey=MESSAGES) == pooled
    assert found(job, parts, survey=partial(about_weights, n_workers=2, timeout_seconds=60)) == pooled


def test_it_is_what_the_logits_of_the_validation_cells_say(job: Job) -> None:
    parts = clients(job)
    calibration = calibrate(job, job.initial, parts, MESSAGES)
    assert calibration is not None
    logits, labels = job.logits(Part.pooled(parts).validation, job.initial)
    losses = [torch.nn.functional.cross_entropy(logits / t, labels) for t in (0.25, calibration.temperature, 4.0)]
    assert losses[1] < min(losses[0], losses[2])
    sets = calibration.prediction_sets(calibration.probabilities(logits))
    # Of the cells themselves, at least as many as promised.
    assert 0.9 <= float(sets[range(len(labels)), labels].double().mean()) < 0.95
    x, _ = job.features.batch(Part.pooled(parts).validation)
    assert float((calibration.novelty_p(x) < 0.1).double().mean()) <= 0.1


def test_it_counts_neither_as_training_nor_as_its_transfer(job: Job) -> None:
    job.meter.entries = {key: entry for key, entry in job.meter.entries.items() if key[0] != "calibrate"}
    job.meter.read()
    before = job.meter.trained(), job.meter.moved()
    found(job, clients(job), survey=MESSAGES)
    job.meter.read()
    assert (job.meter.trained(), job.meter.moved()) == before
    asked = [entry for entry in job.meter.entries.values() if entry.phase == "calibrate" and entry.client]
    assert [entry.client for entry in asked] == list(job.split.clients)
    weights = sum(value.nbytes for value in job.initial.values())
    squares = 2 * 64 * 64 * 8  # the sums of profiles, told by each and told to all
    for entry in asked:
        assert entry.cpu_seconds > 0
        assert weights < entry.bytes_down < weights + squares  # once, for two questions
        assert entry.bytes_up < squares


def test_without_validation_cells_or_where_a_hook_forbids_it_there_is_none(few: Cells, meter: EnergyMeter) -> None:
    class Private(Hook):
        no_calibration = True

    for job in (make_job(few, meter, split_of(few, validation=0.0)), make_job(few, meter, hooks={"it": Private()})):
        assert calibrate(job, job.initial, clients(job), MESSAGES) is None
    assert not meter.moved()[0]
    assert meter.total("calibrate").bytes_up == 0


REGIMES = {
    "central": partial(central, epochs=1),
    "federated": partial(federated, federation=Federation(FedAvg(**ONE), rounds=1, local_epochs=1)),
    "local": partial(local, epochs=1),
    "finetune": partial(finetune, epochs=1),
}


@pytest.mark.parametrize("regime", REGIMES)
def test_every_regime_is_calibrated_by_the_cells_of_the_parts_it_trained_on(
    few: Cells, meter: EnergyMeter, regime: str
) -> None:
    job = make_job(few, meter, split_of(few, newcomers=1))
    job.start = trained(job)
    outcome = calibrated(job, REGIMES[regime](job))
    assert len(outcome.models) == (3 if regime == "local" else 1)
    for model in outcome.models:
        assert model.calibration is not None
        assert model.calibration.n_cells == sum(len(part.validation) for part in model.parts)
        assert model.calibration.profiles.n.sum() == sum(len(part.train) for part in model.parts)
    assert (meter.total("calibrate").bytes_up > 0) == (regime == "federated")
    fields = calibration_fields(outcome)
    assert fields["cells_calibration"] == sum(len(part.validation) for part in outcome.parts)
    assert SCALED in score(job, outcome).scores


def test_a_site_without_validation_cells_only_tells_of_its_training_cells(job: Job) -> None:
    first, *rest = clients(job)
    without = replace(first, validation=first.validation[:0])
    alone, both = found(job, rest), found(job, [without, *rest], survey=MESSAGES)
    assert both["n_cells"] == alone["n_cells"]
    assert both["scores"] == alone["scores"]
    assert sum(both["profiles"]["n"]) == sum(alone["profiles"]["n"]) + len(first.train)


# What a bad site answers, given what it should have.
BAD: dict[str, Any] = {
    "nothing": lambda told: {},
    "another name": lambda told: {f"{name}2": value for name, value in told.items()},
    "not whole": lambda told: {name: value.astype(np.float64) for name, value in told.items()},
    "not a number": lambda told: {name: np.full(value.shape, np.nan) for name, value in told.items()},
    "another shape": lambda told: {name: value[..., :-1] for name, value in told.items()},
    "no shape": lambda told: {name: value.ravel()[:1].reshape(()) for name, value in told.items()},
    "negative": lambda told: {name: -value.astype(np.int64) for name, value in told.items()},
    "huge": lambda told: {name: np.full_like(value, np.iinfo(value.dtype).max) for name, value in told.items()},
    "noughts": lambda told: {name: np.zeros_like(value) for name, value in told.items()},
    "twice": lambda told: {name: np.concatenate([value, value]) for name, value in told.items()},
}
BAD_COUNTS: dict[str, Any] = {
    "more cells": lambda told: told | {"scores": told["scores"] + np.array([0, 0, 5], np.uint32)},
    "no such bin": lambda told: {name: value + np.array(BINS, value.dtype) for name, value in told.items()},
}
CASES = [("first", kind) for kind in BAD] + [("second", kind) for kind in BAD | BAD_COUNTS]


@pytest.mark.parametrize(("question", "kind"), CASES)
def test_a_bad_answer_is_left_out(
    job: Job, told: dict[str, dict[str, Arrays]], question: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    bad, *rest = told[question]

    def survey_of(answers: dict[str, dict[str, Arrays]]) -> Survey:
        @contextmanager
        def survey(*_: object) -> Iterator[Ask]:
            yield lambda _, asked: answers["second" if asked else "first"].items()

        return survey

    without = told | {question: {name: told[question][name] for name in rest}}
    with_it = told | {question: told[question] | {bad: (BAD | BAD_COUNTS)[kind](told[question][bad])}}
    with caplog.at_level("WARNING", "scfl_green.training.calibrate"):
        assert found(job, clients(job), survey=survey_of(with_it)) == found(
            job, clients(job), survey=survey_of(without)
        )
    assert f"calibration without {bad}" in caplog.text


@pytest.mark.filterwarnings("ignore")
def test_a_site_that_fails_is_left_out(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    bad, *rest = clients(job)

    def fails(job: Job, part: Part, weights: Weights, question: Arrays) -> Arrays:
        if part is bad:
            raise KeyError("a patient's name")
        return calibration_sums(job, part, weights, question)

    monkeypatch.setitem(ANSWERS, CALIBRATE, fails)
    assert found(job, [bad, *rest], survey=MESSAGES) == found(job, rest)


def saved(job: Job, folder: Path) -> Path:
    calibration = calibrate(job, job.initial, clients(job))
    assert calibration is not None
    seen = Seen.of(clients(job), [], len(job.features.labels), None)
    replace(trained(job), seen=seen, types=tuple("abcdefghi"), calibration=calibration).save(folder)
    return folder / "model.json"


def test_a_model_keeps_its_calibration_and_one_of_before_has_none(job: Job, tmp_path: Path) -> None:
    about = json.loads((path := saved(job, tmp_path)).read_text())
    calibration = TrainedModel.load(str(tmp_path)).calibration
    assert isinstance(calibration, Calibration)
    assert calibration.to_json() == about["calibration"] == found(job, clients(job), survey=in_turn)
    del about["calibration"]
    path.write_text(json.dumps(about))
    assert TrainedModel.load(str(tmp_path)).calibration is None


@pytest.mark.parametrize("damage", [{"temperature": 0.0}, {"novelty": 5}, {"profiles": {"n": 5}}, {"n_cells": 10**30}])
def test_a_hostile_calibration_is_refused_in_one_line(job: Job, tmp_path: Path, damage: dict[str, Any]) -> None:
    about = json.loads((path := saved(job, tmp_path)).read_text())
    about["calibration"] |= damage
    path.write_text(json.dumps(about))
    with pytest.raises(InputError, match="damaged files") as raised:
        TrainedModel.load(str(tmp_path))
    assert "\n" not in str(raised.value)
