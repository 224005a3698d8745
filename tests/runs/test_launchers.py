"""The jobs of a sweep run elsewhere by one word: the same runs, in an order that fine-tuning can rely on."""

import json
import os
import time
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import pytest

from conftest import PLUGINS, lacks
from hydra_plugins.in_order import InOrder, Job
from program import start_anew
from scfl_green.analysis.ends import Ends
from scfl_green.analysis.sweep import Sweep

QUICK = ["regime=central", "trainer.max_epochs=1", "data.n_genes=50", "logger=none", "trainer=cpu"]
LAUNCHERS = {
    "joblib": (["hydra.launcher.n_jobs=2"], 2),
    "slurm_local": ([], 1),
    # A Ray of its own.
    "ray": (["hydra.launcher.ray.init.address=null", "hydra.launcher.ray.init.object_store_memory=80000000"], 1),
}
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("slurm_local", "ray")]


@pytest.mark.parametrize("launcher", ["joblib", *SLOW])
def test_a_sweep_by_another_launcher(tmp_path: Path, launcher: str) -> None:
    if lacks(PLUGINS[f"launcher={launcher}"]):
        pytest.skip("the launcher is not installed")
    more, seeds = LAUNCHERS[launcher]
    sweep = ["hydra/sweeper=adaptive_seeds", "seeds=1", f"max_seeds={seeds}", "model=actinn,scdlc", *QUICK]
    ended = start_anew(tmp_path, "-m", f"launcher={launcher}", *more, *sweep)
    assert ended.returncode == 0, ended.stderr
    (folder,) = (tmp_path / "logs/sweeps").glob("pancreas-model-*")
    named = "data.n_genes-50-trainer.max_epochs-1-trainer-cpu"
    runs = {
        f"pancreas-{model}-baseline-central-s{seed}-{named}"
        for model in ("actinn", "scdlc")
        for seed in range(1, seeds + 1)
    }
    assert {path.parent.name for path in folder.glob("*/result.json")} == runs
    results = pd.read_csv(folder / "results.csv")
    assert set(results["folder"]) == runs
    assert results["energy_mode"].str.endswith("shared node: CPU by own CPU time").all()
    assert ended.stdout.rstrip().endswith("report.html")


@pytest.mark.skipif(lacks(PLUGINS["launcher=joblib"]), reason="the launcher is not installed")
def test_fine_tuning_waits_for_its_federation_and_a_failure_for_nobody(tmp_path: Path) -> None:
    quick = ["federation.rounds=1", "federation.local_epochs=1", "data.n_genes=50", "logger=none", "trainer=cpu"]
    jobs = ["regime=federated,finetune", "split.newcomers=1,[Nobody]"]
    ended = start_anew(tmp_path, "-m", "launcher=joblib", "hydra.launcher.n_jobs=2", "name=both", *jobs, *quick)
    folder = tmp_path / "logs/sweeps/both"
    assert ended.returncode != 0
    assert "split.newcomers names Nobody" in ended.stderr
    records = [json.loads(path.read_text()) for path in folder.glob("*/result.json")]
    assert {record["regime"] for record in records} == {"federated", "finetune"}
    assert "4 of 4 jobs done, 0 left" in ended.stdout
    assert "2 failed, and run again in the next start: " in ended.stdout
    assert len(pd.read_csv(folder / "results.csv")) == 2
    assert (folder / "report.html").exists()


def test_jobs_are_launched_after_those_that_they_start_from() -> None:
    def job(name: str, start: str | None = None) -> Job:
        return Job([f"name={name}"], Path("sweep") / name, start and Path("sweep") / start)

    jobs = [job("f1"), job("t1", "f1"), job("f2"), job("t2", "f2"), job("u2", "f2"), job("e", "elsewhere")]
    # Not by its constructor: Hydra, which scans plugins again, has made another class of its base by then.
    parts = list(InOrder.__new__(InOrder)._in_order(jobs))
    assert [one for part in parts for one in part] == jobs, "seeds still vary slowest"
    assert [[one.folder.name for one in part] for part in parts] == [["f1"], ["t1", "f2"], ["t2", "u2", "e"]]


def test_whoever_ends_last_writes_the_page_once(tmp_path: Path) -> None:
    ends = Ends(tmp_path)
    fork, written = get_context("fork"), get_context("fork").Queue()

    def job(name: str) -> None:
        ends.note(name)
        with ends.last() as last:
            if last and len(ends.known()) == 4:
                (tmp_path / "report.html").write_text(name)
                written.put(name)

    processes = [fork.Process(target=job, args=(str(number),)) for number in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert written.get(timeout=5) == (tmp_path / "report.html").read_text()
    assert written.empty()


def test_ends_of_earlier_starts_do_not_count(tmp_path: Path) -> None:
    first = Ends(tmp_path)
    first.note("a", "no room")
    first.note("b")
    assert first.known() == {"a": "no room", "b": ""}
    for path in first.notes.iterdir():
        os.utime(path, (time.time() - 60,) * 2)
    second = Ends(tmp_path)
    assert second.known() == {}
    second.note("a")
    assert second.known() == {"a": ""}
    sweep = Sweep()
    sweep.jobs, sweep.more, sweep.ends = ["a", "b"], False, second
    assert sweep._progress(second.known()).startswith("1 of 2 jobs done, 1 left: ")
