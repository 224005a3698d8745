"""Calls over a network that may be gone for a while."""

import logging
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import httpx

from scfl_green.errors import InputError

# The gateway, or what stands before it, says so while the SuperLink is away.
AWAY = (httpx.codes.BAD_GATEWAY, httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.GATEWAY_TIMEOUT)
LONGEST_WAIT_SECONDS = 10.0
LOG = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")


class Patience:
    """Repeats a call until the other side answers; takes the place of Flower's retry invoker, which ends the process
    when it is refused.

    ``limit_seconds``: for how long; by default for ever. Then InputError.
    """

    def __init__(self, address: str, limit_seconds: float | None = None) -> None:
        self.address, self.limit_seconds = address, limit_seconds
        self.lost = 0  # answers that may have been under way to us
        self._away = False

    def invoke(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The answer of ``call``; an answer that refuses it is httpx.HTTPStatusError."""
        began, wait = time.monotonic(), 1.0
        while True:
            try:
                answer = call(*args, **kwargs)
            except httpx.TransportError as error:
                reason = str(error) or type(error).__name__
                self.lost += not isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout))
            except httpx.HTTPStatusError as error:
                if error.response.status_code not in AWAY:
                    raise
                reason = f"status {error.response.status_code}"
                self.lost += 1
            else:
                self._tell(away=False)
                return answer
            if self.limit_seconds is not None and time.monotonic() - began + wait > self.limit_seconds:
                raise InputError(f"{self.address}: no answer ({reason}); is the server started, and the network there?")
            self._tell(away=True, reason=reason)
            time.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT_SECONDS)

    def _tell(self, *, away: bool, reason: str = "") -> None:
        """One line for each change, not for each try."""
        if away != self._away:
            self._away = away
            if away:
                LOG.warning("no answer from %s (%s): trying again", self.address, reason)
            else:
                LOG.info("%s answers again", self.address)


def pause_seconds(silence_seconds: float, asking_seconds: float, longest_seconds: float) -> float:
    """How long to wait before asking again, after nothing has come for so long: a sixtieth of it, so that work waits
    little and an idle machine is left alone. A busy server, which takes long to say no, is asked half the time at most.
    """
    return min(max(0.2, silence_seconds / 60, asking_seconds), longest_seconds)
