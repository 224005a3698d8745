"""Each site alone: what it trains, what it is scored on, and what it leaves."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from conftest import compose_config
from jobs import make_job, split_of
from scfl_green.data.reading.cells import Cells
from scfl_green.data.sources import local as sources
from scfl_green.energy.meter import EnergyMeter
from scfl_green.errors import InputError
from scfl_green.models.scores import prediction_scores
from scfl_green.runs.assemble import load_dataset, make_model
from scfl_green.runs.each_site import local
from scfl_green.runs.reopen import reopen
from scfl_green.runs.run import run
from scfl_green.runs.scoring import score
from scfl_green.training.budget import CarbonBudget
from scfl_green.training.pruning import Prune
from scfl_green.training.trained_model import TrainedModel

QUICK = ["federation.rounds=2", "federation.local_epochs=1", "data.n_genes=200", "logger=none", "trainer=cpu"]
FOUR = [f"site-{number}" for number in range(1, 5)]


Ran = tuple[Path, dict[str, Any]]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """The folder of a run, and its record."""
    place = tmp_path_factory.mktemp("local")
    return place / "run", run(compose_config(place, "regime=local", *QUICK))


def test_every_site_leaves_a_model_that_is_scored_at_home_and_elsewhere(ran: Ran, tmp_path: Path) -> None:
    folder, record = ran
    cfg = compose_config(tmp_path, "regime=local", *QUICK)
    assert (record["clients"], record["rounds"], record["epochs"]) == (4, 0, 2)
    assert record["bytes_up"] == record["bytes_down"] == 0
    assert sorted(path.name for path in folder.glob("site-*")) == FOUR
    assert not (folder / "weights.safetensors").exists()
    sites = pd.read_csv(folder / "sites.csv", index_col="site")
    dataset = load_dataset(cfg, sources.packaged("pancreas"), None, None)
    parts, at_home, elsewhere = list(dataset.split.clients.values()), [], []
    for part, name in zip(parts, FOUR, strict=True):
        left = TrainedModel.load(str(folder / name))
        assert left.seen.clients == {part.name}
        assert set(np.flatnonzero(left.seen.cells)) == {*part.train, *part.validation}
        (model := make_model(cfg, dataset).eval()).load_state_dict(left.weights)
        with torch.inference_mode():
            logits, labels = model(dataset.features.batch(part.test)[0]), dataset.features.batch(part.test)[1]
            rows = np.concatenate([other.test for other in parts if other is not part])
            at_home.append((logits, labels))
            elsewhere.append(prediction_scores(model(dataset.features.batch(rows)[0]), dataset.features.batch(rows)[1]))
        of_site = prediction_scores(logits, labels) | {f"elsewhere_{key}": v for key, v in elsewhere[-1].items()}
        assert sites.loc[part.name, "cells_test"] == len(part.test)
        for score_name in ("accuracy", "weighted_f1", "macro_f1", "elsewhere_accuracy", "elsewhere_weighted_f1"):
            assert sites.loc[part.name, score_name] == pytest.approx(of_site[score_name], abs=1e-6)
    pooled = prediction_scores(*(torch.cat(tensors) for tensors in zip(*at_home, strict=True)))
    for key, value in pooled.items():
        assert record[key] == pytest.approx(value, abs=1e-6)
        mean = np.mean([scores[key] for scores in elsewhere])
        assert record[f"elsewhere_{key}"] == pytest.approx(mean, abs=1e-6)
    assert record["accuracy"] > record["elsewhere_accuracy"]


def test_energy_is_the_sites_own_and_calibration_is_of_all_test_cells(ran: Ran) -> None:
    folder, record = ran
    energy = pd.read_csv(folder / "energy.csv").query("phase == 'fit'")
    sites = pd.read_csv(folder / "sites.csv")
    assert set(energy["client"]) == set(sites["site"])
    assert energy["energy_kwh"].sum() == pytest.approx(record["energy_kwh"])
    bins = pd.read_csv(folder / "calibration.csv")
    assert bins["cells"].sum() == sites["cells_test"].sum() == record["cells_test"]
    filled = bins.dropna()
    assert (filled["confidence"].between(filled["confidence_from"], filled["confidence_to"])).all()
    apart = (filled["confidence"] - filled["accuracy"]).abs() * filled["cells"]
    assert record["calibration_error"] == pytest.approx(apart.sum() / filled["cells"].sum())
    right = (filled["accuracy"] * filled["cells"]).sum() / filled["cells"].sum()
    assert record["accuracy"] == pytest.approx(right, abs=1e-6)


def test_every_site_has_the_calibration_of_its_own_validation_cells(ran: Ran) -> None:
    folder, record = ran
    found = [TrainedModel.load(str(folder / site)).calibration for site in FOUR]
    assert all(found)
    assert len({one.n_cells for one in found}) == 4
    assert sum(one.n_cells for one in found) == record["cells_calibration"]
    assert record["temperature"] == pytest.approx(np.mean([one.temperature for one in found]))
    assert record["bytes_calibrate"] == 0


def test_there_is_no_model_of_all_sites_to_open(ran: Ran) -> None:
    with pytest.raises(InputError, match=r"regime=local, with a model of each site; name one, .*/site-1$"):
        TrainedModel.load(str(ran[0]))
    with pytest.raises(InputError, match="regime=local, with a model of each site; only a run of one"):
        reopen(ran[0])


def test_another_run_in_the_folder_sets_the_models_of_sites_aside(ran: Ran, tmp_path: Path) -> None:
    shutil.copytree(ran[0], tmp_path / "run")
    run(compose_config(tmp_path, "regime=central", *QUICK))
    first = ran[1]
    aside = tmp_path / "run" / f"earlier-{first['fingerprint']}"
    assert sorted(path.name for path in aside.glob("site-*")) == FOUR
    assert not list((tmp_path / "run").glob("site-*"))
    assert json.loads((aside / "result.json").read_text()) == first


def test_a_site_alone_learns_nothing_from_the_others(few: Cells, meter: EnergyMeter) -> None:
    job = make_job(few, meter)
    last = next(reversed(job.split.clients.values()))
    alone = replace(job, split=replace(job.split, clients={last.name: last}))
    outcome = local(job, epochs=1)
    (only,) = local(alone, epochs=1).models
    assert [part.name for part in only.parts] == [last.name]
    for name, value in outcome.models[-1].weights.items():
        assert torch.equal(value, only.weights[name]), name
    assert "elsewhere_accuracy" not in score(alone, local(alone, epochs=1)).scores


def test_where_test_cells_are_of_no_client_every_model_predicts_all_and_their_mean_counts(
    few: Cells, meter: EnergyMeter
) -> None:
    job = make_job(few, meter, split=split_of(few, test=["Muraro et al. 2016"]))
    outcome = local(job, epochs=1)
    result = score(job, outcome)
    assert list(result.by_part) == ["Muraro et al. 2016"]
    of_models = [job.test(list(job.split.tested.values()), model.weights).scores for model in outcome.models]
    assert len(of_models) == 3
    for name, value in result.scores.items():
        assert value == pytest.approx(np.mean([scores[name] for scores in of_models]))
    assert int(result.confusion.sum()) == int(result.bins[:, 0].sum()) == 3 * len(job.split.tested.popitem()[1].test)


def test_hooks_act_at_every_site_or_are_refused(few: Cells, meter: EnergyMeter) -> None:
    job = make_job(few, meter, hooks={"prune": Prune(0.5, after_round=1, after_epoch=1)})
    for model in local(job, epochs=2).models:
        assert model.weights["layers.0.weight"].shape[0] == job.initial["layers.0.weight"].shape[0] / 2
    with pytest.raises(InputError, match="callbacks=carbon_budget ends one training, regime=local has one at each"):
        local(make_job(few, meter, hooks={"budget": CarbonBudget(grams=1.0)}), epochs=1)


def test_each_site_alone_has_a_privacy_budget_of_its_own(few: Cells, meter: EnergyMeter) -> None:
    pytest.importorskip("opacus", reason="the extra privacy is not installed")
    from scfl_green.training.dp.dp_sgd import DPSGD

    privacy = DPSGD(noise_multiplier=2.0, max_grad_norm=1.0, epsilon=50.0, delta=1e-4)
    job = make_job(few, meter, privacy=privacy)
    local(job, epochs=2)
    steps = {row["client"]: row["steps"] for row in privacy.rows}
    assert steps == {part.name: 2 * -(-len(part.train) // job.batch_size) for part in job.split.clients.values()}
