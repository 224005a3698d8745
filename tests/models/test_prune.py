"""Pruning makes the network really smaller, and takes out what matters least."""

from pathlib import Path

import pytest
import torch
from flwr.serverapp.strategy import FedAdam, FedAvg
from hydra.utils import instantiate

from conftest import CONFIGS, compose_config
from jobs import ONE, Recorder, federate, make_job
from scfl_green.data.reading.cells import Cells
from scfl_green.energy.meter import EnergyMeter
from scfl_green.errors import InputError
from scfl_green.models.base import CellClassifier
from scfl_green.models.prune import pruned, resize
from scfl_green.runs.regimes import central
from scfl_green.training.pruning import Prune

HALF = {"prune": Prune(fraction=0.5, after_round=1, after_epoch=1)}
# Without units that can be removed.
WHOLE = {"linear", "closed_form", "scsmd_paper"}
MODELS = sorted({path.stem for path in (CONFIGS / "model").glob("*.yaml")} - WHOLE)
OPTIONS = [
    *([f"model={m}"] for m in MODELS),
    ["model=scsmd", "model.cellnet=true"],
    ["model=sccdcg", "model.clustering=1"],
    ["model=sccdcg", "model.reconstruction=0"],
]


def build(folder: Path, overrides: list[str]) -> CellClassifier:
    torch.manual_seed(0)
    return instantiate(compose_config(folder, *overrides).model, n_genes=60, n_types=4, _convert_="all")


@pytest.mark.parametrize("overrides", OPTIONS, ids=" ".join)
def test_every_hidden_layer_is_halved_and_the_network_trains_on(tmp_path: Path, overrides: list[str]) -> None:
    model = build(tmp_path, overrides)
    layers = model.hidden_units()
    widths = [model.get_parameter(units[-1].name).shape[1] for units in layers]
    weights = pruned(model.state_dict(), layers, 0.5)
    resize(model, weights)
    model.load_state_dict(weights)
    assert [model.get_parameter(units[-1].name).shape[1] for units in layers] == [round(w / 2) for w in widths]
    x, y = torch.randn(8, 60), torch.arange(8) % 4
    torch.stack([*model.loss(x, y)[1].values()]).sum().backward()
    assert model(x).shape == (8, 4)


@pytest.mark.parametrize("model", ["actinn", "scdlc", "sccdcg"])
def test_units_that_do_nothing_leave_without_a_trace(tmp_path: Path, model: str) -> None:
    classifier = build(tmp_path, [f"model={model}"]).eval()
    with torch.no_grad():
        for units in classifier.hidden_units():
            for part in units:
                parameter = classifier.get_parameter(part.name)
                size = parameter.shape[part.dim] // part.blocks
                for block in range(part.blocks):
                    parameter.narrow(part.dim, block * size, size - round(size / 2)).zero_()
        x = torch.randn(8, 60)
        before = classifier(x)
        weights = pruned(classifier.state_dict(), classifier.hidden_units(), 0.5)
        resize(classifier, weights)
        classifier.load_state_dict(weights)
        torch.testing.assert_close(classifier(x), before, rtol=1e-4, atol=1e-6)


def test_a_federation_prunes_between_two_rounds_and_sends_less(few: Cells, meter: EnergyMeter) -> None:
    job = make_job(few, meter, hooks=HALF)
    weights = federate(job, rounds=2)
    assert sum(w.numel() for w in weights.values()) < 0.6 * sum(w.numel() for w in job.initial.values())
    sent = {entry.round: entry.bytes_up for entry in meter.entries.values() if entry.phase == "fit"}
    assert sent[2] < 0.6 * sent[1]
    assert meter.total("fit", round=2).flops < 0.6 * meter.total("fit", round=1).flops
    assert all(torch.equal(a, b) for a, b in zip(federate(job, rounds=2).values(), weights.values(), strict=True))
    job.test(list(job.split.clients.values()), weights)


def test_central_training_prunes_between_two_epochs(few: Cells, meter: EnergyMeter) -> None:
    job = make_job(few, meter, hooks={**HALF, "recorder": (recorder := Recorder())})
    (model,) = central(job, epochs=3).models
    assert [step.number for step in recorder.steps] == [1, 2, 3]
    assert model.weights["layers.0.weight"].shape[0] == 50


@pytest.mark.parametrize("model", sorted(WHOLE))
def test_a_model_without_units_to_remove_is_refused(tmp_path: Path, few: Cells, meter: EnergyMeter, model: str) -> None:
    make = instantiate(compose_config(tmp_path, f"model={model}").model, _partial_=True, _convert_="all")
    with pytest.raises(InputError, match="has no hidden units that can be removed"):
        make_job(few, meter, model=make, hooks=HALF)


def test_an_adaptive_server_is_refused(few: Cells, meter: EnergyMeter) -> None:
    with pytest.raises(InputError, match="fedavg or fedprox"):
        federate(make_job(few, meter, hooks=HALF), FedAdam(**ONE))
    federate(make_job(few, meter, hooks=HALF), FedAvg(**ONE))
