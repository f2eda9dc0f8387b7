"""The supervisor's admin API, on ``admin.bind``: docs/contracts.md, section 5."""

import hmac
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from weirgate.shared.addresses import is_literal
from weirgate.shared.control import operate
from weirgate.shared.control.operate import OperatorApi
from weirgate.shared.observability.prometheus import CONTENT_TYPE

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[0-9A-Za-z.-]+)(?::[0-9]{1,5})?")
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


class ReloadOutcome(Protocol):
    """How a reload went."""

    @property
    def result(self) -> str:
        """``applied``, ``unchanged`` or ``refused``."""

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""


class NodeApi(Protocol):
    """What the admin API shows and does."""

    def health(self) -> Mapping[str, bool]:
        """Return ``ready`` and ``draining``."""

    async def metrics(self) -> str:
        """Return Prometheus text."""

    async def status(self) -> Mapping[str, Any]:
        """Return the whole node's state."""

    def snapshot(self) -> bytes:
        """Return the snapshot in force, secrets blanked."""

    async def reload(self) -> ReloadOutcome:
        """Read the configuration again."""

    @property
    def operator(self) -> OperatorApi:
        """What an operator can do to parts of it."""


def application(node: NodeApi, token: str | None = None) -> Starlette:
    """Make the application; with a token, every call but ``/health`` must carry it."""

    async def health(_: Request) -> Response:
        state = node.health()
        ready = state["ready"] and not state["draining"]
        return JSONResponse(dict(state), status_code=200 if ready else 503)

    async def metrics(_: Request) -> Response:
        return Response(await node.metrics(), headers={"content-type": CONTENT_TYPE})

    async def status(_: Request) -> Response:
        return JSONResponse(await node.status())

    async def snapshot(_: Request) -> Response:
        return Response(node.snapshot(), media_type="application/json")

    async def reload(_: Request) -> Response:
        outcome = await node.reload()
        refused = outcome.result == "refused"
        return JSONResponse(outcome.as_dict(), status_code=422 if refused else 200)

    return Starlette(
        routes=[
            Route("/health", health),
            Route("/metrics", metrics),
            Route("/status", status),
            Route("/snapshot", snapshot),
            Route("/reload", reload, methods=["POST"]),
            *operate.routes(node.operator),
        ],
        middleware=[Middleware(Guard, token=token)],
    )


class Guard:
    """Keeps web pages out: a browser on this host must not be a way into the API.

    A Host that is neither an IP address nor localhost is a DNS name that somebody pointed here
    (DNS rebinding); an Origin of another site on a call that changes something is a forged
    request.
    """

    def __init__(self, application: ASGIApp, token: str | None = None) -> None:
        self._application = application
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        answer: Callable[..., Awaitable[None]] = self._application
        if scope["type"] == "http":
            answer = self._refusal(Request(scope)) or self._application
        await answer(scope, receive, send)

    def _refusal(self, request: Request) -> Response | None:
        host = request.headers.get("host", "")
        if not _is_local_name(host):
            return _refuse(421, "the Host must be an IP address or localhost")
        origin = request.headers.get("origin")
        foreign = origin is not None and origin.partition("://")[2] != host
        if foreign and request.method not in _SAFE_METHODS:
            return _refuse(403, "calls from other sites are refused")
        if self._token is not None and request.url.path != "/health":
            given = request.headers.get("authorization", "")
            if not hmac.compare_digest(given.encode(), f"Bearer {self._token}".encode()):
                return _refuse(401, "a bearer token is needed")
        return None


def _is_local_name(host: str) -> bool:
    match = _HOST.fullmatch(host)
    if match is None:
        return False
    return match[1].lower() == "localhost" or is_literal(match[1].strip("[]"))


def _refuse(status: int, error: str) -> Response:
    return JSONResponse({"error": error}, status_code=status)
