"""Bodies in both directions: framing, streaming, early ends, HTTP/1.0, keep-alive, pipelining."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from tests.support.origin import (
    Exchange,
    Origin,
    answer,
    chunked,
    early,
    echoed,
    held,
    message,
    one_origin,
    reset_midway,
    verbatim,
)
from tests.support.processes import resident_kib
from tests.support.strict import Response, TruncatedError
from tests.support.weirgate import Running, running
from tests.support.wire import Wire, connect, get, request
from weirgate.shared.testing import Configuration, eventually

pytestmark = pytest.mark.anyio

BIG = hashlib.shake_128(b"weirgate").digest(1 << 20) * 16
BIG_SHA256 = hashlib.sha256(BIG).hexdigest()


@dataclass(frozen=True)
class Pair:
    origin: Origin
    weirgate: Running

    @property
    def port(self) -> int:
        return self.weirgate.port()


@pytest.fixture(scope="module")
async def pair() -> AsyncIterator[Pair]:
    config = Configuration().listen("web").route("all", pool="all")
    async with one_origin() as origin:
        config.pool("all", origin.port)
        async with running(config) as weirgate:
            yield Pair(origin, weirgate)


def chunks(body: bytes, size: int, ending: bytes = b"0\r\n\r\n") -> bytes:
    pieces = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + ending


async def upload(wire: Wire, head: bytes, body: bytes) -> Response:
    """Send and receive at the same time, as every real client does."""
    async with asyncio.TaskGroup() as both:
        both.create_task(wire.send(head + body))
        response = both.create_task(wire.response())
    return response.result()


async def test_large_upload_with_a_length(pair: Pair) -> None:
    head = request("/", f"Content-Length: {len(BIG)}", method="PUT")
    async with connect(pair.port) as wire:
        seen = echoed(await upload(wire, head, BIG))
    assert (seen.length, seen.sha256) == (len(BIG), BIG_SHA256)


async def test_large_upload_in_chunks(pair: Pair) -> None:
    head = request("/", "Transfer-Encoding: chunked", method="PUT")
    async with connect(pair.port) as wire:
        seen = echoed(await upload(wire, head, chunks(BIG, 70_001)))
    assert (seen.length, seen.sha256) == (len(BIG), BIG_SHA256)


@pytest.mark.parametrize("how", ["length", "chunked", "until close"])
async def test_large_download(pair: Pair, how: str) -> None:
    behaviours = {
        "length": answer(200, BIG),
        "chunked": chunked([BIG[i : i + 100_003] for i in range(0, len(BIG), 100_003)]),
        "until close": verbatim(b"HTTP/1.1 200 OK\r\n\r\n" + BIG, close=True),
    }
    pair.origin.on("/big", behaviours[how])
    response = await get(pair.port, "/big")
    assert hashlib.sha256(response.body).hexdigest() == BIG_SHA256


async def test_trailers_travel_both_ways(pair: Pair) -> None:
    pair.origin.on("/trailers", chunked([b"a"], "X-Checksum: 1"))
    assert (await get(pair.port, "/trailers")).trailers[0][1] == "1"
    head = request("/", "Transfer-Encoding: chunked", "Trailer: X-Sum", method="POST")
    async with connect(pair.port) as wire:
        response = await wire.exchange(head + chunks(b"abc", 1, b"0\r\nX-Sum: 9\r\n\r\n"))
    assert [name.lower() for name, _ in echoed(response).trailers] == ["x-sum"]


async def test_expect_continue_is_answered_before_the_body_is_sent(pair: Pair) -> None:
    async with connect(pair.port) as wire:
        await wire.send(request("/", "Expect: 100-continue", "Content-Length: 3", method="PUT"))
        interim = await wire.maybe_response()
        assert interim is not None
        assert interim.status == 100
        await wire.send(b"abc")
        final = await wire.maybe_response()
        assert final is not None
        assert echoed(final).length == 3
        assert (await wire.exchange(request())).status == 200


async def test_expectation_is_dropped_when_the_request_is_refused(pair: Pair) -> None:
    async with connect(pair.port) as wire:
        head = request("/", "Expect: 100-continue", "Content-Length: 99999999999", method="PUT")
        await wire.send(head)
        refusal = await wire.maybe_response()
        assert refusal is not None
        assert (refusal.status, refusal.reason) == (413, "body_too_large")


async def test_responses_without_a_body_keep_the_connection(pair: Pair) -> None:
    empty = b"HTTP/1.1 204 No Content\r\n\r\n"
    same = b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: x\r\n\r\n"
    pair.origin.on("/204", verbatim(empty)).on("/304", verbatim(same))
    async with connect(pair.port) as wire:
        for _ in range(3):
            assert (await wire.exchange(request("/204"))).status == 204
            assert (await wire.exchange(request("/304"))).one("etag") == "x"
            head = await wire.exchange(request("/", method="HEAD"), "HEAD")
            assert int(head.one("content-length") or 0) > 0
            assert (await wire.exchange(request())).status == 200


async def test_response_is_streamed(pair: Pair) -> None:
    gates = [asyncio.Event() for _ in range(4)]
    pair.origin.on("/slow", chunked([b"a", b"b", b"c", b"d"], gates=gates))
    async with connect(pair.port) as wire:
        await wire.send(request("/slow"))
        for gate, letter in zip(gates, b"abcd", strict=True):
            gate.set()  # the next piece leaves the origin only when the last one has arrived
            async with asyncio.timeout(10):
                seen = await wire.reader.readuntil(b"%c\r\n" % letter)
            assert seen.endswith(b"%c\r\n" % letter)


async def test_upload_is_streamed(pair: Pair) -> None:
    arrived: asyncio.Queue[bytes] = asyncio.Queue()

    async def watch(exchange: Exchange) -> None:
        for _ in range(3):
            arrived.put_nowait(await exchange.connection.reader.readexactly(1))
        await exchange.send(message(200, b"", "Connection: close"))
        exchange.close()

    pair.origin.on("/watch", watch)
    async with connect(pair.port) as wire:
        await wire.send(request("/watch", "Content-Length: 3", method="POST"))
        for letter in (b"x", b"y", b"z"):
            await wire.send(letter)
            async with asyncio.timeout(10):
                assert await arrived.get() == letter
        assert (await wire.response()).status == 200


async def test_early_response_is_relayed_while_the_upload_goes_on(pair: Pair) -> None:
    pair.origin.on("/early", early(413, b"too much"))
    async with connect(pair.port) as wire:
        await wire.send(request("/early", "Content-Length: 50000000", method="POST"))
        await wire.send(b"x" * 100_000)
        response = await wire.response()
    assert (response.status, response.body, response.reason) == (413, b"too much", "")


async def test_body_cut_by_the_origin_is_cut_for_the_client(pair: Pair) -> None:
    pair.origin.on("/cut", reset_midway(b"hello", 100))
    async with connect(pair.port) as wire:
        await wire.send(request("/cut"))
        try:
            response = await wire.response()
        except (TruncatedError, ConnectionResetError):
            return
    assert response.status == 502


async def test_origin_is_left_alone_when_the_client_leaves(pair: Pair) -> None:
    gate = asyncio.Event()
    pair.origin.on("/left", held(gate))
    async with connect(pair.port) as wire:
        await wire.send(request("/left"))
        connection = await eventually(
            lambda: next(
                (
                    connection
                    for connection in pair.origin.connections
                    if any(r.target == "/left" for r in connection.requests)
                ),
                None,
            )
        )
        wire.reset()
    entry = await pair.weirgate.access.of("/left")
    assert entry["reason"] == "client_gone"
    gate.set()
    await eventually(connection.ended.is_set, what="the upstream connection is closed")


async def test_slow_reader_holds_the_origin_back(pair: Pair) -> None:
    sent = 0

    async def flood(exchange: Exchange) -> None:
        nonlocal sent
        await exchange.read()
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        for _ in range(1000):
            await exchange.send(b"x" * 100_000)
            sent += 100_000

    pair.origin.on("/flood", flood)
    (gateway,) = pair.weirgate.gateways()
    before = resident_kib(gateway)
    async with connect(pair.port) as wire:
        wire.pause_reading()
        await wire.send(request("/flood"))
        still = -1

        def stands() -> bool:
            nonlocal still
            stopped, still = sent > 0 and sent == still, sent
            return stopped

        await eventually(stands, within_s=20, what="the origin stops sending")
        assert sent < 50_000_000
        assert resident_kib(gateway) - before < 20_000
        wire.reset()


async def test_http_1_0_client_gets_a_body_it_understands(pair: Pair) -> None:
    pair.origin.on("/chunks", chunked([b"ab", b"c"]))
    async with connect(pair.port) as wire:
        response = await wire.exchange(request("/chunks", version="1.0"))
        assert response.body == b"abc"
        assert response.all("transfer-encoding") == []
        assert await wire.rest() == b""


async def test_http_1_0_client_may_keep_the_connection(pair: Pair) -> None:
    async with connect(pair.port) as wire:
        for _ in range(3):
            response = await wire.exchange(request("/", "Connection: keep-alive", version="1.0"))
            assert (response.one("connection") or "").lower() == "keep-alive"
            assert echoed(response).method == "GET"


async def test_connections_are_reused_on_both_sides(pair: Pair) -> None:
    async with connect(pair.port) as wire:
        used = {echoed(await wire.exchange(request(f"/{n}"))).connection for n in range(100)}
    assert len(used) == 1


async def test_pipelined_requests_are_answered_in_order(pair: Pair) -> None:
    gate = asyncio.Event()
    pair.origin.on("/first", held(gate))
    rest = [request(f"/{n}") for n in range(30)]
    async with connect(pair.port) as wire:
        await wire.send(request("/first") + b"".join(rest))
        await eventually(lambda: any(r.target == "/first" for r in pair.origin.requests))
        gate.set()
        assert (await wire.response()).body == b"held"
        for number in range(30):
            assert echoed(await wire.response()).target == f"/{number}"


async def test_pipelined_bodies_and_requests_are_told_apart(pair: Pair) -> None:
    one = request("/one", method="POST", body=b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
    two = request("/two", "Transfer-Encoding: chunked", method="POST") + chunks(b"abc", 2)
    async with connect(pair.port) as wire:
        await wire.send(one + two + request("/three"))
        seen = [echoed(await wire.response()) for _ in range(3)]
    assert [(s.target, s.length) for s in seen] == [("/one", 28), ("/two", 3), ("/three", 0)]


async def test_client_may_close_its_sending_side(pair: Pair) -> None:
    async with connect(pair.port) as wire:
        await wire.send(request("/half"))
        wire.half_close()
        assert echoed(await wire.response()).target == "/half"
        assert await wire.rest() == b""
