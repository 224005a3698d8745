"""A site's side of the network: asks the server for messages, and brings it the answers. No port is open here.

This process is its own SuperNode. Flower's would install and run what the server sends; here a site's own code answers,
and nothing that came over the network is ever run.
"""

import logging
import time
from collections.abc import Callable

import httpx
from flwr.app import Message
from flwr.proto.node_pb2 import Node

from scfl_green.errors import InputError
from scfl_green.sites.exchange import Exchange
from scfl_green.sites.patience import Patience, pause_seconds
from scfl_green.sites.presence import Link, Presence, why_refused

LONGEST_PAUSE_SECONDS = 3.0
LOG = logging.getLogger(__name__)


def serve(link: Link, answer: Callable[[Message, int], Message]) -> None:
    """Answer the server's messages until the process is stopped; a server or network that is away is waited for.

    ``answer`` gets a message and its size in bytes, and returns the reply to it. Of its exceptions the server is told
    the class alone, and of what it cannot read that it could not. InputError if the server does not know the site's
    key, or if the clocks differ too much.
    """
    patience = Patience(link.address)
    with Presence(link, patience) as presence:
        exchange = Exchange(presence.client, Node(node_id=link.node_id), answer)
        LOG.info("%s is connected to %s, and waits for messages", link.name, link.address)
        heard = time.monotonic()
        while True:
            lost, asked = patience.lost, time.monotonic()
            try:
                came = exchange.one()
                if not came and patience.lost > lost:
                    presence.renew()
            except httpx.HTTPStatusError as error:
                if error.response.status_code == httpx.codes.UNAUTHORIZED:
                    raise InputError(why_refused(link, error.response)) from None
                LOG.warning("%s answered with status %s", link.address, error.response.status_code)
                came = False
            now = time.monotonic()
            if came:
                heard = now
            else:
                time.sleep(pause_seconds(now - heard, now - asked, LONGEST_PAUSE_SECONDS))
