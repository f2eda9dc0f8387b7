"""The tables of HTTP/1.1 once more, with HTTP/2 on the other side: R8 knows no version."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from tests.conformance.cases import RequestCase, ResponseCase, Seen
from tests.conformance.injection_cases import literal
from tests.conformance.requests import REQUESTS
from tests.conformance.responses import RESPONSES
from tests.support.h2_endpoint import Endpoint, Stream, data, endpoints, head
from tests.support.http2 import END_HEADERS, HEADERS, Http2, fields_of, frame, get, headers, http2
from tests.support.origin import Origin, one_origin, verbatim
from tests.support.weirgate import running
from tests.support.wire import Wire, connect, request
from weirgate.shared.testing import Configuration

pytestmark = pytest.mark.anyio


@dataclass(frozen=True)
class Site:
    endpoint: Endpoint
    origin: Origin
    upward: int
    downward: int


@pytest.fixture(scope="module")
async def site() -> AsyncIterator[Site]:
    endpoint = Endpoint()
    async with one_origin() as origin, endpoints(endpoint):
        up = Configuration().listen("web").gateway(http2={"cleartext": False})
        up.pool("all", endpoint.port, protocol="h2c", retries=0).route("all", pool="all")
        down = Configuration().listen("web").pool("all", origin.port, retries=0)
        down.route("all", pool="all")
        async with running(up) as upward, running(down) as downward:
            yield Site(endpoint, origin, upward.port(), downward.port())


@pytest.mark.parametrize("case", REQUESTS, ids=lambda case: case.id)
async def test_an_http1_request_for_an_http2_endpoint(site: Site, case: RequestCase) -> None:
    before = len(site.endpoint.requests)
    async with connect(site.upward) as wire:
        await wire.send(case.raw)
        await _answers(wire, case)
    async with connect(site.upward) as wire:
        assert (await wire.exchange(request("/sentinel"))).status == 200
    begun = [s for s in site.endpoint.requests[before:] if s.path != "/sentinel"]
    seen = [stream for stream in begun if stream.ended.is_set()]
    assert len(seen) == len(case.upstream), [s.fields for s in seen]
    assert len(begun) <= len(seen) + 1
    # What was bad only behind its head has begun, and must be seen to be broken off.
    for stream in begun:
        assert stream in seen or stream.id in stream.connection.resets
    for stream, expected in zip(seen, case.upstream, strict=True):
        _check(stream, expected)


async def _answers(wire: Wire, case: RequestCase) -> None:
    for allowed in case.statuses:
        try:
            found = await wire.response()
        except (AssertionError, ConnectionError):
            assert case.may_be_silent
            return
        assert found.status in allowed, found.head


def _check(stream: Stream, expected: Seen) -> None:
    fields = dict(stream.fields)
    assert (fields[":method"], fields[":path"]) == (expected.method, expected.target)
    assert bytes(stream.body) == expected.body
    assert stream.ended.is_set()
    if expected.host is not None:
        assert fields[":authority"] == expected.host
    names = [name for name, _ in stream.fields]
    assert not {"host", "connection", "transfer-encoding", "keep-alive", "upgrade"} & set(names)
    assert names.count("content-length") <= 1
    assert all(name == name.lower() for name in names)
    for name in expected.absent:
        assert name not in names
    for name, value in expected.fields.items():
        assert [v for n, v in stream.fields if n == name] == [value]
    assert tuple(stream.trailers) == expected.trailers


@pytest.mark.parametrize("case", RESPONSES, ids=lambda case: case.id)
async def test_an_http1_response_for_an_http2_client(site: Site, case: ResponseCase) -> None:
    site.origin.on("/case", verbatim(case.raw, close=case.closes))
    async with http2(site.downward) as client:
        await client.send(headers(1, fields_of("/case", method=case.method)))
        await _judge(client, case)
        await client.send(get(3, "/after"))
        after = await client.answer(3)
        assert (after.status, json.loads(after.body)["target"]) == (200, "/after")


async def _judge(client: Http2, case: ResponseCase) -> None:
    found = await client.answer(1)
    assert b"POISON" not in found.body or case.body == found.body
    if case.outcome == "broken" and found.reset not in {None, "NO_ERROR"}:
        return
    final = next(dict(h) for h in found.heads if int(dict(h).get(":status", 0)) >= 200)
    if case.outcome == "relayed":
        assert (found.status, found.body, found.reset) == (case.status, case.body, None)
        trailers = next((tuple(h) for h in found.heads if ":status" not in dict(h)), ())
        assert trailers == case.trailers
    else:
        assert (found.status, final["weirgate-reason"] in case.reasons) == (502, True), final
    names = [name for fields in found.heads for name, _ in fields]
    assert not {"connection", "transfer-encoding", "keep-alive", "upgrade"} & set(names)
    assert all(name == name.lower() for name in names)


VALUES = {
    "over 127": b"\xff\x80\xe4",
    "a tab": b"a\tb",
    "nothing": b"",
    "a colon": b"host: evil",
    "a chunk": b"0",
    "spaces around": b"  a  ",
    "4 KB": b"y" * 4096,
}
# As above: these are malformed in HTTP/2 itself, and those that the h2 crate lets pass in HTTP/1.1.
NAMES = ['x"', "x(", "x,", "x/", "x;", "x<", "x=", "x?", "x@", "x[", "x{", "x y", "x\t", "\xe4"]


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
async def test_an_http2_response_s_values_in_http1(site: Site, value: bytes) -> None:
    async def odd(stream: Stream) -> None:
        block = b"\x88" + literal(b"x-odd", value)
        await stream.send(frame(HEADERS, END_HEADERS, stream.id, block), data(stream.id, b"whole"))

    site.endpoint.behaviours["/odd"] = odd
    async with connect(site.upward) as wire:
        found = await wire.exchange(request("/odd"))
        assert (found.status, found.body) in {(200, b"whole"), (502, found.body)}
        if found.status == 200:
            assert found.one("x-odd") == value.decode("latin-1").strip(" ")


@pytest.mark.parametrize("name", NAMES)
async def test_an_http2_response_s_names_in_http1(site: Site, name: str) -> None:
    async def odd(stream: Stream) -> None:
        await stream.send(head(stream.id, (name, "v")), data(stream.id, b"POISON"))

    site.endpoint.behaviours["/odd"] = odd
    async with connect(site.upward) as wire:
        assert (await wire.exchange(request("/odd", method="POST"))).status == 502
