"""The configuration: every choice works, and every wrong value is refused in one line before anything is trained."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from conftest import CHOICES, CONFIGS, NEEDS, compose_config
from program import start_program
from scfl_green.errors import InputError
from scfl_green.models.base import CellClassifier
from scfl_green.runs import settings

MODELS = sorted(path.stem for path in (CONFIGS / "model").glob("*.yaml"))
# The published study's four, and the linear reference: each at every opt; the papers' own networks have one size.
FRAMEWORKS = [model for model in MODELS if not model.endswith("_paper")]
OPTS = sorted(path.stem for path in (CONFIGS / "opt").glob("*.yaml"))


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_composes_and_instantiates(tmp_path: Path, choice: str) -> None:
    cfg = compose_config(tmp_path, choice, *NEEDS.get(choice, []))
    settings.check(OmegaConf.to_container(cfg, resolve=True))
    group, name = choice.split("=")
    assert HydraConfig.get().runtime.choices[group] == name
    nodes = {"data": [cfg.data.source], "logger": [*cfg.logger.values()], "callbacks": [*cfg.callbacks.values()]}
    for node in nodes.get(group, [cfg.get(group) or {}]):
        # What names a class or function makes it; whole groups of plain values make nothing.
        made = instantiate(node, _partial_=True, _convert_="all")
        assert callable(made) == ("_target_" in node)


def build(folder: Path, *overrides: str) -> CellClassifier:
    return built(compose_config(folder, *overrides))


def built(cfg: DictConfig) -> CellClassifier:
    return instantiate(cfg.model, n_genes=cfg.data.n_genes // 10, n_types=9, _convert_="all")


def size(model: CellClassifier) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("opt", OPTS)
@pytest.mark.parametrize("model", FRAMEWORKS)
def test_every_opt_changes_what_it_names_and_nothing_else(tmp_path: Path, model: str, opt: str) -> None:
    base, cfg = (compose_config(tmp_path, f"model={model}", f"opt={o}") for o in ("baseline", opt))
    changed = {
        "size": size(built(cfg)) - size(built(base)),
        "batch": cfg.data.batch_size - base.data.batch_size,
        "precision": cfg.trainer.precision != base.trainer.precision,
        "prune": cfg.prune != base.prune,
        "message": cfg.federation.codec != base.federation.codec,
    }
    named = {
        "small_batch": {"batch"},
        "mixed_precision": {"precision"},
        "reduce_complexity": {"size"},
        "green": {"message", "size"},
        "prune": {"prune"},
        "compress": {"message"},
    }
    assert {name for name, change in changed.items() if change} == named.get(opt, set())
    assert changed["size"] <= 0
    assert changed["batch"] <= 0


@pytest.mark.parametrize("model", [model for model in MODELS if model not in ("linear", "closed_form")])
def test_width_scales_every_framework(tmp_path: Path, model: str) -> None:
    sizes = [size(build(tmp_path, f"model={model}", f"model.width={width}")) for width in (0.25, 0.5, 1.0, 2.0)]
    assert sizes == sorted(set(sizes))


def test_overrides_come_after_an_opt(tmp_path: Path) -> None:
    cfg = compose_config(tmp_path, "opt=small_batch", "data.batch_size=24", "model.hidden=[7]")
    assert cfg.data.batch_size == 24
    assert cfg.model.hidden == [7]


def test_central_training_has_as_many_epochs_as_a_federation(tmp_path: Path) -> None:
    cfg = compose_config(tmp_path, "regime=central", "federation.rounds=7", "federation.local_epochs=2")
    assert cfg.regime.epochs == cfg.trainer.max_epochs == 14


WRONG = {
    "trainer.max_epochs=abc": "trainer.max_epochs=abc",
    "trainer.max_epochs=0": "trainer.max_epochs=0",
    "trainer.precision=half": "trainer.precision=half",
    "data.batch_size=0": "data.batch_size=0",
    "data.batch_size=1.5": "data.batch_size=1.5",
    "data.n_genes=-3": "data.n_genes=-3",
    "split.test=1.2": "split.test=1.2",
    "split.test_share=0": "split.test_share=0",
    "split=dirichlet split.alpha=0": "split.alpha=0",
    "data.preprocess=scaled": "data.preprocess=scaled",
    "split.newcomers=-1": "split.newcomers",
    "federation.rounds=0": "federation.rounds=0",
    "federation.min_cells=-1": "federation.min_cells=-1",
    "model.width=0": "model.width=0",
    "model.hidden=[100,x]": "model.hidden",
    "model.optimizer.lr=fast": "model.optimizer.lr=fast",
    "carbon.country=Germany": "carbon.country=Germany",
    "carbon.cpu_watts=-5": "carbon.cpu_watts",
    "carbon.pue=0.9": "carbon.pue=0.9",
    "carbon.start=2024-06-01": "carbon.start=2024-06-01",
    "+carbon.countries.A=UK": "of A, UK: it should be",
    "federation=carbon_aware federation.strategy.floor=0": "federation.strategy.floor=0",
    "federation=carbon_aware federation.strategy.slack_hours=-1": "federation.strategy.slack_hours",
    "seed=-1": "seed=-1",
    "opt=prune prune.fraction=1.0": "prune.fraction=1.0",
    "opt=prune prune.after_round=5": "prune.after_round",
    "threads=0": "threads=0",
}


@pytest.mark.parametrize("override", WRONG)
def test_wrong_values_are_named(tmp_path: Path, override: str) -> None:
    cfg = compose_config(tmp_path, *override.split())
    with pytest.raises(InputError, match="should") as raised:
        settings.check(OmegaConf.to_container(cfg, resolve=True))
    assert WRONG[override] in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("override", ["gradient_clip_val=1", "gradient_clip_val=0.5", "accumulate_grad_batches=2"])
def test_what_a_packed_step_would_ignore_is_refused(tmp_path: Path, override: str) -> None:
    cfg = compose_config(tmp_path, f"+trainer.{override}")
    with pytest.raises(InputError, match=rf"trainer.{override.split('=')[0]} .*set trainer.packed=false"):
        settings.check(OmegaConf.to_container(cfg, resolve=True))
    cfg.trainer.packed = False
    settings.check(OmegaConf.to_container(cfg, resolve=True))


# A mistake that only the data show takes a whole start; one of these is enough each time.
SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.max_epochs=abc"], "trainer.max_epochs=abc"),
        pytest.param(["+model.optimizer.foo=1"], "model.optimizer", marks=SLOW),
        pytest.param(["federation.strategy.min_train_nodes=10", "logger=none"], "there are 4 clients", marks=SLOW),
        (["regime=federate"], "regime=federate: there is no such choice; did you mean federated? there are central"),
        (["data.bath_size=3"], "data.bath_size: there is no such setting; did you mean batch_size?"),
        pytest.param(["trainer.precision=16-mixed", "trainer=cpu"], "a CPU has no fp16", marks=SLOW),
        (["split.newcomers=[Nobody]"], "the clients are Fasolino"),
        (["regime=finetune"], "python train.py split.newcomers=1"),
        (["data=h5ad", "data.path=none.h5ad"], "no file at none.h5ad"),
    ],
)
def test_a_users_mistake_ends_in_one_line(tmp_path: Path, overrides: list[str], message: str) -> None:
    ended = start_program(tmp_path, *overrides)
    assert ended.returncode != 0
    assert len(ended.stderr.strip().splitlines()) == 1
    assert ended.stderr.startswith("error: ")
    assert message in ended.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


EARLY = {
    "experiment=grid opt=baseline,green federation.roundss=3": "federation.roundss: there is no such setting; did you",
    "opt=baseline,green": "opt=baseline,green: several values are a sweep: add -m",
    "trainer.precision=16": "trainer.precision=16: input should be '32-true', 'mixed'",
    "finetuning.patience=0": "finetuning.patience=0: input should be greater than 0",
    "carbon.country=UK": "did you mean GBR (United Kingdom)?",
    "carbon.intensity=hours.csv": "carbon.intensity=hours.csv: a CSV file is expected",
    "data=h5ad": "data.path: the path of an h5ad file is expected",
    "data.label_key=Cell_Type": "data.label_key=Cell_Type: no such column in obs; did you mean cell_type?",
    "data=pancreass": "data=pancreass: there is no such choice; did you mean pancreas? there are dataset_a",
    "modle=actinn": "modle: there is no such setting; did you mean model?",
    "name=???": "name: a value is expected; set name=VALUE",
}


def test_a_wrong_value_is_told_before_torch_is_imported(tmp_path: Path) -> None:
    """In one process, since most of the time is Python's start."""
    program = (
        "import sys\n"
        "from scfl_green.runs.program import train\n"
        f"for override in {[*EARLY]}:\n"
        "    try:\n"
        "        train(override.split())\n"
        "    except SystemExit as ended:\n"
        "        print(ended.code)\n"
        "    assert 'torch' not in sys.modules, override\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stderr
    told = ended.stdout.splitlines()
    assert len(told) == len(EARLY)
    for line, message in zip(told, EARLY.values(), strict=True):
        assert line.startswith("error: ")
        assert message in line
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_help_and_the_configuration_need_no_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('torch was imported')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    ended = start_program(tmp_path, "--cfg", "job")
    assert ended.returncode == 0, ended.stderr
    assert "regime:" in ended.stdout


def test_torch_is_the_version_that_was_tested() -> None:
    tested = (CONFIGS.parent / "constraints.txt").read_text()
    assert f"torch=={torch.__version__.split('+')[0]}" in tested


def test_published_recipes_are_the_papers(tmp_path: Path) -> None:
    actinn = compose_config(tmp_path, "experiment=published")
    assert (actinn.model.optimizer.lr, actinn.data.batch_size) == (1e-4, 128)
    model = instantiate(actinn.model, n_genes=10, n_types=3, _convert_="all")
    configured = model.configure_optimizers()
    scheduler = configured["lr_scheduler"]["scheduler"]
    for _ in range(1000):
        configured["optimizer"].step()
        scheduler.step()
    assert scheduler.get_last_lr() == [pytest.approx(0.95e-4)]
    assert compose_config(tmp_path, "experiment=published", "opt=small_batch").data.batch_size == 16
    scdlc = compose_config(tmp_path, "experiment=published", "model=scdlc")
    assert (scdlc.data.n_genes, scdlc.model.steps) == (100, 100)


@pytest.mark.parametrize("model", MODELS)
def test_every_framework_has_a_published_recipe_and_reduced_sizes(model: str) -> None:
    places = ("recipes/published", "sizes/reduce_complexity", "sizes/green")
    for place in places if model in FRAMEWORKS else places[:1]:
        assert (CONFIGS / place / f"{model}.yaml").exists()


@pytest.mark.parametrize("experiment", ["grid", "benchmark", "green", "compress", "rounds", "fine_tune"])
def test_every_experiment_holds_the_frameworks_against_the_linear_model(experiment: str) -> None:
    text = (CONFIGS / "experiment" / f"{experiment}.yaml").read_text()
    (models,) = (line.split(": ")[1].split(",") for line in text.splitlines() if line.strip().startswith("model:"))
    # Which has no changes of weights to code, no rounds, and nothing to begin with.
    without = {"closed_form"} if experiment in ("green", "compress", "rounds", "fine_tune") else set()
    assert sorted(models) == sorted({*FRAMEWORKS} - without)


@pytest.mark.parametrize("opt", ["reduce_complexity", "green"])
def test_an_opt_without_sizes_for_a_model_is_refused_and_not_trained_as_the_baseline(tmp_path: Path, opt: str) -> None:
    (tmp_path / "mine/model").mkdir(parents=True)
    shutil.copy(CONFIGS / "model/actinn.yaml", tmp_path / "mine/model/mine.yaml")
    ended = start_program(tmp_path, "--config-dir", "mine", "model=mine", f"opt={opt}", "logger=none")
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"error: opt={opt}: it has no sizes for model=mine")
    assert len(ended.stderr.splitlines()) == 1
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize(
    ("override", "advice"),
    [
        ("+data.batchsize=3", "did you mean batch_size?"),
        ("+split.n_clients=7", "there are .*newcomers"),
        ("+model.hiden=[7]", "did you mean hidden?"),
        ("+trainer.max_epoch=3", "did you mean max_epochs?"),
        ("+sed=3", "did you mean seed?"),
    ],
)
def test_a_setting_that_nothing_takes_is_refused_with_the_nearest_one(
    tmp_path: Path, override: str, advice: str
) -> None:
    cfg = compose_config(tmp_path, override)
    with pytest.raises(
        InputError, match=f"{override[1:].split('=')[0]}=.*no such setting.*{advice}".replace("?", r"\?")
    ):
        settings.check(OmegaConf.to_container(cfg, resolve=True))


@pytest.mark.parametrize("packed", ["true", "false"])
@pytest.mark.parametrize(
    "override",
    [
        "trainer.devices=2", "+trainer.limit_train_batches=1", "+trainer.fast_dev_run=true", "+trainer.max_steps=1",
        "+trainer.overfit_batches=1", "+trainer.max_time={seconds:1}", "+trainer.num_nodes=2", "+trainer.logger=true",
    ],
)  # fmt: skip
def test_what_would_train_less_or_elsewhere_than_is_recorded_is_refused(
    tmp_path: Path, override: str, packed: str
) -> None:
    cfg = compose_config(tmp_path, override, f"trainer.packed={packed}")
    with pytest.raises(InputError, match=override.split("=")[0].removeprefix("+")):
        settings.check(OmegaConf.to_container(cfg, resolve=True))
