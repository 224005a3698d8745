"""Shared by the tests: small real data, whole runs in a folder of their own, no account and no network."""

import os
import sys
import tempfile
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, open_dict

from jobs import ACTINN_CONFIG, left_by, make_job
from scfl_green.data.reading.cells import Cells
from scfl_green.data.reading.file import Reading
from scfl_green.data.sources import local as sources
from scfl_green.energy.meter import EnergyMeter
from scfl_green.runs.names import register_resolvers

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
# These need what a test has not: the user's file, a run to start from, a GPU.
NEEDS = {"data=h5ad": ["data.path=some.h5ad"], "regime=finetune": ["weights=some/run"]}
# These need a plugin of Hydra's, which not every environment has.
PLUGINS = {
    "experiment=search": "optuna_sweeper",
    "launcher=joblib": "joblib_launcher",
    "launcher=ray": "ray_launcher",
    "launcher=slurm": "submitit_launcher",
    "launcher=slurm_local": "submitit_launcher",
}


def lacks(plugin: str | None) -> bool:
    """Whether a plugin of Hydra's is not installed."""
    return plugin is not None and find_spec(f"hydra_plugins.hydra_{plugin}") is None


CHOICES = [
    pytest.param(choice, marks=pytest.mark.skipif(lacks(PLUGINS.get(choice)), reason="its plugin is not installed"))
    for choice in sorted(
        f"{path.parent.relative_to(CONFIGS)}={path.stem}"
        for path in CONFIGS.glob("*/*.yaml")
        if path.parent.name not in ("hydra", "local")
    )
]
sys.path.insert(0, str(ROOT))  # for benchmarks
os.environ["WANDB_MODE"] = "offline"
# Prepared datasets are shared by all tests, and by nobody else.
CACHE = tempfile.TemporaryDirectory()
os.environ["SCFL_CACHE"] = CACHE.name
# The user's own files must not take the place of what a test serves.
os.environ.pop("SCFL_DATA", None)
# As a run has it by default.
torch.set_num_threads(1)
register_resolvers()


def compose_config(folder: Path, *overrides: str) -> DictConfig:
    """The configuration that ``python train.py OVERRIDES`` would run with, writing below ``folder``."""
    GlobalHydra.instance().clear()
    (folder / "run").mkdir(parents=True, exist_ok=True)
    places = [f"paths.logs={folder}", f"hydra.runtime.output_dir={folder}/run"]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        cfg = compose("train", [*places, *overrides], return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg


# Files of few and long tests: begun last, they would keep one process busy when the others have ended.
LONG = ("test_resume.py", "test_cli.py", "test_launchers.py", "test_sweep.py", "test_report.py", "test_figures.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONG)


@pytest.fixture(scope="session")
def pancreas() -> Cells:
    return Cells.read(sources.packaged("pancreas"), Reading("cell_type", "Dataset", "donor_id"))


@pytest.fixture(scope="session")
def few(pancreas: Cells) -> Cells:
    """Every eighth cell of the embedded dataset."""
    rows = np.arange(0, len(pancreas), 8)
    of_cells = {name: getattr(pancreas, name)[rows] for name in ("counts", "labels", "clients", "donors")}
    return replace(pancreas, **of_cells)


@pytest.fixture
def meter() -> EnergyMeter:
    meter = EnergyMeter("DEU")
    yield meter
    meter.close()


@pytest.fixture(scope="session")
def small_model(few: Cells, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an ACTINN that one client has trained for two epochs."""
    meter = EnergyMeter("DEU")
    job = make_job(few, meter)
    weights, _ = job.fit(next(iter(job.split.clients.values())), job.initial, epochs=2)
    meter.close()
    left_by(job, few, ACTINN_CONFIG, weights, folder := tmp_path_factory.mktemp("small") / "small-model")
    return folder
