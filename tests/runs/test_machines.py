"""Machines as they are: schedulers, locales, homes and names of folders change nothing, or end in one line."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from conftest import ROOT
from scfl_green.cli import with_caches
from scfl_green.data.sources.local import cache_folder, files
from scfl_green.energy.meter import EnergyMeter
from scfl_green.errors import InputError
from scfl_green.runs.mistakes import one_line
from scfl_green.runs.quoting import OverridesParser, quoted, to_type

QUICK = ["federation.rounds=1", "federation.local_epochs=1", "data.n_genes=100", "logger=csv", "trainer=cpu"]
# Of process 2 of 4: an interactive job of SLURM's, torchrun, MPI, LSF and PBS.
SCHEDULED = {
    "SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_PROCID": "2", "SLURM_LOCALID": "2", "SLURM_NODEID": "0",
    "SLURM_JOB_NAME": "train", "SLURM_NODELIST": "node1", "RANK": "2", "LOCAL_RANK": "2", "WORLD_SIZE": "4",
    "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "1", "MASTER_ADDR": "node1", "MASTER_PORT": "1", "PBS_JOBID": "1",
    "OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "4", "LSB_JOBID": "1", "LSB_DJOB_RANKFILE": "/none",
    "JSM_NAMESPACE_RANK": "2", "JSM_NAMESPACE_LOCAL_RANK": "2", "JSM_NAMESPACE_SIZE": "4",
}  # fmt: skip
ASCII = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C", "PYTHONIOENCODING": ""}


def started(folder: Path, *overrides: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "train.py"), *overrides]
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **environment}
    return subprocess.run(
        command, cwd=folder, capture_output=True, encoding="utf-8", timeout=600, env=env, errors="replace"
    )


def test_a_run_is_one_process_whatever_schedulers_and_locales_say(tmp_path: Path) -> None:
    programs, folder = tmp_path / "bin", tmp_path / "é = (1), [2]"
    for place in (programs, folder):
        place.mkdir()
    for name in ("scontrol", "srun", "jsrun", "mpirun"):
        (programs / name).write_text(f"#!/bin/sh\ntouch {programs}/asked\necho 'no controller' >&2\nexit 1\n")
        (programs / name).chmod(0o755)
    shutil.copy(ROOT / "src/scfl_green/data/packaged/pancreas.h5ad", folder / "a=b,é.h5ad")
    where = ["data=h5ad", "data.path=*.h5ad", "split=iid", "data.client_key=none_such", "hydra.job.chdir=true"]
    path = f"{programs}:{os.environ['PATH']}"
    ended = started(
        folder, *QUICK, *where, "threads=1", "data.label_key=[type,cell_type]", PATH=path, **SCHEDULED, **ASCII
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    assert not (programs / "asked").exists()
    (record,) = (folder / "logs/runs").glob("*/result.json")
    assert json.loads(record.read_text())["clients"] == 4
    (metrics,) = record.parent.glob("csv/**/metrics.csv")
    assert len(metrics.read_text().splitlines()) > 1


def test_a_user_needs_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> Path:
        raise RuntimeError("Could not determine home directory.")  # as Python for a user that the system does not know

    monkeypatch.setattr(Path, "home", none)
    monkeypatch.setattr(Path, "expanduser", lambda path: none() if str(path).startswith("~") else path)
    EnergyMeter("DEU").close()
    assert cache_folder(str(tmp_path)) == tmp_path
    with pytest.raises(InputError, match=r"data.path: ~/cells.h5ad, but this user has no home folder"):
        files("~/cells.h5ad")
    with pytest.raises(InputError, match=r"paths.cache \(SCFL_CACHE\): ~/cache"):
        cache_folder("~/cache")


@pytest.mark.parametrize("home", ["/nonexistent", "~"])
def test_a_user_whose_home_cannot_be_written_gets_caches_for_the_time(
    home: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second: a user that the system does not know."""
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("MPLCONFIGDIR", "")
    monkeypatch.delenv("SCFL_CACHE")
    monkeypatch.setattr("os.path.expanduser", lambda path: path.replace("~", home))
    monkeypatch.setattr("os.access", lambda path, mode: str(path) != "/")
    removed = []
    monkeypatch.setattr("atexit.register", lambda *what, **more: removed.append(what))
    with_caches()
    folder = Path(os.environ["XDG_CACHE_HOME"])
    assert folder.is_dir()
    assert folder.stat().st_mode & 0o77 == 0
    assert capsys.readouterr().err.startswith(f"{home}/.cache cannot be written: prepared cells are not kept")
    ((remove, *paths),) = removed
    remove(*paths)
    assert not folder.exists()


def test_libraries_find_caches_without_the_variable_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path.replace("~", str(tmp_path)))
    with_caches()
    assert os.environ["XDG_CACHE_HOME"] == str(tmp_path / ".cache")


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("split.newcomers=[10_1,007,d3]", ["10_1", "007", "d3"]),
        ("split.test=[1e5, 1.10, true]", ["1e5", "1.10", "true"]),
        ("split.newcomers=2", 2),
        ("finetuning.client=10_1", "10_1"),
        ("finetuning.client=null", None),
        ("data.path=/home/a b/x=1.h5ad", "/home/a b/x=1.h5ad"),
        ("data.path=~/é(1)[2].h5ad", "~/é(1)[2].h5ad"),
        ('data.path=/o\'neil/"x".h5ad', '/o\'neil/"x".h5ad'),
        ("data.path=[a=1.h5ad, é (2).h5ad,sites/*.h5ad]", ["a=1.h5ad", "é (2).h5ad", "sites/*.h5ad"]),
        ("data.drop_types=[CD4+ T cell,T cell (x),nan]", ["CD4+ T cell", "T cell (x)", "nan"]),
        ("model.hidden=[1,2]", [1, 2]),
        ("seed=1_000", 1000),
    ],
)
def test_values_of_the_command_line_stay_what_they_are(argument: str, value: object) -> None:
    (parsed,) = OverridesParser.create().parse_overrides([quoted(argument)])
    assert parsed.value() == value


def test_a_sweep_stays_a_sweep_and_what_has_no_reading_is_told_with_its_quotes() -> None:
    sweeps = ("seed=1,2", "data.path=a.h5ad,b.h5ad", "split.newcomers=[a],[b]", "split.newcomers=[Nobody],0")
    for argument in (*sweeps, "model=actinn,scdlc", "-m"):
        assert quoted(argument) == argument
    assert to_type("data.path=a,b.h5ad") == "'data.path=\"a,b.h5ad\"'"
    broken = "data.path=[[1].h5ad]"
    with pytest.raises(Exception, match="no viable") as raised:
        OverridesParser.create().parse_overrides([quoted(broken)])
    assert one_line(raised.value).endswith("type 'data.path=[\"1].h5ad\"]'")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_check_of_a_gpu_says_that_there_is_none() -> None:
    ended = subprocess.run([sys.executable, str(ROOT / "scripts/gpu_check.py")], capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.startswith("no GPU that PyTorch can use")


@pytest.mark.slow
def test_the_check_of_a_gpu_passes_on_a_processor() -> None:
    command = [sys.executable, str(ROOT / "scripts/gpu_check.py"), "cpu", "linear"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("| linear |") == 4
