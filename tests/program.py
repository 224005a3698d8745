"""Starts the program as a process of its own, forked from one that has imported its libraries already.

Their imports take longer than most runs of a test. Tests of imports, locales and installations start an interpreter.
"""

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[1]
SECONDS = 600
FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(["scfl_green.runs.run", "scfl_green.analysis.report", "scfl_green.runs.program"])


def start_program(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """``python train.py OVERRIDES`` in ``folder``."""
    return _ended(runpy.run_path, str(ROOT / "train.py"), [*overrides], folder)


def start_anew(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """The same by a new interpreter, as joblib's workers need."""
    command = [sys.executable, str(ROOT / "train.py"), *overrides]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS)


def scfl_green(*words: str | Path, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """``scfl-green WORDS`` in ``folder``."""
    return _ended(runpy.run_module, "scfl_green", [*map(str, words)], folder)


def _ended(run: Callable[..., Any], program: str, words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    with TemporaryDirectory() as told:
        out, err = Path(told) / "out", Path(told) / "err"
        process = FORK.Process(target=_main, args=(run, program, words, folder, dict(os.environ), out, err))
        process.start()
        process.join(SECONDS)
        if process.is_alive():
            process.kill()
            raise TimeoutError(f"{program} {words} took more than {SECONDS} s: {err.read_text()}")
        return subprocess.CompletedProcess([program, *words], process.exitcode or 0, out.read_text(), err.read_text())


def _main(
    run: Callable[..., Any], program: str, words: list[str], folder: Path, environment: dict[str, str], *told: Path
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for stream, path in zip((1, 2), told, strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), stream)
    sys.argv = [program, *words]
    try:
        run(program, run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # which multiprocessing leaves out
