"""The federation's only public port: passes on what sites need of the SuperLink, and nothing else.

Flower serves its Control and Runtime API on the port of its Fleet API, and asks of their callers no key. The SuperLink
therefore listens on its own machine alone.
"""

import asyncio
import json
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import httpx
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from scfl_green.errors import InputError
from scfl_green.sites.control import control
from scfl_green.sites.enrolment import accept, leave
from scfl_green.sites.keys import trusting
from scfl_green.sites.server import ServerSettings

# Not: register-node and unregister-node, which need an invitation; get-run and get-fab, whose code no site runs.
PASSED = (
    "activate-node",
    "deactivate-node",
    "send-node-heartbeat",
    "pull-messages",
    "push-messages",
    "pull-object",
    "push-object",
    "confirm-message-received",
)
# Flower cuts arrays into parts of 5 MiB; other records go whole.
MOST_BYTES, MOST_BYTES_TO_JOIN = 64 * 2**20, 16 * 2**10
READ_SECONDS, ANSWER_SECONDS = 300.0, 60.0
HEADERS = ("content-type", "accept", "flwr-public-key", "flwr-signature", "flwr-timestamp")
LOG = logging.getLogger(__name__)


def gateway(server: ServerSettings) -> Starlette:
    """The application that listens publicly, for a server whose SuperLink is running or will be."""
    trusted = trusting(server.authority)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        limits = httpx.Limits(max_connections=64)
        base = f"https://{server.link_address}"
        async with httpx.AsyncClient(base_url=base, verify=trusted, timeout=ANSWER_SECONDS, limits=limits) as client:
            app.state.client, app.state.server, app.state.joining = client, server, threading.Lock()
            yield

    routes = [Route(f"/v1/fleet/{name}", _pass_on, methods=["POST"]) for name in PASSED]
    routes += [Route("/join", _join, methods=["POST"]), Route("/leave", _leave, methods=["POST"])]
    handlers = {404: _nothing_here, 405: _nothing_here}
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)


async def _pass_on(request: Request) -> Response:
    """Ask the SuperLink the same with a request of our own, so that nothing hidden in this one gets through."""
    body = await _body(request, MOST_BYTES)
    if await request.is_disconnected():
        return Response(status_code=408)  # a message that it fetched would be lost
    kept = {name: value for name in HEADERS if (value := request.headers.get(name)) is not None}
    try:
        answer = await request.app.state.client.post(request.url.path, content=body, headers=kept)
    except httpx.TransportError:
        return PlainTextResponse("the SuperLink is away", 503)
    if answer.status_code >= 400:
        LOG.info("%s: %s from %s", answer.status_code, request.url.path, _caller(request))
    return Response(answer.content, answer.status_code, media_type=answer.headers.get("content-type"))


async def _body(request: Request, most_bytes: int) -> bytes:
    """All that was sent, bounded in size and time."""
    body = bytearray()
    try:
        async with asyncio.timeout(READ_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most_bytes:
                    raise HTTPException(413, f"more than {most_bytes:,} bytes")
    except (TimeoutError, ClientDisconnect):
        raise HTTPException(408, "it did not come in time") from None
    return bytes(body)


async def _join(request: Request) -> Response:
    def enrol(asked: dict[str, str]) -> dict[str, str]:
        with request.app.state.joining, control(request.app.state.server) as calls:
            record = accept(request.app.state.server, calls, asked)
        LOG.info("%s has joined, from %s", record.name, _caller(request))
        return {"node_id": str(record.node_id)}

    return await _enrolment(request, enrol)


async def _leave(request: Request) -> Response:
    def part(asked: dict[str, str]) -> dict[str, str]:
        with request.app.state.joining, control(request.app.state.server) as calls:
            leave(request.app.state.server, calls, asked)
        LOG.info("%s has left", asked["name"])
        return {}

    return await _enrolment(request, part)


async def _enrolment(request: Request, does: Callable[[dict[str, str]], dict[str, str]]) -> Response:
    """JSON to JSON; a refusal is a sentence for the site."""
    body = await _body(request, MOST_BYTES_TO_JOIN)
    try:
        asked = json.loads(body)
        if not isinstance(asked, dict) or not all(isinstance(value, str) for value in asked.values()):
            raise ValueError("texts by name are expected")
        return JSONResponse(await run_in_threadpool(does, asked))
    except InputError as error:
        LOG.warning("refused: %s from %s: %s", request.url.path, _caller(request), error)
        return JSONResponse({"error": str(error)}, 403)
    except (KeyError, TypeError, ValueError):
        return JSONResponse({"error": "this request is malformed; are both sides of one version?"}, 400)
    except httpx.HTTPStatusError as error:
        LOG.warning("refused: %s from %s: %s", request.url.path, _caller(request), error.response.text)
        return JSONResponse({"error": "the server does not take this key"}, 403)


async def _nothing_here(request: Request, error: Exception) -> Response:
    LOG.warning("refused: %s %.80r from %s", request.method, request.url.path, _caller(request))
    return PlainTextResponse("nothing here", 404)


def _caller(request: Request) -> str:
    return request.client.host if request.client else "unknown"
