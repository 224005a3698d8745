"""A federation of four hospitals on one machine: a server, and each study of the embedded pancreas dataset as a site
with its own folder, its own key and its own process; as root also its own user, where that user can run Python.

    python scripts/hospitals.py [FOLDER] [OVERRIDE ...]       (or: make hospitals)

The commands are those of docs/hospitals.md; every process writes what it says into FOLDER (hospitals/).
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import anndata as ad

import scfl_green

ROOT = Path(__file__).parents[1]
PANCREAS = Path(scfl_green.__file__).parent / "data/packaged/pancreas.h5ad"
SECONDS = 300.0
# Users of the sites, which need no entry in /etc/passwd.
FIRST_USER = 64000


def main(folder: Path, overrides: list[str]) -> int:
    began = time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with ExitStack() as stack:
        server = folder / "federation"
        tell(began, "the coordinator makes a server")
        ours("server", "init", "--folder", server, "--port", free_port())
        stack.enter_context(started(folder / "server.log", "server", "start", "--folder", server))
        wait("is ready", folder / "server.log")
        sites = studies(folder)
        for number, (name, cells) in enumerate(sites.items()):
            tell(began, f"{name} is invited, and joins with its own file")
            home = cells.parent
            ours("server", "invite", name, "--folder", server, "-o", home / "invitation.tar")
            user = own_user(home, FIRST_USER + number)
            join = ("site", "join", "invitation.tar", "--cells", cells.name, "--yes")
            stack.enter_context(started(home / "site.log", *join, folder=home, user=user))
        for name, cells in sites.items():
            wait(f"{name} is connected", cells.parent / "site.log")
        ours("server", "sites", "--folder", server)
        tell(began, "the coordinator trains: python train.py federation=deployed")
        train = [sys.executable, ROOT / "train.py", "federation=deployed", "logger=none", f"paths.server={server}"]
        ended = subprocess.run([*train, f"paths.logs={folder / 'logs'}", *overrides])
    tell(began, f"every site has the model, its scores and a log of every message: {folder}/*/site/")
    return ended.returncode


def studies(folder: Path) -> dict[str, Path]:
    """Each study in a folder of its own, as a hospital has it."""
    whole = ad.read_h5ad(PANCREAS)
    cells = {}
    for study in sorted(whole.obs["Dataset"].unique()):
        name = study.split()[0].lower()
        cells[name] = folder / name / "cells.h5ad"
        cells[name].parent.mkdir(mode=0o700)
        whole[whole.obs["Dataset"] == study].copy().write_h5ad(cells[name], compression="gzip")
    return cells


def ours(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "scfl_green", *map(str, arguments)], check=True)


@contextmanager
def started(log: Path, *arguments: object, folder: Path | None = None, user: int | None = None) -> Iterator[None]:
    """A program of ours that runs meanwhile."""
    command = [sys.executable, "-m", "scfl_green", *map(str, arguments)]
    home = {} if user is None else {"HOME": str(folder), "SCFL_CACHE": str(folder)}
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, cwd=folder, user=user, group=user, env=os.environ | home
        )
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def own_user(home: Path, user: int) -> int | None:
    """The user that a site runs as, and whose folder is its own; None where only root's own can run Python."""
    if os.geteuid() != 0:
        return None
    try:
        subprocess.run(
            [sys.executable, "-c", "import scfl_green"], user=user, group=user, check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    for path in (home, *home.rglob("*")):
        os.chown(path, user, user)
    return user


def wait(text: str, log: Path) -> None:
    until(lambda: text in log.read_text(), f"{log} does not say {text!r}")


def until(true: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + SECONDS
    while not true():
        if time.monotonic() > end:
            raise SystemExit(what)
        time.sleep(0.2)


def free_port() -> int:
    """A port that is free; the one after it is the SuperLink's."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def tell(began: float, text: str) -> None:
    print(f"[{time.monotonic() - began:5.1f} s] {text}", flush=True)


if __name__ == "__main__":
    arguments = sys.argv[1:]
    place = arguments.pop(0) if arguments and "=" not in arguments[0] else "hospitals"
    sys.exit(main(Path(place).absolute(), arguments))
