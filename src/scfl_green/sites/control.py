"""Flower's Control API, which only this machine reaches: who takes part, and which runs there are."""

from collections.abc import Iterator
from contextlib import contextmanager

from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.proto.fab_pb2 import Fab
from flwr.proto.node_pb2 import NodeInfo
from flwr.proto.run_pb2 import Run
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from scfl_green.sites.patience import Patience
from scfl_green.sites.server import ServerSettings

WAIT_SECONDS = 5.0


class Control:
    """Calls of the server's own machine to its SuperLink."""

    def __init__(self, client: ControlHttpClient) -> None:
        self._client = client

    def sites(self) -> list[NodeInfo]:
        """Registered sites, whether connected or not."""
        return [node for node in self._client.ListNodes(ListNodesRequest()).nodes_info if node.status != "unregistered"]

    def register(self, name: str, public_key: bytes) -> int:
        """Register a site's key (PEM); returns its node id."""
        return int(self._client.RegisterNode(RegisterNodeRequest(name=name, public_key=public_key)).node_id)

    def unregister(self, node_id: int) -> None:
        self._client.UnregisterNode(UnregisterNodeRequest(node_id=node_id))

    def start_run(self, bundle: bytes) -> int:
        """Start a run of an app bundle; returns its id."""
        return int(self._client.StartRun(StartRunRequest(fab=Fab(content=bundle))).run_id)

    def runs(self) -> list[Run]:
        """The last 20 runs. The SuperLink deletes what is left of messages of those that have finished."""
        return list(self._client.ListRuns(ListRunsRequest()).run_dict.values())

    def stop(self, run_id: int) -> None:
        self._client.StopRun(StopRunRequest(run_id=run_id))


@contextmanager
def control(settings: ServerSettings, wait_seconds: float = WAIT_SECONDS) -> Iterator[Control]:
    """InputError if the server has not answered after ``wait_seconds``."""
    client = ControlHttpClient.from_server_address(
        settings.link_address,
        insecure=False,
        root_certificates=settings.authority,
        interceptors=[RuntimeVersionHttpInterceptor(component_name="scfl-green")],
        retry_invoker=Patience(settings.link_address, wait_seconds),
    )
    with client:
        yield Control(client)
