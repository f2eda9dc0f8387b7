"""Limits and timeouts: the status, the reason in the answer and in the log, and who is at fault."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest

from tests.support.origin import Exchange, Origin, answer, chunked, held, one_origin
from tests.support.strict import Response, TruncatedError
from tests.support.weirgate import Running, running
from tests.support.wire import connect, get, request
from weirgate.shared.testing import Configuration, eventually, free_port

pytestmark = pytest.mark.anyio


@dataclass(frozen=True)
class Site:
    origin: Origin
    weirgate: Running

    @property
    def port(self) -> int:
        return self.weirgate.port()

    async def expect(self, response: Response, status: int, reason: str, path: str) -> None:
        """Check the answer, and that the log says the same."""
        assert (response.status, response.reason) == (status, reason), response.head
        entry = await self.weirgate.access.of(path)
        assert (entry["status"], entry["reason"]) == (status, reason)


@contextlib.contextmanager
def full_backlog() -> Iterator[int]:
    """A port where a connect neither succeeds nor fails: the kernel drops its SYN."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", free_port()), backlog=0))
        port: int = listener.getsockname()[1]
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.settimeout(0)
            filler.connect_ex(("127.0.0.1", port))
        yield port


@pytest.fixture(scope="module")
async def site() -> AsyncIterator[Site]:
    config = Configuration().listen("web")
    config.gateway(
        limits={"header_bytes": "4KiB", "header_count": 20, "uri_bytes": "1KiB"},
        timeouts={"request_head": "400ms", "idle": "500ms"},
    )

    def route(name: str, pool: str = "all", **settings: object) -> None:
        config.route(name, match={"path": f"/{name}/*"}, pool=pool, **settings)

    route("small", limits={"body_bytes": "100B"})
    route("slow-head", timeouts={"response_head": "300ms"})
    route("slow-body", timeouts={"between_bytes": "300ms"})
    route("total", timeouts={"total": "300ms"})
    route("refused", "refused")
    route("full", "full")
    route("one", "one")
    route("empty", "empty")
    with full_backlog() as full:
        async with one_origin() as origin:
            config.pool("all", origin.port).pool("refused", free_port(), free_port())
            config.pool("full", full, connect_timeout="300ms", retries=0)
            config.pool("one", origin.port, limits={"connections": 1}).pool("empty")
            config.route("rest", pool="all")
            async with running(config) as weirgate:
                yield Site(origin, weirgate)


async def test_head_too_large(site: Site) -> None:
    response = await get(site.port, "/large", "X-A: " + "a" * 5000)
    assert (response.status, response.reason) == (431, "header_too_large")
    await site.weirgate.access.wait_for(lambda e: e["reason"] == "header_too_large")


async def test_too_many_headers(site: Site) -> None:
    response = await get(site.port, "/many", *[f"X-{n}: 1" for n in range(30)])
    assert (response.status, response.reason) == (431, "header_too_large")


async def test_head_within_the_limits_passes(site: Site) -> None:
    response = await get(site.port, "/fits", *[f"X-{n}: {'a' * 150}" for n in range(15)])
    assert response.status == 200


async def test_uri_too_long(site: Site) -> None:
    response = await get(site.port, "/" + "a" * 1100)
    assert (response.status, response.reason) == (414, "uri_too_long")


async def test_body_too_large_by_its_length(site: Site) -> None:
    before = len(site.origin.heads)
    async with connect(site.port) as wire:
        response = await wire.exchange(request("/small/a", method="POST", body=b"x" * 101))
    await site.expect(response, 413, "body_too_large", "/small/a")
    assert len(site.origin.heads) == before


async def test_body_too_large_in_chunks(site: Site) -> None:
    async with connect(site.port) as wire:
        await wire.send(request("/small/b", "Transfer-Encoding: chunked", method="POST"))
        for _ in range(3):
            await wire.send(b"28\r\n" + b"x" * 40 + b"\r\n")
        await site.expect(await wire.response(), 413, "body_too_large", "/small/b")
    assert all(r.target != "/small/b" for r in site.origin.requests)


async def test_body_of_exactly_the_limit_passes(site: Site) -> None:
    async with connect(site.port) as wire:
        raw = request("/small/c", method="POST", body=b"x" * 100)
        assert (await wire.exchange(raw)).status == 200


@pytest.mark.parametrize("part", [b"G", b"GET /late HTTP/1.1\r\nHost: a\r\n"])
async def test_head_that_does_not_arrive(site: Site, part: bytes) -> None:
    async with connect(site.port) as wire:
        await wire.send(part)
        response = await wire.response(within_s=5)
        assert (response.status, response.reason) == (408, "request_timeout")
        assert await wire.rest() == b""


async def test_dripping_head_does_not_renew_the_deadline(site: Site) -> None:
    raw = request("/drip", *[f"X-{n}: 1" for n in range(10)])
    async with connect(site.port) as wire:
        answered = asyncio.create_task(wire.response(within_s=5))
        with contextlib.suppress(ConnectionError):
            for byte in raw[:-1]:
                if answered.done():
                    break
                await wire.send(bytes([byte]))
                await asyncio.wait([answered], timeout=0.02)
        assert (await answered).reason == "request_timeout"


async def test_idle_connection_is_closed_without_an_answer(site: Site) -> None:
    async with connect(site.port) as fresh, connect(site.port) as used:
        assert (await used.exchange(request("/idle"))).status == 200
        assert await used.rest(within_s=5) == b""
        assert await fresh.rest(within_s=5) == b""


async def test_endpoint_that_does_not_answer(site: Site) -> None:
    gate = asyncio.Event()
    site.origin.on("/slow-head/a", held(gate))
    await site.expect(await get(site.port, "/slow-head/a"), 504, "response_timeout", "/slow-head/a")
    gate.set()
    assert len([r for r in site.origin.requests if r.target == "/slow-head/a"]) == 1


async def test_endpoint_that_stalls_in_its_body(site: Site) -> None:
    never = asyncio.Event()
    site.origin.on("/slow-body/a", chunked([b"a", b"b"], gates=[_set(), never]))
    with pytest.raises((TruncatedError, ConnectionResetError)):
        await get(site.port, "/slow-body/a")
    entry = await site.weirgate.access.of("/slow-body/a")
    assert (entry["status"], entry["reason"]) == (200, "body_timeout")
    never.set()


async def test_client_that_stalls_in_its_body(site: Site) -> None:
    async with connect(site.port) as wire:
        await wire.send(request("/slow-body/b", "Content-Length: 10", method="POST") + b"half")
        response = await wire.response(within_s=5)
    assert response.status == 408
    assert response.reason in {"body_timeout", "request_timeout"}
    assert all(r.target != "/slow-body/b" for r in site.origin.requests)


async def test_exchange_that_takes_too_long_in_total(site: Site) -> None:
    async def drip(exchange: Exchange) -> None:
        await exchange.read()
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        ended = asyncio.create_task(exchange.connection.reader.read())
        while not ended.done():
            await exchange.send(b"x")
            await asyncio.wait([ended], timeout=0.02)

    site.origin.on("/total/a", drip)
    with pytest.raises((TruncatedError, ConnectionResetError)):
        await get(site.port, "/total/a")
    assert (await site.weirgate.access.of("/total/a"))["reason"] == "total_timeout"


async def test_no_endpoint_listens(site: Site) -> None:
    response = await get(site.port, "/refused/a")
    assert response.status in {502, 503}
    await site.expect(response, response.status, "connect_refused", "/refused/a")
    assert (await site.weirgate.access.of("/refused/a"))["retries"] >= 1


async def test_endpoint_does_not_accept_in_time(site: Site) -> None:
    response = await get(site.port, "/full/a")
    assert response.status in {502, 503, 504}
    await site.expect(response, response.status, "connect_timeout", "/full/a")


async def test_pool_without_endpoints(site: Site) -> None:
    await site.expect(await get(site.port, "/empty/a"), 503, "pool_empty", "/empty/a")


async def test_pool_at_its_connection_limit(site: Site) -> None:
    gate = asyncio.Event()
    site.origin.on("/one/a", held(gate))
    async with connect(site.port) as wire:
        await wire.send(request("/one/a"))
        await eventually(lambda: any(r.target == "/one/a" for r in site.origin.requests))
        await site.expect(await get(site.port, "/one/b"), 503, "pool_overloaded", "/one/b")
        gate.set()
        assert (await wire.response()).status == 200
    assert (await get(site.port, "/one/c")).status == 200


async def test_unknown_expectation(site: Site) -> None:
    raw = request("/expect", "Expect: tea", method="POST", body=b"x")
    async with connect(site.port) as wire:
        await site.expect(await wire.exchange(raw), 417, "expectation_failed", "/expect")


async def test_errors_of_the_endpoint_are_not_weirgates(site: Site) -> None:
    site.origin.on("/own", answer(503, b"mine"))
    response = await get(site.port, "/own")
    await site.expect(response, 503, "", "/own")
    assert response.body == b"mine"


async def test_answers_of_weirgate_say_why_and_nothing_of_the_inside(site: Site) -> None:
    response = await get(site.port, "/refused/b")
    assert response.one("weirgate-reason") == "connect_refused"
    assert response.one("content-length") == str(len(response.body))
    assert b"127.0.0.1" not in response.head + response.body


def _set() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event
