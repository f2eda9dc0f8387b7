"""Hostile and odd HTTP/2 endpoints, as clients of both versions see them."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from _pytest.mark import ParameterSet

from tests.conformance.endpoint_cases import HEADS, EndpointCase
from tests.conformance.endpoint_streams import STREAMS
from tests.support.h2_endpoint import Behaviour, Endpoint, Stream, endpoints, head, reset
from tests.support.http2 import Answer, fields_of, get, headers, http2
from tests.support.strict import TruncatedError
from tests.support.weirgate import Running, running
from tests.support.wire import Wire, connect, request
from weirgate.shared.testing import Configuration

pytestmark = pytest.mark.anyio

CASES = [*HEADS, *STREAMS]
# The h2 crate takes these pseudo-header fields. They are dropped, but the answers are malformed.
LENIENT = {"trailers with :status", "trailers with :path", "a request's pseudo-header"}


def rows() -> list[ParameterSet]:
    mark = pytest.mark.xfail(strict=True, reason="pseudo-header fields that have no place there")
    return [pytest.param(c, id=c.id, marks=[mark] if c.id in LENIENT else []) for c in CASES]


@dataclass(frozen=True)
class Site:
    endpoint: Endpoint
    weirgate: Running

    @property
    def port(self) -> int:
        return self.weirgate.port()


@dataclass(frozen=True)
class Got:
    """An answer, whichever version it came in; ``whole`` = it ended as an answer does."""

    status: int
    reason: str
    body: bytes
    whole: bool
    interim: tuple[int, ...] = ()
    trailers: tuple[tuple[str, str], ...] = ()


@pytest.fixture(scope="module")
async def site() -> AsyncIterator[Site]:
    endpoint = Endpoint()
    async with endpoints(endpoint):
        config = Configuration().listen("web")
        common = {"protocol": "h2c", "retries": 0, "eject": {"max_percent": 0}}
        config.pool("once", endpoint.port, limits={"requests": 1}, **common)
        config.pool("kept", endpoint.port, **common)
        times = {"response_head": "2s", "between_bytes": "2s", "total": "6s"}
        config.route("once", match={"path": "/once/*"}, pool="once", timeouts=times)
        config.route("kept", pool="kept", timeouts=times)
        async with running(config) as weirgate:
            yield Site(endpoint, weirgate)


def scripted(case: EndpointCase) -> Behaviour:
    async def behave(stream: Stream) -> None:
        await stream.ended.wait()
        await stream.send(case.frames(stream.id))
        if case.closes:
            stream.connection.close()

    return behave


@pytest.mark.parametrize("case", rows())
async def test_http1_client(site: Site, case: EndpointCase) -> None:
    site.endpoint.behaviours["/once/case"] = scripted(case)
    async with connect(site.port) as wire:
        await wire.send(request("/once/case", method=case.method))
        judge(case, await _read(wire, case.method))
    await _good(site)


@pytest.mark.parametrize("case", rows())
async def test_http2_client(site: Site, case: EndpointCase) -> None:
    site.endpoint.behaviours["/once/case"] = scripted(case)
    async with http2(site.port) as client:
        await client.send(headers(1, fields_of("/once/case", method=case.method)))
        judge(case, _got(await client.answer(1)))
        # The client's own connection has taken no harm.
        await client.send(get(3, "/good"))
        after = await client.answer(3)
        assert (after.status, after.body) == (200, b"good")


RELAYED = [c for c in CASES if c.outcome == "relayed" and not c.closes and "GOAWAY" not in c.id]


@pytest.mark.parametrize("case", RELAYED, ids=lambda case: case.id)
async def test_a_good_answer_leaves_its_connection_usable(site: Site, case: EndpointCase) -> None:
    site.endpoint.behaviours["/case"] = scripted(case)
    await _good(site)
    opened = len(site.endpoint.connections)
    async with connect(site.port) as wire:
        await wire.send(request("/case", method=case.method))
        judge(case, await _read(wire, case.method))
    await _good(site)
    assert len(site.endpoint.connections) == opened


async def _good(site: Site) -> None:
    async with connect(site.port) as wire:
        after = await wire.exchange(request("/good"))
        assert (after.status, after.body) == (200, b"good")


def _got(found: Answer) -> Got:
    heads = [(int(dict(fields).get(":status", 0)), fields) for fields in found.heads]
    final = next((dict(fields) for status, fields in heads if status >= 200), {})
    return Got(
        found.status,
        final.get("weirgate-reason", ""),
        found.body,
        found.reset in {None, "NO_ERROR"} and found.status != 0,
        tuple(status for status, _ in heads if 0 < status < 200),
        next((tuple(fields) for status, fields in heads if status == 0), ()),
    )


async def _read(wire: Wire, method: str) -> Got:
    interim: list[int] = []
    try:
        while (found := await wire.maybe_response(method)) is not None and found.status < 200:
            interim.append(found.status)
    except (TruncatedError, ConnectionResetError):
        return Got(200, "", b"", whole=False, interim=tuple(interim))
    assert found is not None, "closed without a word"
    trailers = tuple((n.lower(), v) for n, v in found.trailers)
    return Got(
        found.status,
        found.reason,
        found.body,
        whole=True,
        interim=tuple(interim),
        trailers=trailers,
    )


def judge(case: EndpointCase, got: Got) -> None:
    assert b"POISON" not in got.body
    if case.outcome == "relayed":
        assert got.whole, got
        assert (got.status, got.reason, got.body) == (case.status, "", case.body), got
        assert got.interim == case.interim
        assert got.trailers == tuple(case.trailers)
    elif got.whole or case.outcome == "refused":
        assert got.whole, got
        if case.outcome == "surplus" and got.status == 200:
            assert got.body == case.body, got
        else:
            assert (got.status, got.reason in case.reasons) == (502, True), got


@pytest.mark.parametrize("name", ["two statuses", "upper-case name", "connection"])
async def test_a_malformed_head_is_told_as_one(site: Site, name: str) -> None:
    case = next(c for c in CASES if c.id == name)
    site.endpoint.behaviours["/once/case"] = scripted(case)
    async with connect(site.port) as wire:
        await wire.send(request("/once/case"))
        assert (await _read(wire, "GET")).reason == "upstream_bad_response"


async def test_a_large_head_is_told_as_one(site: Site) -> None:
    case = next(c for c in CASES if c.id == "a head over 64 KiB")
    site.endpoint.behaviours["/once/case"] = scripted(case)
    async with connect(site.port) as wire:
        await wire.send(request("/once/case"))
        assert (await _read(wire, "GET")).reason == "upstream_header_too_large"


@pytest.mark.parametrize("code", ["CANCEL", "REFUSED_STREAM", "INTERNAL_ERROR"])
async def test_a_reset_on_a_shared_connection_is_not_tried_for_ever(site: Site, code: str) -> None:
    asked = 0

    async def refuse(stream: Stream) -> None:
        nonlocal asked
        asked += 1
        # So that the test ends: after 50 it is answered.
        await stream.send(reset(stream.id, code) if asked < 50 else head(stream.id, ends=True))

    site.endpoint.behaviours["/refused"] = refuse
    await _good(site)
    async with connect(site.port) as wire:
        found = await wire.exchange(request("/refused"))
        assert (found.status, found.reason) == (502, "upstream_closed_early")
    assert asked <= 2
