"""The run's side of a deployed federation: this process is the ServerApp of a SuperLink on the same machine."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from filelock import FileLock, Timeout
from flwr.cli.build import build_fab_from_files
from flwr.common.constant import SubStatus
from flwr.proto.runtime_pb2 import AcquireTaskRequest, SendTaskHeartbeatRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.interceptors import RuntimeTokenHttpInterceptor, RuntimeVersionHttpInterceptor
from flwr.supercore.runtime import RuntimeHttpClient

from scfl_green.errors import BusyError, InputError
from scfl_green.sites.control import Control, control
from scfl_green.sites.grid import LinkGrid
from scfl_green.sites.server import ServerSettings

# The SuperLink gives a run up after 60 s without a heartbeat.
BEAT_SECONDS = 15.0
# What Flower wants of an app. No site installs or runs it: a site runs its own code alone.
APP = b"""
[project]
name = "scfl-green"
version = "1.0.0"
[tool.flwr.app]
publisher = "scfl-green"
[tool.flwr.app.config]
[tool.flwr.app.components]
serverapp = "scfl_green.sites:none"
clientapp = "scfl_green.sites:none"
"""
LOG = logging.getLogger(__name__)


@contextmanager
def connected(server: ServerSettings) -> Iterator[LinkGrid]:
    """A run of the federation whose server is started on this machine; yields the grid that reaches its sites.

    A run that was killed is stopped first. When this ends, so does the run, and the SuperLink deletes its messages.
    BusyError if another run is going on; InputError if the server is not started.
    """
    try:
        lock = FileLock(server.folder / "run.lock", timeout=0).acquire()
    except Timeout:
        raise BusyError(f"{server.folder}: another run is going on in this federation; wait for its end") from None
    with lock, control(server) as calls:
        _stop_unfinished(calls)
        token = _claimed(server, calls.start_run(build_fab_from_files({"pyproject.toml": APP})[0]))
        grid = LinkGrid(server.link_address, server.authority, token, calls.sites)
        status = SubStatus.FAILED
        try:
            with _alive(server, token):
                yield grid
            status = SubStatus.COMPLETED
        finally:
            _finish(grid, calls, status)


def _finish(grid: LinkGrid, calls: Control, status: str) -> None:
    try:
        grid.finish(status)
        _stop_unfinished(calls)
    except (httpx.HTTPError, InputError) as error:  # must not hide why the run ended; the next one cleans up
        LOG.warning("the server was not told that the run has ended: %s", error)


def _stop_unfinished(calls: Control) -> None:
    """Stop what a killed program left running, and have the SuperLink delete the messages of finished runs."""
    for run in calls.runs():
        if run.status.status != "finished":
            calls.stop(run.run_id)


def _claimed(server: ServerSettings, run_id: int) -> str:
    """The token of the run's ServerApp, whose place this process takes."""
    with _client(server) as client:
        claimed = client.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP]))
    if claimed.task.run_id != run_id:
        raise InputError(f"{server.folder}: another program took this run; give the SuperLink to this project alone")
    return str(claimed.token)


def _client(server: ServerSettings, token: str = "") -> RuntimeHttpClient:
    version = RuntimeVersionHttpInterceptor(component_name="flwr-serverapp")
    interceptors = [version, RuntimeTokenHttpInterceptor(token)] if token else [version]
    return RuntimeHttpClient.from_server_address(server.link_address, False, server.authority, interceptors)


@contextmanager
def _alive(server: ServerSettings, token: str) -> Iterator[None]:
    """Tell the SuperLink meanwhile that this run lives."""
    over = threading.Event()

    def beat() -> None:
        seconds = 0.0
        with _client(server, token) as client:
            while not over.wait(seconds):
                try:
                    client.SendTaskHeartbeat(SendTaskHeartbeatRequest())
                    seconds = BEAT_SECONDS
                except httpx.HTTPError:
                    seconds = 1.0  # the main thread meets the same, and says so

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
