"""One program with verbs: in a clone, as a module, and from a wheel in an environment of its own."""

import subprocess
import sys
import venv
from importlib.util import find_spec
from pathlib import Path

import pytest

from conftest import ROOT
from program import scfl_green, start_program

QUICK = ["regime=central", "trainer.max_epochs=1", "data.n_genes=50", "logger=none", "trainer=cpu"]
SWEEPER = ["hydra/sweeper=adaptive_seeds", "seeds=2", "max_seeds=2"]


def done(*command: str | Path, cwd: Path, **more: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, timeout=600, **more)


@pytest.mark.parametrize("words", [["--help"], ["--cfg", "job", "model=scsmd"], ["model=none"], ["-m", "x=1"], []])
def test_train_py_is_the_verb_train_word_for_word(tmp_path: Path, words: list[str]) -> None:
    short, long = start_program(tmp_path, *words, *QUICK), scfl_green("train", *words, *QUICK, folder=tmp_path)
    assert (short.returncode, short.stderr) == (long.returncode, long.stderr)
    if words:
        assert short.stdout == long.stdout
    else:
        finished, table = long.stdout.split("finished before, with this configuration; nothing to do\n")
        assert finished.startswith(str(tmp_path))
        (summary,) = tmp_path.rglob("summary.txt")
        assert f"\n{summary.read_text()}\n" in short.stdout
        page = f"page: scfl-green report logs/runs/{summary.parent.name}\n"
        assert table == f"{summary.read_text()}\n{page}"
        assert short.stdout.endswith(page)


def test_the_program_tells_of_its_verbs(tmp_path: Path) -> None:
    told = scfl_green("--help", folder=tmp_path).stdout
    assert all(f"    {verb} " in told for verb in ("train", "report", "leakage", "collect"))
    assert "train is powered by Hydra" in scfl_green("train", "--help", folder=tmp_path).stdout


@pytest.mark.parametrize("words", [[], ["nothing"], ["report"], ["report", "."], ["leakage", "."], ["collect"]])
def test_a_wrong_word_ends_in_one_line(tmp_path: Path, words: list[str]) -> None:
    ended = scfl_green(*words, folder=tmp_path)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1


@pytest.mark.skipif(find_spec("hatchling") is None, reason="needs hatchling: pip install -e '.[dev]'")
def test_a_wheel_works_without_the_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Built and installed without network; what it depends on is borrowed from the environment of the tests."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    pip = [sys.executable, "-m", "pip", "-q"]
    built = done(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, ROOT, cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    venv.create(tmp_path / "env", symlinks=True)
    (wheel,), (site,) = tmp_path.glob("*.whl"), tmp_path.glob("env/lib/*/site-packages")
    # Folders that such a file names are not searched for others, as of an editable scfl_green.
    (site / "borrowed.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    program = tmp_path / "env/bin/scfl-green"
    installed = done(*pip, "--python", program.with_name("python"), "install", "--no-deps", wheel, cwd=tmp_path)
    assert installed.returncode == 0, installed.stderr

    (empty := tmp_path / "empty").mkdir()
    where = done(program.with_name("python"), "-c", "import scfl_green; print(scfl_green.__file__)", cwd=empty)
    assert where.stdout.startswith(str(site))
    ended = done(program, "train", "-m", *SWEEPER, "name=study", *QUICK, cwd=empty)
    assert ended.returncode == 0, ended.stderr
    assert len([*empty.glob("logs/sweeps/study/*/weights.safetensors")]) == 2
    ended = done(program, "report", "logs/sweeps/study", "--country=FRA", cwd=empty)
    assert (ended.returncode, ended.stdout) == (0, "logs/sweeps/study/report.html\n"), ended.stderr
