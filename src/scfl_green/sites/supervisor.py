"""The server: a SuperLink on this machine alone, watched over, and the gateway that the sites reach."""

import logging
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager

import uvicorn
from filelock import FileLock, Timeout

from scfl_green.errors import BusyError, InputError
from scfl_green.sites.control import control
from scfl_green.sites.gateway import gateway
from scfl_green.sites.keys import write_certificate
from scfl_green.sites.server import ServerSettings

START_SECONDS, STOP_SECONDS = 180.0, 10.0
MOST_CONNECTIONS = 256
LOG = logging.getLogger(__name__)


def start(server: ServerSettings) -> None:
    """Run the server until SIGINT or SIGTERM. BusyError if it is running; InputError if it cannot start.

    Whoever calls this must have SIGTERM raise an exception: uvicorn raises the signal again when it has ended.
    """
    try:
        lock = FileLock(server.folder / "server.lock", timeout=0).acquire()
    except Timeout:
        raise BusyError(f"{server.folder}: this server is running already") from None
    with lock:
        write_certificate(server.folder, server.host)  # a new one each time, so that none runs out
        with _superlink(server):
            LOG.info("the server in %s is ready at https://%s", server.folder, server.address)
            _serve(server)


def _serve(server: ServerSettings) -> None:
    config = uvicorn.Config(
        gateway(server),
        host="::" if ":" in server.host else "0.0.0.0",
        port=server.port,
        ssl_certfile=server.folder / "link.crt",
        ssl_keyfile=str(server.folder / "link.key"),
        http="h11",
        ws="none",
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_level="warning",
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=60,  # longer than a site waits between two questions
        timeout_graceful_shutdown=int(STOP_SECONDS),
    )
    uvicorn.Server(config).run()


@contextmanager
def _superlink(server: ServerSettings) -> Iterator[None]:
    """A SuperLink that is started again when it dies."""
    process, stopping = _Process(server), threading.Event()
    _compact(server)
    try:
        process.begin()
        process.wait_until_ready()
        threading.Thread(target=process.watch, args=(stopping,), daemon=True).start()
        yield
    finally:
        stopping.set()
        process.end()
        _compact(server)


class _Process:
    def __init__(self, server: ServerSettings) -> None:
        self.server = server
        self.process: subprocess.Popen[bytes] | None = None
        self._log = server.folder / "superlink.log"

    def begin(self) -> None:
        folder, port = self.server.folder, str(self.server.link_port)
        command = [sys.executable, "-m", "scfl_green.sites.superlink", "--host", "127.0.0.1", "--port", port]
        command += ["--ssl-ca-certfile", "ca.crt", "--ssl-certfile", "link.crt", "--ssl-keyfile", "link.key"]
        command += ["--enable-supernode-auth", "--isolation", "process", "--disable-runtime-dependency-installation"]
        command += ["--database", "link.db"]
        environment = os.environ | {"FLWR_HOME": str(folder.resolve() / "flower"), "FLWR_LOG_LEVEL": "WARNING"}
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that Ctrl-C reaches the gateway first
            )

    def wait_until_ready(self) -> None:
        began = time.monotonic()
        while time.monotonic() - began < START_SECONDS:
            if self.process is None or self.process.poll() is not None:
                raise InputError(f"Flower's SuperLink does not start: see the end of {self._log}")
            try:
                with control(self.server, wait_seconds=0) as calls:
                    calls.sites()
                return
            except InputError:
                time.sleep(0.2)
        raise InputError(f"Flower's SuperLink is not ready after {START_SECONDS:g} s: see the end of {self._log}")

    def watch(self, stopping: threading.Event) -> None:
        while not stopping.is_set():
            assert self.process is not None
            code = self.process.wait()
            if not stopping.wait(1):
                LOG.warning("the SuperLink ended with code %s: starting it again", code)
                self.begin()

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def _compact(server: ServerSettings) -> None:
    """Take out of the database file what was deleted in it: the content of messages stays in free pages until then."""
    if (server.folder / "link.db").exists():
        with closing(sqlite3.connect(server.folder / "link.db")) as database:
            database.execute("VACUUM")
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
