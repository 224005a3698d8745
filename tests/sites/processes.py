"""Real servers and sites, each a process of its own."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from scfl_green.sites.control import control
from scfl_green.sites.invitations import Invitation, invite
from scfl_green.sites.membership import join
from scfl_green.sites.server import ServerSettings, init

HERE = Path(__file__).parent
SECONDS = 200.0


def until(true: Callable[[], bool], seconds: float = SECONDS, what: str = "", poll_seconds: float = 0.1) -> float:
    """Wait until something holds; returns after how many seconds it did."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds, what or "in vain"
        time.sleep(poll_seconds)
    return time.monotonic() - began


def free_port() -> int:
    """A port that is free, and so is the one after it."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("127.0.0.1", port + 1))
                return port
            except OSError:
                continue


class Process:
    """A program of ours, whose lines can be read."""

    def __init__(self, folder: Path, *command: str) -> None:
        self.out = folder.with_suffix(".out")
        self.command = command
        self.start()

    def start(self) -> None:
        with self.out.open("wb") as out:
            self.process = subprocess.Popen([sys.executable, *self.command], stdout=out, stderr=subprocess.STDOUT)

    def says(self, text: str) -> None:
        def said() -> bool:
            assert self.process.poll() is None or text in self.out.read_text(), self.out.read_text()
            return text in self.out.read_text()

        until(said, what=f"{text!r} is not in {self.out.read_text()}")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


class Server(Process):
    def __init__(self, folder: Path) -> None:
        self.settings: ServerSettings = init(folder, "localhost", free_port())
        super().__init__(folder, "-m", "scfl_green", "server", "start", "--folder", str(folder))
        self.says("is ready")

    @property
    def superlink(self) -> psutil.Process:
        (child,) = psutil.Process(self.process.pid).children()
        return child

    def invitation(self, name: str) -> Path:
        path = self.settings.folder.parent / f"{name}-{os.urandom(4).hex()}.tar"
        invite(self.settings, name, path)
        return path

    def is_used(self) -> bool:
        """Whether a run is going on."""
        with control(self.settings) as calls:
            return any(run.status.status != "finished" for run in calls.runs())

    def connected(self, name: str) -> bool:
        with control(self.settings) as calls:
            return any(site.name == name and site.status == "online" for site in calls.sites())


class Site(Process):
    def __init__(self, server: Server, name: str) -> None:
        self.folder = server.settings.folder.parent / name
        self.link = join(Invitation.read(server.invitation(name)), self.folder)
        super().__init__(self.folder, str(HERE / "echo.py"), str(self.folder))
        self.says("is connected")
