"""Loggers: all are told the same, each step once, and never while training is measured."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import yaml
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import CSVLogger

from conftest import CONFIGS, ROOT, compose_config
from scfl_green.energy.ledger import FIT, VALIDATE
from scfl_green.energy.meter import EnergyMeter
from scfl_green.errors import InputError
from scfl_green.runs import loggers, settings
from scfl_green.runs.fine_tuning import SCRATCH
from scfl_green.runs.inputs import INCIDENTAL
from scfl_green.runs.loggers import Loggers
from scfl_green.runs.run import run
from scfl_green.security.confidential import public
from scfl_green.training.checkpoint import Checkpoint
from wandb_file import configs, records

ALL = "logger=[csv,tensorboard,mlflow,wandb]"
QUICK = [
    "federation.rounds=3", "federation.local_epochs=1", "trainer.max_epochs=2", "data.n_genes=50", "split.newcomers=1",
    "trainer=cpu",
]  # fmt: skip
Metrics = dict[tuple[str, int], float]


def killed(cfg: DictConfig, saves: int) -> int:
    """The exit code of a process that kills itself in this run after so many checkpoints."""
    if (child := os.fork()) == 0:
        save, done = Checkpoint.save, []

        def last(checkpoint: Checkpoint, changed: Any) -> None:
            save(checkpoint, changed)
            done.append(checkpoint)
            if len(done) == saves:
                os.kill(os.getpid(), signal.SIGKILL)

        Checkpoint.save = last
        try:
            run(cfg)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with MLflow's tables, which take it seconds to make."""
    from mlflow import MlflowClient

    MlflowClient(f"sqlite:///{(path := tmp_path_factory.mktemp('empty') / 'mlflow.db')}")
    return path


@pytest.fixture(scope="module")
def federated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run to fine-tune from."""
    run(compose_config(folder := tmp_path_factory.mktemp("federated"), "logger=none", *QUICK))
    return folder / "run"


@pytest.fixture(scope="module")
def resumed(
    tmp_path_factory: pytest.TempPathFactory, empty_store: Path, federated: Path
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The folder and the public configuration of a run that was killed after two of three rounds and run again.

    After ``federated``, which has done for it what a process does once.
    """
    folder = tmp_path_factory.mktemp("resumed")
    shutil.copy(empty_store, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        cfg = compose_config(folder, ALL, *QUICK)
        assert killed(cfg, 2) == -signal.SIGKILL
        run(cfg)
        config: Any = OmegaConf.to_container(cfg, resolve=True)
        yield folder, public({key: value for key, value in config.items() if key not in INCIDENTAL})


def once(entries: list[tuple[str, int, float]]) -> Metrics:
    found = {(name, step): value for name, step, value in entries}
    assert len(found) == len(entries), "a step was logged twice"
    return found


def from_csv(folder: Path, name: str = "run/csv/metrics.csv", step: str = "step") -> Metrics:
    rows = pd.read_csv(folder / name).melt(id_vars=step).dropna()
    return once(list(rows[["variable", step, "value"]].itertuples(index=False, name=None)))


def from_tensorboard(folder: Path) -> Metrics:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (events := EventAccumulator(str(folder / "run/tensorboard"))).Reload()
    return once([(tag, event.step, event.value) for tag in events.Tags()["scalars"] for event in events.Scalars(tag)])


def mlflow_run(folder: Path) -> tuple[Any, Any]:
    """A client of the run's store, and the finished one of its two runs."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("scfl-green")
    finished, unfinished = sorted(client.search_runs([experiment.experiment_id]), key=lambda run: run.info.status)
    assert (finished.info.status, unfinished.info.status) == ("FINISHED", "RUNNING")
    return client, finished


def from_mlflow(folder: Path) -> Metrics:
    client, found = mlflow_run(folder)
    histories = [client.get_metric_history(found.info.run_id, name) for name in found.data.metrics]
    return once([(metric.key, metric.step, metric.value) for history in histories for metric in history])


def wandb_file(folder: Path) -> Path:
    """That of the last start of a run: the one before it was killed."""
    return max(folder.rglob("*.wandb"), key=lambda path: path.stat().st_mtime_ns)


def from_wandb(folder: Path) -> Metrics:
    entries = []
    for record in records(wandb_file(folder)):
        row = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
        if (step := row.pop("trainer/global_step", None)) is not None:
            entries += [(name, step, value) for name, value in row.items() if not name.startswith("_")]
    return once(entries)


READERS = {"csv": from_csv, "tensorboard": from_tensorboard, "mlflow": from_mlflow, "wandb": from_wandb}


@pytest.mark.parametrize("name", READERS)
def test_a_resumed_run_has_told_every_logger_every_step_once(resumed: tuple[Path, Any], name: str) -> None:
    folder, _ = resumed
    logged = READERS[name](folder)
    steps = {key: value for key, value in logged.items() if not key[0].startswith("record/")}
    assert steps == pytest.approx(from_csv(folder, "run/metrics.csv", "round"), rel=1e-5)
    assert {step for _, step in steps} == {1, 2, 3}
    record = json.loads((folder / "run/result.json").read_text())
    results = {key.removeprefix("record/"): value for (key, _), value in logged.items() if key.startswith("record/")}
    if name != "wandb":  # whose summary has the record
        assert results == pytest.approx({key: record[key] for key in results}, rel=1e-5)
        assert {"accuracy", "weighted_f1", "eaps", "emissions_kg", "bytes_up"} <= results.keys()


def test_every_logger_has_the_public_configuration(resumed: tuple[Path, dict[str, Any]]) -> None:
    folder, config = resumed
    for name in ("csv", "tensorboard"):
        assert yaml.safe_load((folder / f"run/{name}/hparams.yaml").read_text()) == config
    (of_wandb,) = configs(wandb_file(folder).parent)
    assert {key: of_wandb[key] for key in config} == config
    _, found = mlflow_run(folder)
    assert found.data.params["data/n_genes"] == "50"
    assert found.data.params["model/hidden"] == "[100, 50, 25]"
    assert {name.split("/")[0] for name in found.data.params} == {key for key, value in config.items() if value != {}}


def test_wandb_shows_tables_and_the_confusion_of_types(resumed: tuple[Path, Any]) -> None:
    folder, _ = resumed
    tables = {path.name.rsplit("_", 2)[0]: json.loads(path.read_text()) for path in folder.rglob("*.table.json")}
    assert set(tables) == {"record", "cells", "sites", "calibration", "f1_by_type", "confusion_table"}
    confusion = pd.read_csv(folder / "run/confusion.csv", index_col=0)
    counts = {(true, found): n for true, found, n in tables["confusion_table"]["data"]}
    assert counts == confusion.stack().to_dict()
    f1 = {name: value for name, _, value in tables["f1_by_type"]["data"]}
    record = json.loads((folder / "run/result.json").read_text())
    assert sum(f1.values()) / len(f1) == pytest.approx(record["macro_f1"])
    assert dict(tables["record"]["data"])["accuracy"] == str(record["accuracy"])
    seen = list(records(wandb_file(folder)))
    (chart,) = (item for record in seen for item in record.config.update if "visualize" in item.nested_key)
    assert chart.nested_key[:3] == ["_wandb", "visualize", "confusion"]
    assert json.loads(chart.value_json)["panel_config"]["panelDefId"] == "wandb/confusion_matrix/v1"
    assert not [record for record in seen if record.HasField("artifact")]


HOMES = ("/pytorch_lightning/loggers/", "/lightning_fabric/loggers/", "/wandb/", "/mlflow/", "/tensorboard/")


def test_no_code_of_a_logger_runs_while_training_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path, federated: Path
) -> None:
    """In both arms of fine-tuning, with checkpoints; ``energy/test_boundary.py`` has the other regimes."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    cfg = compose_config(tmp_path, ALL, "regime=finetune", f"weights={federated}", *QUICK)
    shutil.copy(empty_store, tmp_path)
    phase, called = EnergyMeter.phase, set()

    def watch(frame: Any, event: str, _: object) -> None:
        called.add(frame.f_code.co_filename)

    @contextmanager
    def watched(meter: EnergyMeter, name: str, *where: Any) -> Iterator[None]:
        outer = sys.getprofile()
        with phase(meter, name, *where):
            sys.setprofile(watch if name in (FIT, SCRATCH, VALIDATE) else None)
            try:
                yield
            finally:
                sys.setprofile(outer)

    monkeypatch.setattr(EnergyMeter, "phase", watched)
    run(cfg)
    phases = set(pd.read_csv(tmp_path / "run/energy.csv")["phase"])
    assert {"fit", "scratch", "checkpoint", "tracking"} <= phases
    assert any("/torch/optim/" in file for file in called)
    # The Trainer asks there whether it has a logger.
    called = {file for file in called if not file.endswith("/pytorch_lightning/loggers/utilities.py")}
    assert not [file for file in called if any(home in file for home in HOMES)]


@pytest.mark.parametrize(("logger", "package"), [("tensorboard", "tensorboard"), ("[csv,mlflow]", "mlflow")])
def test_a_logger_without_its_package_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logger: str, package: str
) -> None:
    config = OmegaConf.to_container(compose_config(tmp_path, f"logger={logger}"), resolve=True)
    settings.check(config)
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=rf"logger\.{package} needs {package}: pip install .*\[loggers\]"):
        settings.check(config)


def test_a_logger_that_cannot_start_ends_the_run_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://here")
    cfg = compose_config(tmp_path, "logger=mlflow")
    with pytest.raises(InputError, match=r"^logger: [^\n]*nowhere://here[^\n]*logger=none$"):
        Loggers(lambda: instantiate(cfg.logger), {}, tmp_path).open()


def test_a_logger_that_fails_later_is_left_out_and_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Fails(CSVLogger):
        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            raise ConnectionError("the server is gone")

    made = {"fails": Fails(tmp_path, "fails"), "csv": CSVLogger(tmp_path, "csv", "one")}
    told = Loggers(lambda: dict(made), {}, tmp_path)
    told.log({"loss": 1.0}, 1)
    told.log({"loss": 0.5}, 2)
    told.close("success")
    assert caplog.text.count("logger.fails failed and is left out from now on: the server is gone") == 1
    assert list(pd.read_csv(tmp_path / "csv/one/metrics.csv")["loss"]) == [1.0, 0.5]


SWEEP = yaml.safe_load((CONFIGS / "wandb_sweep.yaml").read_text())
PARAMETERS = {"model": "scdlc", "model.width": 0.5, "model.optimizer.lr": 2e-3, "data.batch_size": 32}


def by_the_agent(folder: Path, patch: pytest.MonkeyPatch, **parameters: Any) -> Any:
    """What W&B's own agent starts for a run of ``configs/wandb_sweep.yaml``."""
    from wandb import wandb_agent

    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):
        patch.setenv(name, "")  # the agent sets them for good
    patch.setenv("WANDB_DIR", str(folder))
    patch.setenv("WANDB_SWEEP_ID", "search")
    agent = wandb_agent.Agent(api=None, queue=None, sweep_id="search")
    agent._sweep_command = SWEEP["command"]
    settings = {name: {"value": value} for name, value in parameters.items()}
    agent._command_run({"run_id": "first", "program": SWEEP["program"], "args": settings})
    return agent._run_processes["first"]


def test_wandbs_agent_starts_a_valid_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resumed: tuple[Path, Any]
) -> None:
    assert SWEEP["parameters"].keys() == PARAMETERS.keys()
    assert SWEEP["metric"]["name"] in {name for name, _ in from_wandb(resumed[0])}
    monkeypatch.setattr("wandb.wandb_agent.AgentProcess", SimpleNamespace)
    command = by_the_agent(tmp_path, monkeypatch, **PARAMETERS).command
    assert command[:3] == ["/usr/bin/env", "python", "train.py"]
    cfg = compose_config(tmp_path, *command[3:])
    settings.check(OmegaConf.to_container(cfg, resolve=True))
    assert (cfg.model.width, cfg.model.optimizer.lr, cfg.data.batch_size) == (0.5, 2e-3, 32)
    assert [*cfg.logger] == ["wandb"]


@pytest.mark.slow
def test_a_run_of_wandbs_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    quick = dict(override.split("=") for override in (*QUICK, f"paths.logs={tmp_path}"))
    assert by_the_agent(tmp_path, monkeypatch, **PARAMETERS, **quick)._popen.wait() == 0
    (result,) = tmp_path.glob("runs/*scdlc*/result.json")
    assert json.loads(result.read_text())["batch_size"] == 32
    (file,) = result.parent.rglob("*.wandb")
    (about,) = (record.run for record in records(file) if record.run.run_id)
    assert (about.run_id, about.sweep_id) == ("first", "search")
    logged = {item.key or ".".join(item.nested_key) for record in records(file) for item in record.history.item}
    assert "validation/weighted_f1" in logged
