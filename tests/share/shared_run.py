"""A finished run on a file with planted canaries, and its model as pushed to a folder."""

import shutil
from pathlib import Path

import anndata as ad
import pytest
from omegaconf import OmegaConf
from shelf import CELL, CLIENT, COLUMN, DONOR, FILE, TERMS, UNS, overrides

from conftest import ROOT, compose_config
from scfl_green.runs.run import run
from scfl_green.share.registry import push


@pytest.fixture(scope="session")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    adata = ad.read_h5ad(ROOT / "src/scfl_green/data/packaged/pancreas.h5ad")[::4].copy()
    adata.obs_names = [f"{CELL}-{number}" for number in range(len(adata))]
    adata.obs[COLUMN] = adata.obs["Dataset"].astype(str).map(lambda name: f"{CLIENT} {name[:5]}").astype("category")
    adata.obs["donor_id"] = adata.obs["donor_id"].astype(str).map(lambda name: f"{DONOR} {name}").astype("category")
    adata.uns["note"] = UNS
    path = tmp_path_factory.mktemp("planted") / f"{FILE}.h5ad"
    adata.write_h5ad(path)
    return path


@pytest.fixture(scope="session")
def finished(planted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run on that file."""
    folder = tmp_path_factory.mktemp("finished")
    cfg = compose_config(folder, *overrides(planted))
    run(cfg)
    (folder / "run/.hydra").mkdir(exist_ok=True)
    OmegaConf.save(cfg, folder / "run/.hydra/config.yaml")
    return folder / "run"


@pytest.fixture(scope="session")
def shelf(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry in a folder, with that run as ``islets@1``."""
    target = tmp_path_factory.mktemp("shelf") / "models"
    assert push(finished, "islets", str(target), TERMS).version == "1"
    return target


@pytest.fixture
def registry_of_mine(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that registry to work on, the default one of an empty folder to work in."""
    shutil.copytree(shelf, tmp_path / "models")
    monkeypatch.delenv("SCFL_MODELS", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "models"
