"""The calls by which an operator drains and shuns: docs/contracts.md, sections 5 and 8."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from weirgate.shared.addresses import PREFIX_FORM, Prefix, parse_prefix

_MAX_MS = 365 * 24 * 3600 * 1000
_MAX_TEXT = 256
_MAX_NAME = 64
_MAX_REASON = 200
_SHUN_MS = 600_000
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


@dataclass(frozen=True, slots=True)
class DrainRequest:
    """What an operator asks for; ``deadline_seconds`` None = the target's own default."""

    target: str
    by: str
    deadline_seconds: float | None = None
    force: bool = False
    replace: bool = False


@dataclass(frozen=True, slots=True)
class UpgradeRequest:
    """Whose processes an operator wants replaced; ``deadline_seconds`` None = ``drain.timeout``."""

    target: str
    by: str
    deadline_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class ShunRequest:
    """Whom an operator wants refused, for how long and why."""

    prefix: Prefix
    by: str
    seconds: float
    reason: str = ""
    force: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP status and the document that goes with it."""

    status: int
    document: Mapping[str, Any]


class OperatorApi(Protocol):
    """What an operator can do to parts of a node."""

    async def drain(self, request: DrainRequest) -> Answer:
        """Let a target take no new work."""

    async def undrain(self, target: str, by: str) -> Answer:
        """Take an order back."""

    async def drains(self, target: str = "") -> Sequence[Mapping[str, Any]]:
        """Return the orders in force, of one target where one is named, and how far each is."""

    async def upgrade(self, request: UpgradeRequest) -> Answer:
        """Replace the edge's processes by fresh ones."""

    async def shun(self, request: ShunRequest) -> Answer:
        """Have the edge refuse a source for a while."""

    async def unshun(self, prefix: Prefix, by: str) -> Answer:
        """Take a source back."""

    def shuns(self) -> Sequence[Mapping[str, Any]]:
        """Return who is shunned."""


class _BadParameterError(Exception):
    """A query parameter that cannot be understood; the text says which."""


def routes(operator: OperatorApi) -> list[Route]:
    """Return the routes."""

    async def drain(request: Request) -> Response:
        try:
            wanted = _read(request)
        except _BadParameterError as error:
            return _refused(error)
        return _said(await operator.drain(wanted))

    async def undrain(request: Request) -> Response:
        try:
            target, by = _target(request), _by(request)
        except _BadParameterError as error:
            return _refused(error)
        return _said(await operator.undrain(target, by))

    async def drains(request: Request) -> Response:
        found = await operator.drains(request.query_params.get("target", ""))
        return JSONResponse({"drains": list(found)})

    async def shun(request: Request) -> Response:
        try:
            wanted = _read_shun(request)
        except _BadParameterError as error:
            return _refused(error)
        return _said(await operator.shun(wanted))

    async def unshun(request: Request) -> Response:
        try:
            _only(request, {"source", "by"})
            prefix, by = _source(request), _by(request)
        except _BadParameterError as error:
            return _refused(error)
        return _said(await operator.unshun(prefix, by))

    async def shuns(_: Request) -> Response:
        return JSONResponse({"shuns": list(operator.shuns())})

    return [
        Route("/drain", drains, methods=["GET"]),
        Route("/drain", drain, methods=["POST"]),
        Route("/undrain", undrain, methods=["POST"]),
        Route("/upgrade", _upgrading(operator), methods=["POST"]),
        Route("/shun", shuns, methods=["GET"]),
        Route("/shun", shun, methods=["POST"]),
        Route("/shun", unshun, methods=["DELETE"]),
    ]


def _upgrading(operator: OperatorApi) -> Callable[[Request], Awaitable[Response]]:
    async def upgrade(request: Request) -> Response:
        try:
            wanted = _read_upgrade(request)
        except _BadParameterError as error:
            return _refused(error)
        return _said(await operator.upgrade(wanted))

    return upgrade


def _refused(error: _BadParameterError) -> Response:
    return JSONResponse({"result": "refused", "error": str(error)}, status_code=422)


def _said(answer: Answer) -> Response:
    return JSONResponse(dict(answer.document), status_code=answer.status)


def _read(request: Request) -> DrainRequest:
    _only(request, {"target", "by", "deadline_ms", "force", "replace"})
    deadline_ms = _milliseconds(request, "deadline_ms")
    return DrainRequest(
        target=_target(request),
        by=_by(request),
        deadline_seconds=None if deadline_ms is None else deadline_ms / 1000,
        force=_boolean(request, "force"),
        replace=_boolean(request, "replace"),
    )


def _read_upgrade(request: Request) -> UpgradeRequest:
    _only(request, {"target", "by", "deadline_ms"})
    target = request.query_params.get("target", "")
    if target != "edge":
        raise _BadParameterError("target must be edge")
    deadline_ms = _milliseconds(request, "deadline_ms")
    return UpgradeRequest(target, _by(request), None if deadline_ms is None else deadline_ms / 1000)


def _read_shun(request: Request) -> ShunRequest:
    _only(request, {"source", "by", "ttl_ms", "reason", "force"})
    ttl_ms = _milliseconds(request, "ttl_ms")
    if ttl_ms == 0:
        raise _BadParameterError("ttl_ms must be above 0")
    reason = request.query_params.get("reason", "")
    if len(reason) > _MAX_REASON or not reason.isprintable():
        raise _BadParameterError(f"reason must be at most {_MAX_REASON} printable characters")
    return ShunRequest(
        prefix=_source(request),
        by=_by(request),
        seconds=(_SHUN_MS if ttl_ms is None else ttl_ms) / 1000,
        reason=reason,
        force=_boolean(request, "force"),
    )


def _only(request: Request, known: set[str]) -> None:
    unknown = sorted(set(request.query_params) - known)
    if unknown:
        raise _BadParameterError(f"unknown parameter {unknown[0]!r}")


def _source(request: Request) -> Prefix:
    prefix = parse_prefix(request.query_params.get("source", ""))
    if prefix is None:
        raise _BadParameterError(f"source must be {PREFIX_FORM}")
    return prefix


def _target(request: Request) -> str:
    target = request.query_params.get("target", "")
    if not 0 < len(target) <= _MAX_TEXT or not target.isprintable():
        raise _BadParameterError("target must be pool/address, pool/* or a gateway's name")
    return target


def _by(request: Request) -> str:
    """Say who asks: what the caller says of itself, else where it calls from."""
    host = request.client.host if request.client else "local"
    by = request.query_params.get("by", "") or f"API from {host}"
    if len(by) > _MAX_NAME or not by.isprintable():
        raise _BadParameterError(f"by must be at most {_MAX_NAME} printable characters")
    return by


def _milliseconds(request: Request, name: str) -> int | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and int(text) <= _MAX_MS):
        raise _BadParameterError(f"{name} must be a whole number, at most a year")
    return int(text)


def _boolean(request: Request, name: str) -> bool:
    text = request.query_params.get(name, "false")
    if text not in _BOOLEANS:
        raise _BadParameterError(f"{name} must be true or false")
    return _BOOLEANS[text]
