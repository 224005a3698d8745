"""Sweeps on a real SLURM of one node: disturbed or not, the same bits."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from conftest import ROOT

SCRIPT = ROOT / "scripts/slurm_here.sh"
PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch")
MISSING = [name for name in PROGRAMS if shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin") is None]
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(bool(MISSING), reason="not installed: apt-get install slurm-wlm munge"),
    pytest.mark.skipif(os.getuid() != 0, reason="its daemons are started as root"),
]
JOBS = ["model=actinn", "seed=1,2,3,4"]
LONG = ["federation.rounds=8", "federation.local_epochs=1", "data.n_genes=50", "trainer=cpu", "logger=none"]
HOUR_SECONDS = 3600
# SLURM looks at limits every half minute.
MARGIN_SECONDS = 30
# What a second run of the same seed may change.
VARIES = r"energy|emission|eaps|seconds|load_at_start|idle|waiting|slurm|kwh|too_short"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("slurm")
    subprocess.run([SCRIPT, "start", folder], check=True, timeout=120)
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    yield
    subprocess.run([SCRIPT, "stop", folder], check=True, timeout=60)
    del os.environ["SLURM_CONF"]


def told(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def until(condition: Callable[[], object], what: str, seconds: float = HOUR_SECONDS) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen"
        time.sleep(0.2)


def jobs() -> dict[str, dict[str, str]]:
    """What SLURM knows of its jobs, by their own numbers."""
    shown = told("scontrol", "--oneliner", "show", "job").splitlines()
    fields = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in shown]
    return {one["JobId"]: one for one in fields if "JobId" in one}


def test_a_disturbed_sweep_ends_with_the_same_bits(tmp_path: Path, cluster: None) -> None:
    calm, disturbed = tmp_path / "calm", tmp_path / "disturbed"
    for folder in (calm, disturbed):
        folder.mkdir()
    plain = [sys.executable, str(ROOT / "train.py"), "-m", *JOBS, *LONG, "name=sweep"]
    subprocess.run(plain, cwd=calm, check=True, capture_output=True, timeout=HOUR_SECONDS)
    slurm = ["launcher=slurm", "hydra.launcher.mem_gb=1", f"hydra.launcher.signal_delay_s={60 + MARGIN_SECONDS}"]
    with (disturbed / "out").open("w") as out:
        sweep = subprocess.Popen([*plain, *slurm], cwd=disturbed, stdout=out, stderr=subprocess.STDOUT)
    folder = disturbed / "logs/sweeps/sweep"

    def begun(name: str) -> bool:
        return any(folder.glob(f"*{name}*/checkpoints/*/[0-9]*"))

    until(lambda: begun("federated-s1") and begun("federated-s3"), "a first round")
    requeued, limited = (number for number, job in jobs().items() if job["ArrayTaskId"] in ("0", "2"))
    told("scancel", "--signal=STOP", limited)  # else a quick machine is done before any limit
    told("scontrol", "requeue", requeued)
    minutes, seconds = map(int, jobs()[limited]["RunTime"].split(":")[1:])
    told("scontrol", "update", f"JobId={limited}", f"TimeLimit={minutes + 2}")
    time.sleep(MARGIN_SECONDS + 60 - seconds)
    told("scancel", "--signal=CONT", limited)
    assert sweep.wait(timeout=HOUR_SECONDS) == 0, (disturbed / "out").read_text()
    restarts = {number: int(job["Restarts"]) for number, job in jobs().items()}
    assert restarts[requeued] >= 1
    assert restarts[limited] >= 1
    assert "resuming after round" in "".join(path.read_text() for path in folder.glob("*-s3-*/train.log"))
    same(calm / "logs/sweeps/sweep", folder)
    assert (folder / "report.html").exists()


def same(one: Path, other: Path) -> None:
    weights = {path.parent.name: path.read_bytes() for path in one.glob("*/weights.safetensors")}
    assert len(weights) == 4
    assert weights == {path.parent.name: path.read_bytes() for path in other.glob("*/weights.safetensors")}
    tables = [pd.read_csv(folder / "results.csv").set_index("folder").sort_index() for folder in (one, other)]
    kept = [table.drop(columns=table.filter(regex=VARIES).columns) for table in tables]
    pd.testing.assert_frame_equal(*kept)
    assert {"accuracy", "bytes_up", "method", "rounds"} <= set(kept[0].columns)
    assert tables[1]["energy_mode"].str.endswith("shared node: CPU by own CPU time").all()
    assert tables[1]["slurm_job_id"].nunique() == 4


def test_the_documented_script_goes_on_after_its_limit(tmp_path: Path, cluster: None) -> None:
    page = (ROOT / "docs/clusters.md").read_text()
    (script,) = re.findall(r"```bash\n(#!/bin/bash.*?)```", page, re.DOTALL)
    (tmp_path / "run.sh").write_text(
        script.replace("python train.py", f"{shlex.quote(sys.executable)} {shlex.quote(str(ROOT / 'train.py'))}")
    )
    asked = ["sbatch", "--parsable", "--mem=1G", f"--chdir={tmp_path}", f"--output={tmp_path}/out"]
    number = told(*asked, str(tmp_path / "run.sh"), "model=actinn", "seed=1", *LONG).strip()
    until(lambda: any(tmp_path.glob("logs/runs/*/checkpoints/*/[0-9]*")), "a first round")
    # As SLURM does 120 seconds before the limit.
    told("scancel", "--signal=USR1", number)
    until(lambda: any(tmp_path.glob("logs/runs/*/result.json")), "the end of the run")
    assert int(jobs()[number]["Restarts"]) == 1
    printed = (tmp_path / "out").read_text()
    assert "stopped: the same command resumes after the last finished round" in printed
    assert "resuming after round" in printed
