"""Every row of the tables through one running Weirgate: one answer each, nothing smuggled."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from tests.conformance.cases import RequestCase, ResponseCase, Seen
from tests.conformance.requests import REQUESTS
from tests.conformance.responses import RESPONSES
from tests.support.origin import Origin, one_origin, verbatim
from tests.support.strict import Request, Response, TruncatedError, parse_requests
from tests.support.weirgate import running
from tests.support.wire import Wire, connect, get, request
from weirgate.shared.testing import Configuration

pytestmark = pytest.mark.anyio

BYTEWISE_LIMIT = 400


@dataclass(frozen=True)
class Pair:
    """An origin and the port of a Weirgate in front of it."""

    origin: Origin
    port: int


@pytest.fixture(scope="module")
async def pair() -> AsyncIterator[Pair]:
    config = Configuration().listen("web").gateway(http2={"cleartext": False})
    async with one_origin() as origin:
        config.pool("all", origin.port, retries=0).route("all", pool="all")
        async with running(config) as weirgate:
            yield Pair(origin, weirgate.port())


@pytest.mark.parametrize("case", REQUESTS, ids=lambda case: case.id)
async def test_request(pair: Pair, case: RequestCase) -> None:
    await _check_request(pair, case, step=len(case.raw))


SHORT = [case for case in REQUESTS if len(case.raw) <= BYTEWISE_LIMIT]


@pytest.mark.parametrize("case", SHORT, ids=lambda case: case.id)
async def test_request_byte_by_byte(pair: Pair, case: RequestCase) -> None:
    await _check_request(pair, case, step=1)


@pytest.mark.parametrize("case", RESPONSES, ids=lambda case: case.id)
async def test_response(pair: Pair, case: ResponseCase) -> None:
    pair.origin.on("/case", verbatim(case.raw, close=case.closes))
    async with connect(pair.port) as wire:
        await wire.send(request("/case", method=case.method))
        try:
            response = await wire.response(case.method)
        except (TruncatedError, ConnectionResetError):
            assert case.outcome == "broken"
            response = None
        if response is not None:
            _check_response(case, response)
    served = next(
        c.number
        for c in reversed(pair.origin.connections)
        if any(seen.target == "/case" for seen in c.requests)
    )
    following = await get(pair.port, "/after")
    assert following.status == 200
    assert b"POISON" not in following.body
    connection = int(following.one("x-origin-connection") or -1)
    if case.reused is not None:
        assert (connection == served) is case.reused, (served, connection)


async def test_tables_are_as_large_as_promised() -> None:
    for table, least in ((REQUESTS, 110), (RESPONSES, 50)):
        names = [case.id for case in table]
        assert len(set(names)) == len(names) >= least


async def _check_request(pair: Pair, case: RequestCase, step: int) -> None:
    first, malformed = len(pair.origin.requests), len(pair.origin.malformed)
    opened = len(pair.origin.connections)
    async with connect(pair.port) as wire:
        sending = asyncio.create_task(_send(wire, case.raw, step))
        try:
            last = await _answers(wire, case)
            await sending
        finally:
            sending.cancel()
        if case.closes:
            assert await wire.rest() == b"", "bytes behind the last answer"
        elif last is not None:
            following = await wire.exchange(request("/still-open"))
            assert following.status == 200
    # One more request through the same gateway: what it had sent before has arrived by now.
    assert (await get(pair.port, "/sentinel")).status == 200
    seen = [r for r in pair.origin.requests[first:] if r.target not in {"/still-open", "/sentinel"}]
    assert len(seen) == len(case.upstream), [r.head for r in seen]
    for received, expected in zip(seen, case.upstream, strict=True):
        _check_seen(received, expected)
    assert pair.origin.malformed[malformed:] == []
    for connection in pair.origin.connections[opened:]:
        if connection.requests and not case.closes:
            whole = await parse_requests(connection.received)
            assert [r.head for r in whole] == [r.head for r in connection.requests]


async def _send(wire: Wire, raw: bytes, step: int) -> None:
    try:
        for start in range(0, len(raw), step):
            await wire.send(raw[start : start + step])
    except ConnectionError:
        pass  # it was refused before its end: the answer says so


async def _answers(wire: Wire, case: RequestCase) -> Response | None:
    last = None
    for allowed in case.statuses:
        try:
            last = await wire.response()
        except (AssertionError, ConnectionError):
            assert case.may_be_silent, "closed without an answer"
            return None
        assert last.status in allowed, (last.status, last.head)
    assert last is not None
    if case.reasons:
        assert last.reason in case.reasons, last.head
    else:
        assert last.reason == "", last.head
    if case.reasons and case.closes:
        assert (last.one("connection") or "").lower() == "close"
    return last


def _check_seen(received: Request, expected: Seen) -> None:
    assert (received.method, received.target) == (expected.method, expected.target)
    assert received.body == expected.body
    if expected.host is not None:
        assert received.one("host") == expected.host
    for name in expected.absent:
        assert received.all(name) == [], received.head
    for name, value in expected.fields.items():
        assert received.all(name) == [value], received.head
    assert tuple((name.lower(), value) for name, value in received.trailers) == expected.trailers


def _check_response(case: ResponseCase, response: Response) -> None:
    if case.outcome == "relayed":
        assert (response.status, response.reason) == (case.status, ""), response.head
        assert response.body == case.body
        for name in case.absent:
            assert response.all(name) == [], response.head
        for name, value in case.fields.items():
            assert response.all(name) == [value], response.head
        trailers = tuple((name.lower(), value) for name, value in response.trailers)
        assert trailers == case.trailers
        return
    assert response.status == 502, f"a complete {response.status} for {case.raw[:200]!r}"
    assert response.reason in case.reasons, response.head
