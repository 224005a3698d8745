"""Differential privacy: what Opacus would account for, no more than the budget, and nothing that makes it false."""

import ast
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from safetensors.torch import load, save
from torch import nn

from conftest import CONFIGS, compose_config
from jobs import Recorder, make_job, simulated, split_of, trained
from program import start_program
from scfl_green.data.partition import POOLED, Part
from scfl_green.data.reading.cells import Cells
from scfl_green.energy.meter import EnergyMeter
from scfl_green.errors import InputError
from scfl_green.federated import Rows
from scfl_green.federated.codec import Codec
from scfl_green.models.actinn import ACTINN
from scfl_green.models.base import CellClassifier
from scfl_green.models.prune import Weights
from scfl_green.models.scdlc import ScDLC
from scfl_green.models.scsmd import ScSMD
from scfl_green.runs import settings
from scfl_green.runs.fine_tuning import finetune
from scfl_green.runs.regimes import central
from scfl_green.training.callbacks import Proximal
from scfl_green.training.job import Job
from scfl_green.training.pruning import Prune

pytest.importorskip("opacus", reason="the extra privacy is not installed")

from opacus.accountants import PRVAccountant

from scfl_green.training.dp.dp_sgd import DPSGD
from scfl_green.training.dp.gradients import check_gradients, gradients_by_cell
from scfl_green.training.dp.steps import epsilon_of

SRC = CONFIGS.parent / "src/scfl_green"
ONE = {"min_train_nodes": 1, "min_evaluate_nodes": 1, "min_available_nodes": 1}
# A step of it shows the gradient itself.
SGD = partial(torch.optim.SGD, lr=1.0)
HALVED = partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.5)
ALL = 10_000  # cells a batch: each cell is drawn at each step


def private(noise: float = 1.0, clip: float = 1.0, epsilon: float = 1e6, delta: float = 1e-4) -> DPSGD:
    return DPSGD(noise, clip, epsilon, delta)


def by_sgd(framework: type[CellClassifier], **more: Any) -> Callable[..., CellClassifier]:
    return lambda **given: framework(**given | more | {"optimizer": SGD})


def part_of(job: Job) -> Part:
    return next(iter(job.split.clients.values()))


def learnt(job: Job, part: Part | None = None, **how: Any) -> Weights:
    return job.fit(part or part_of(job), job.initial, **{"epochs": 1} | how)[0]


def distance(one: Weights, other: Weights) -> float:
    return float(sum((one[name] - other[name]).double().square().sum() for name in one)) ** 0.5


@pytest.mark.parametrize("codec", [None, Rows(4)])
def test_epsilon_is_what_opacus_accounts_for_and_grows(few: Cells, meter: EnergyMeter, codec: Codec | None) -> None:
    job = make_job(few, meter, privacy=private())
    job.warm_up()
    # A code is made of private weights, and costs nothing more.
    simulated(job, rounds=2, codec=codec)
    rows = pd.DataFrame(job.fitter.rows)
    for name, part in job.split.clients.items():
        of_client = rows[rows["client"] == name]
        steps = -(-len(part.train) // 16)
        assert [*of_client["steps"]] == [steps, 2 * steps]
        assert job.fitter.histories[name] == [(1.0, 1 / steps, 2 * steps)]
        assert of_client["epsilon"].is_monotonic_increasing
        assert of_client["epsilon"].is_unique
        accountant = PRVAccountant()
        for _ in range(2 * steps):
            accountant.step(noise_multiplier=1.0, sample_rate=1 / steps)
        with np.errstate(divide="ignore"):
            assert of_client["epsilon"].iloc[-1] == accountant.get_epsilon(1e-4)
        entry = meter.entries["fit", 2, name]
        assert entry.cells == len(part.train)
        assert entry.flops == job.flops_per_cell(job.model) * entry.cells
    assert job.fitter.record()["epsilon"] == rows["epsilon"].max()


def test_no_client_takes_a_step_past_its_budget_and_none_could_take_another(few: Cells, meter: EnergyMeter) -> None:
    job = make_job(few, meter, privacy=private(epsilon=4.5), hooks={"recorder": (recorder := Recorder())})
    fit, fits = job.fit, []
    job.fit = lambda *of, **how: fits.append(fit(*of, **how)) or fits[-1]
    last = simulated(job, rounds=20)
    rows = pd.DataFrame(job.fitter.rows)
    assert rows["epsilon"].max() <= 4.5
    assert len(recorder.steps) == rows["round"].max() < 20
    assert job.fitter.record()["out_of_budget"] == sorted(job.split.clients)
    # The others went on when the first had to stop.
    assert rows[~rows["stopped"]].groupby("client")["round"].max().nunique() > 1
    assert last.record["clients_by_round"] == [4] * len(recorder.steps)
    cells = torch.tensor([float(len(part.train)) for part in job.split.clients.values()])
    of_last_round = {
        name: torch.tensordot(cells / cells.sum(), torch.stack([weights[name] for weights, _ in fits[-4:]]), 1)
        for name in job.initial
    }
    assert distance(last.weights, of_last_round) < 1e-4
    for [(noise, rate, steps)] in job.fitter.histories.values():
        assert epsilon_of(((noise, rate, steps + 1),), 1e-4) > 4.5
    assert (spent := [metrics["privacy/epsilon"] for metrics in recorder.metrics]) == sorted(spent)
    assert not any(name.startswith("train/") for metrics in recorder.metrics for name in metrics)


def test_a_budget_for_no_step_is_refused(few: Cells, meter: EnergyMeter) -> None:
    job = make_job(few, meter, privacy=private(epsilon=0.01))
    with pytest.raises(InputError, match=r"privacy.epsilon=0.01: one step of .* takes more"):
        simulated(job)


@pytest.mark.parametrize(
    "framework", [by_sgd(ACTINN, scheduler=HALVED), by_sgd(ScDLC, dropout=0.0), by_sgd(ScSMD, dropout=0.0)]
)
def test_without_noise_and_clipping_a_private_step_is_a_plain_one(
    few: Cells, meter: EnergyMeter, framework: Callable[..., CellClassifier]
) -> None:
    plain, ours = (
        make_job(few, meter, model=framework, batch_size=ALL, privacy=privacy)
        for privacy in (None, private(noise=0.0, clip=1e9, epsilon=float("inf")))
    )
    expected = learnt(plain, epochs=3, callbacks=[Proximal(0.5)])
    found = learnt(ours, epochs=3, callbacks=[Proximal(0.5)])
    assert distance(expected, plain.initial) > 0.1
    assert distance(found, expected) < 1e-3 * distance(expected, plain.initial)


@pytest.mark.parametrize("framework", [by_sgd(ACTINN, l2=0.0), by_sgd(ScDLC, dropout=0.0)])
def test_a_hostile_cell_adds_no_more_than_the_largest_norm(
    few: Cells, meter: EnergyMeter, framework: Callable[..., CellClassifier]
) -> None:
    privacy = private(noise=0.0, clip=0.5, epsilon=float("inf"))
    job = make_job(few, meter, model=framework, batch_size=ALL, privacy=privacy)
    part = part_of(job)
    row = part.train[0]
    job.features.values = job.features.values.tolil()
    job.features.values[row] = job.features.values[row] * 1e4
    job.features.values = job.features.values.tocsr()
    # The type that it looks least like.
    job.features.labels = job.features.labels.copy()
    job.features.labels[row] = int(job.model(job.features.batch(part.train[:1])[0]).argmin())
    without = replace(part, train=part.train[1:])

    def moved(by: Part) -> Weights:
        """The sum of the clipped gradients."""
        return {name: (job.initial[name] - value) * len(by.train) for name, value in learnt(job, by).items()}

    assert 0.4 < distance(moved(part), moved(without)) <= 0.5 * (1 + 1e-3)


@pytest.mark.parametrize(
    ("what", "framework", "noise", "batch_size"),
    [
        ("noise", by_sgd(ACTINN), 1.0, ALL),
        ("draws of cells", by_sgd(ACTINN), 0.0, 16),
        ("dropout", by_sgd(ScDLC, dropout=0.5), 0.0, ALL),
    ],
)
def test_nothing_that_hides_cells_comes_from_the_seed(
    few: Cells, meter: EnergyMeter, what: str, framework: Callable[..., CellClassifier], noise: float, batch_size: int
) -> None:
    def once() -> Weights:
        budget = private(noise=noise, epsilon=float("inf"))
        return learnt(make_job(few, meter, model=framework, batch_size=batch_size, privacy=budget), round_number=1)

    assert distance(once(), once()) > 1e-4


def test_clients_have_noise_of_their_own(few: Cells, meter: EnergyMeter) -> None:
    job = make_job(few, meter, model=by_sgd(ACTINN), batch_size=ALL, privacy=private())
    first, second = (learnt(job, replace(part_of(job), name=name)) for name in ("first", "second"))
    n_weights = sum(value.numel() for value in first.values())
    # Noise of deviation 1 on the sum of gradients, in each of both.
    assert distance(first, second) * len(part_of(job).train) == pytest.approx((2 * n_weights) ** 0.5, rel=0.1)


@pytest.mark.parametrize("framework", [ACTINN, ScDLC, ScSMD])
def test_steps_that_draw_no_cell_are_steps(few: Cells, meter: EnergyMeter, framework: type[CellClassifier]) -> None:
    job = make_job(few, meter, model=framework, batch_size=1, privacy=private())
    weights, scores = job.fit(part_of(job), job.initial, epochs=1, validate=True)
    assert all(value.isfinite().all() for value in weights.values())
    assert scores.keys() == {f"validation/{of}" for of in ("loss", "accuracy", "weighted_f1", "macro_f1")} | {
        of for of in scores if of in ("validation/cross_entropy", "validation/l2")
    }
    assert job.fitter.histories[part_of(job).name][0][2] == len(part_of(job).train)


def test_weights_of_a_private_scdlc_are_those_of_any_scdlc(few: Cells, meter: EnergyMeter) -> None:
    job = make_job(few, meter, model=ScDLC, privacy=private())
    weights = load(save(learnt(job)))
    assert not any(torch.equal(weights[name], job.initial[name]) for name in weights)
    x, _ = job.features.batch(part_of(job).test)
    ordinary = make_job(few, meter, model=ScDLC).model.eval()
    ordinary.load_state_dict(weights)
    job.model.eval()
    with torch.no_grad(), gradients_by_cell(job.model):
        assert not isinstance(job.model.lstm, nn.LSTM)
        torch.testing.assert_close(ordinary(x), job.model(x), rtol=1e-4, atol=1e-5)
    assert isinstance(job.model.lstm, nn.LSTM)


def test_pruned_and_central_training_can_be_private(few: Cells, meter: EnergyMeter) -> None:
    job = make_job(few, meter, model=ScDLC, privacy=private(), hooks={"prune": Prune(0.5, 1, 1)})
    assert simulated(job).weights["embed.weight"].shape[0] == job.initial["embed.weight"].shape[0] / 2
    job = make_job(few, meter, privacy=private())
    central(job, epochs=2)
    assert job.fitter.histories.keys() == {POOLED}
    job = make_job(few, meter, privacy=private(epsilon=2.0))
    assert central(job, epochs=30).epochs < 30
    assert 1.9 < job.fitter.record()["epsilon"] <= 2.0


X, Y = torch.randn(32, 101, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 4
NO_GRAPHS = ["model=sccdcg", "model.deep_cut=0", "model.orthogonality=0"]
MIXED = {
    "model=sccdcg": "deep_cut, orthogonality",
    "model=sccdcg model.deep_cut=0": "orthogonality",
    "model=sccdcg model.orthogonality=0": "deep_cut",
    "model=scsmd model.cellnet=true": "cellnet",
}
KINDS = ["model=actinn", "model=scdlc", "model=scsmd", "model=scsmd model.attention_gate=true", " ".join(NO_GRAPHS)]


def build(folder: Path, overrides: str) -> CellClassifier:
    torch.manual_seed(0)
    return instantiate(compose_config(folder, *overrides.split()).model, n_genes=101, n_types=4, _convert_="all")


@pytest.mark.parametrize("overrides", MIXED)
def test_a_loss_that_compares_cells_is_refused(tmp_path: Path, overrides: str) -> None:
    with pytest.raises(InputError, match=f"its terms {MIXED[overrides]} compare the cells of a batch"):
        check_gradients(build(tmp_path, overrides), X, Y)


@pytest.mark.parametrize("overrides", KINDS)
def test_a_loss_of_single_cells_is_accepted_and_leaves_no_trace(tmp_path: Path, overrides: str) -> None:
    model = build(tmp_path, overrides)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    check_gradients(model, X, Y)
    assert distance(before, model.state_dict()) == 0
    assert model.training
    assert all(p.grad is None and not vars(p) for p in model.parameters())
    assert all(not module._forward_hooks and module.training for module in model.modules())


class BatchNormed(ACTINN):
    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.layers.insert(1, nn.BatchNorm1d(100))


class Bare(ACTINN):
    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.scale = nn.Parameter(torch.ones(1))


class Idle(ACTINN):
    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.unused = nn.Linear(2, 2)


class PenaltyInLoss(ACTINN):
    def loss(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        logits, terms = super().loss(x, y)
        return logits, terms | self.penalty()


@pytest.mark.parametrize(
    ("framework", "message"),
    [
        (BatchNormed, "BatchNorm cannot support"),
        (Bare, "in no layer"),
        (Idle, "no term of the loss of Idle uses unused.weight"),
        (PenaltyInLoss, "its terms l2 "),
    ],
)
def test_what_has_no_gradient_by_cell_is_refused_before_training(
    few: Cells, meter: EnergyMeter, framework: type[CellClassifier], message: str
) -> None:
    with pytest.raises(InputError, match=message) as raised:
        make_job(few, meter, model=framework, privacy=private())
    assert "\n" not in str(raised.value)


def test_what_would_make_an_epsilon_false_is_refused(few: Cells, meter: EnergyMeter) -> None:
    with pytest.raises(InputError, match=r"privacy.delta=0.5 should be below 1 / \d+, the cells"):
        make_job(few, meter, privacy=private(delta=0.5))
    job = make_job(few, meter)
    with pytest.raises(InputError, match="no epsilon of this run covers what they have seen"):
        make_job(few, meter, privacy=private(), start=trained(job))
    job.trainer.keywords["precision"] = "bf16-mixed"
    with pytest.raises(InputError, match="precision=32-true, not bf16-mixed"):
        make_job(few, meter, privacy=private(), trainer=job.trainer)
    job = make_job(few, meter, split=split_of(few, newcomers=1), privacy=private())
    with pytest.raises(InputError, match="use another regime"):
        finetune(job, epochs=1)


@pytest.mark.parametrize("override", ["trainer.packed=false", "trainer.parallel_clients=2", "privacy.epsilon=0"])
def test_settings_that_do_not_go_with_it_are_named(tmp_path: Path, override: str) -> None:
    cfg = compose_config(tmp_path, "privacy=dp_sgd", override)
    with pytest.raises(InputError, match=f"should.*{override.split('=')[0]}|{override}.*should"):
        settings.check(OmegaConf.to_container(cfg, resolve=True))


def test_without_opacus_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "find_spec", lambda name: None)
    config = OmegaConf.to_container(compose_config(tmp_path, "privacy=dp_sgd"), resolve=True)
    with pytest.raises(InputError, match=r"pip install .* -c constraints-privacy.txt -e '.\[privacy\]'"):
        settings.check(config)
    settings.check(config | {"privacy": None})


def test_only_privacy_imports_opacus() -> None:
    for path in SRC.rglob("*.py"):
        names = [node.module for node in ast.parse(path.read_text()).body if isinstance(node, ast.ImportFrom)]
        assert path.parent.name == "privacy" or not any("privacy" in str(name) for name in names), path


def test_both_files_of_constraints_agree() -> None:
    root = CONFIGS.parent
    pins = [line for line in (root / "constraints-privacy.txt").read_text().splitlines() if line[0] != "#"]
    assert pins
    assert set(pins) <= set((root / "constraints.txt").read_text().splitlines())


def test_a_run_ends_well_when_its_budget_is_spent_and_says_what_it_spent(tmp_path: Path) -> None:
    small = ["logger=none", "trainer=cpu", "federation.local_epochs=1", "data.n_genes=100", "split.validation=0"]
    ended = start_program(
        tmp_path, "privacy=dp_sgd", "privacy.epsilon=5.2", "federation.rounds=9", "data.batch_size=400", *small
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    assert "of a budget of 5.2 at delta 1e-05; without steps left: Fasolino et al. 2022, Muraro" in ended.stdout
    (path,) = tmp_path.rglob("result.json")
    record = json.loads(path.read_text())
    assert record["rounds"] < 9
    assert record["delta"] == 1e-5
    assert len(record["out_of_budget"]) == 4
    assert record["versions"]["opacus"].startswith("1.6")
    spent, metrics = (pd.read_csv(path.with_name(name)) for name in ("epsilon.csv", "metrics.csv"))
    assert len(spent) == record["rounds"] * 4
    assert 5 < record["epsilon"] <= 5.2
    assert record["epsilon"] == pytest.approx(spent["epsilon"].max())
    assert [*metrics["privacy/epsilon"]] == pytest.approx([*spent.groupby("round")["epsilon"].max()])
    assert not [name for name in metrics if "train/" in name or "validation/" in name]
