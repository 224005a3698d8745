"""Hydra's launchers take no word of permission, and runs are named as under any other."""

from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest

from conftest import start_program

QUICK = ["regime=central", "trainer.max_epochs=1", "data.n_genes=50", "logger=none", "trainer=cpu"]
LAUNCHERS = {"joblib": (["hydra.launcher.n_jobs=2"], 2), "submitit_local": ([], 1)}


@pytest.mark.parametrize("launcher", ["joblib", pytest.param("submitit_local", marks=pytest.mark.slow)])
def test_a_sweep_by_another_launcher(tmp_path: Path, launcher: str) -> None:
    if find_spec(f"hydra_plugins.hydra_{launcher.removesuffix('_local')}_launcher") is None:
        pytest.skip("the launcher is not installed: pip install -e '.[launchers]'")
    more, seeds = LAUNCHERS[launcher]
    sweep = ["hydra/sweeper=adaptive_seeds", "seeds=1", f"max_seeds={seeds}", "model=actinn,scdlc", *QUICK]
    ended = start_program(tmp_path, "-m", f"hydra/launcher={launcher}", *more, *sweep)
    assert ended.returncode == 0, ended.stderr
    (folder,) = (tmp_path / "logs/sweeps").glob("pancreas-model-*")
    named = "data.n_genes-50-trainer.max_epochs-1-trainer-cpu"
    runs = {
        f"pancreas-{model}-baseline-central-s{seed}-{named}"
        for model in ("actinn", "scdlc")
        for seed in range(1, seeds + 1)
    }
    assert {path.parent.name for path in folder.glob("*/result.json")} == runs
    assert set(pd.read_csv(folder / "results.csv")["folder"]) == runs
    assert ended.stdout.rstrip().endswith("report.html")
