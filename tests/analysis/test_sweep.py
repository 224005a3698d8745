"""Sweeps: every job runs once, whatever happened before."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from program import start_program
from scfl_green.runs.names import sweep_name
from wandb_file import configs

QUICK = ["federation.rounds=1", "federation.local_epochs=1", "data.n_genes=100", "trainer=cpu"]
# Processors without bf16 take long.
FEW = ["data.n_genes=30", "data.batch_size=256"]
GRID = ["model=actinn,scdlc", "opt=baseline,small_batch,mixed_precision,reduce_complexity"]


def test_the_grid_runs_once_resumes_and_fills_gaps(tmp_path: Path) -> None:
    def sweep() -> str:
        ended = start_program(tmp_path, "-m", *GRID, *QUICK, *FEW, "logger=none", "name=grid")
        assert ended.returncode == 0, ended.stderr
        assert "Warning" not in ended.stderr
        return ended.stdout

    printed = sweep()
    assert "1 of 8 jobs done, 7 left: about" in printed
    assert "8 of 8 jobs done, 0 left" in printed
    assert printed.rstrip().endswith("report.html")
    folder = tmp_path / "logs/sweeps/grid"
    results = pd.read_csv(folder / "results.csv")
    assert len(results) == 8
    assert not results.duplicated(["model", "opt"]).any()
    assert set(results.loc[results["opt"] == "mixed_precision", "precision"]) == {"bf16-mixed"}
    reduced = results.pivot_table(index="model", columns="opt", values="parameters")
    assert (reduced["reduce_complexity"] < reduced["baseline"]).all()

    (lost,) = folder.glob("*-scdlc-small_batch-*")
    shutil.rmtree(lost)
    written = {path: path.stat().st_mtime_ns for path in folder.glob("*/result.json")}
    assert len(written) == 7
    assert sweep().count("nothing to do") == 7
    assert written.items() < {path: path.stat().st_mtime_ns for path in folder.glob("*/result.json")}.items()
    assert (lost / "result.json").exists()
    assert len(pd.read_csv(folder / "results.csv")) == 8


def test_each_job_is_a_wandb_run_with_its_own_configuration(tmp_path: Path) -> None:
    ended = start_program(tmp_path, "-m", "seed=1,2,3", *QUICK)
    assert ended.returncode == 0, ended.stderr
    assert sorted(config["seed"] for config in configs(tmp_path)) == [1, 2, 3]


def test_a_failing_job_does_not_stop_the_others(tmp_path: Path) -> None:
    ended = start_program(tmp_path, "-m", "split.newcomers=[Nobody],0", "logger=none", *QUICK)
    assert ended.returncode != 0
    assert "split.newcomers names Nobody" in ended.stderr
    assert "Traceback" not in ended.stderr
    (finished,) = tmp_path.rglob("result.json")
    assert json.loads(finished.read_text())["clients"] == 4
    (results,) = tmp_path.glob("logs/sweeps/pancreas-split.newcomers-*/results.csv")
    assert len(pd.read_csv(results)) == 1
    assert "failed, and run again in the next start: " in ended.stdout
    assert results.with_name("report.html").exists()


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (["seed=1,2"], ["seed=1,2,3"], True),
        (["seed=1,2"], ["model=actinn,scdlc"], False),
        (["model.optimizer.lr=1e-3,1e-2"], ["data.n_genes=100,200"], False),
        (["seed=1,2", "regime=central"], ["seed=1,2"], False),
        (["opt=baseline,prune", "logger=none"], ["logger=wandb", "opt=baseline,small_batch"], True),
        (["seed=1,2", "weights=/home/somebody/run"], ["seed=1,2"], False),
    ],
)
def test_sweeps_without_a_name_are_named_by_what_they_vary(one: list[str], other: list[str], same: bool) -> None:
    names = [sweep_name("default", "pancreas", overrides) for overrides in (one, other)]
    assert (names[0] == names[1]) == same
    for name in names:
        assert name.startswith("pancreas-")
        assert "somebody" not in name
        assert "/" not in name
    assert sweep_name("mine", "pancreas", one) == "mine"
