"""Whether the server takes a site for present: it activates its key, signs on, beats, and signs off."""

import logging
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Self

import httpx
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL
from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.node_pb2 import Node
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from scfl_green.errors import InputError
from scfl_green.sites.keys import public_pem, trusting
from scfl_green.sites.patience import Patience

# Half of what the server allows for is left to an outage of the network.
BEAT_SECONDS = HEARTBEAT_DEFAULT_INTERVAL / 2
# Longer than the server's run waits between two looks, so that it learns what was lost with a killed process.
OFFLINE_SECONDS = 2.0
CLOCK_SECONDS = 60.0
GOODBYE_SECONDS = 3.0
LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Link:
    """How a site reaches its server: the gateway's address, the server's authority (PEM), and who the site is."""

    name: str
    address: str
    authority: bytes
    key: EllipticCurvePrivateKey
    node_id: int


class Presence:
    """A site signed on at its server, from entering to leaving; the server is waited for.

    InputError if the server does not know the site's key, or if the clocks differ too much.
    """

    def __init__(self, link: Link, patience: Patience) -> None:
        self._link, self.client = link, _client(link, patience)
        self._over = threading.Event()
        # A beat within an absence would end it.
        self._beating = threading.Lock()

    def __enter__(self) -> Self:
        try:
            self._activate()
        except BaseException:
            self.client.close()
            raise
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        # One short try: whoever stops a site is not to wait for a network.
        with self._beating, suppress(httpx.HTTPError), _client(self._link, timeout_seconds=GOODBYE_SECONDS) as last:
            last.DeactivateNode(DeactivateNodeRequest(node_id=self._link.node_id))
        self.client.close()

    def renew(self) -> None:
        """Have the run ask again: a message may be lost that the server takes for delivered."""
        with self._beating:
            self._sign_off()
            self._activate()

    def _activate(self) -> None:
        """Take up the site's place, also if the server still takes a process that was killed for alive."""
        key, interval = public_pem(self._link.key), HEARTBEAT_DEFAULT_INTERVAL
        while True:
            try:
                self.client.ActivateNode(ActivateNodeRequest(public_key=key, heartbeat_interval=interval))
                return
            except httpx.HTTPStatusError as error:
                if error.response.status_code != httpx.codes.PRECONDITION_FAILED:
                    raise InputError(why_refused(self._link, error.response)) from None
            LOG.info("%s was not ended properly the last time", self._link.name)
            self._sign_off()

    def _sign_off(self) -> None:
        """Be away for so long that the run sees it, which then knows that what it asked is lost."""
        try:
            self.client.DeactivateNode(DeactivateNodeRequest(node_id=self._link.node_id))
        except httpx.HTTPStatusError as error:
            if error.response.status_code != httpx.codes.PRECONDITION_FAILED:
                raise InputError(why_refused(self._link, error.response)) from None
        time.sleep(OFFLINE_SECONDS)

    def _beat(self) -> None:
        """Tell the server that the site lives, also while it trains."""
        node = Node(node_id=self._link.node_id)
        request = SendNodeHeartbeatRequest(node=node, heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL)
        seconds = BEAT_SECONDS
        with _client(self._link) as client:
            while not self._over.wait(seconds):
                try:
                    with self._beating:
                        if not self._over.is_set():
                            client.SendNodeHeartbeat(request)
                    seconds = BEAT_SECONDS
                except httpx.HTTPError:
                    seconds = 1.0  # the main thread meets the same, and says so


def _client(link: Link, patience: Patience | None = None, timeout_seconds: float = 30.0) -> FleetHttpClient:
    """Flower's own, with a signature on each call. One layer above, http_request_response ends the process if the
    server refuses it or is away at the start."""
    signed = [NodeAuthHttpInterceptor(link.key, link.key.public_key())]
    return FleetHttpClient(
        f"https://{link.address}",
        interceptors=signed,
        verify=trusting(link.authority),
        timeout=timeout_seconds,
        retry_invoker=patience,
    )


def why_refused(link: Link, response: httpx.Response) -> str:
    """Why the server does not take this site's signature: it signs the time."""
    server_time = parsedate_to_datetime(response.headers.get("date", "Thu, 01 Jan 1970 00:00:00 GMT"))
    ahead = (datetime.now(UTC) - server_time).total_seconds()
    if "date" in response.headers and abs(ahead) > CLOCK_SECONDS:
        late = "ahead of" if ahead > 0 else "behind"
        return f"this machine's clock is {abs(ahead) / 60:.0f} minutes {late} the server's; set it right"
    if response.status_code == httpx.codes.UNAUTHORIZED:
        return f"{link.address} does not know the key of {link.name}: it was removed; ask for a new invitation"
    return f"{link.address} does not take {link.name} (status {response.status_code})"
