"""Server-sent events: each comes at once, and silence between them is no failure."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from tests.support.http2_client import http2_client
from tests.support.http2_origin import Request, http2_origin
from tests.support.origin import Exchange, one_origin
from tests.support.weirgate import Running, running
from tests.support.wire import connect, request
from weirgate.shared.testing import Configuration

pytestmark = pytest.mark.anyio

#: Longer than the route lets any other answer pause.
PAUSE_S = 0.8
BETWEEN_BYTES = "200ms"
EVENTS = [b"data: %d\n\n" % number for number in range(3)]


async def paused() -> None:
    """Say nothing for a while, as applications do that have nothing to say."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.Event().wait(), PAUSE_S)


async def by_http1(exchange: Exchange) -> None:
    await exchange.read()
    kind = "text/plain" if exchange.head.target == "/plain" else "text/event-stream"
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}; charset=utf-8\r\n"
    await exchange.send(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n")
    for event in EVENTS:
        await exchange.send(b"%x\r\n%s\r\n" % (len(event), event))
        await paused()
    await exchange.send(b"0\r\n\r\n")


async def by_http2(asked: Request) -> None:
    kind = "text/plain" if asked.one(":path") == "/plain" else "text/event-stream"
    asked.head(200, ("content-type", kind))
    for event in EVENTS:
        await asked.send(event)
        await paused()
    await asked.send(ends=True)


@dataclass(frozen=True)
class Site:
    weirgate: Running


@pytest.fixture(scope="module")
async def site() -> AsyncIterator[Site]:
    async with one_origin() as old, http2_origin() as new:
        for path in ("/events", "/plain"):
            old.on(path, by_http1)
            new.on(path, by_http2)
        config = Configuration().listen("web")
        times = {"between_bytes": BETWEEN_BYTES}
        config.route("new", match={"host": "new.test"}, pool="new", timeouts=times)
        config.route("old", pool="old", timeouts=times)
        config.pool("old", old.port).pool("new", new.port, protocol="h2c")
        async with running(config) as weirgate:
            yield Site(weirgate)


HOSTS = pytest.mark.parametrize("host", ["old.test", "new.test"])


@HOSTS
async def test_events_over_http1(site: Site, host: str) -> None:
    loop = asyncio.get_running_loop()
    async with connect(site.weirgate.port()) as wire:
        await wire.send(request("/events", host=host))
        head = b""
        while EVENTS[0] not in head:
            head += await wire.exactly(1)
        began = loop.time()
        rest = b""
        while EVENTS[1] not in rest:
            rest += await wire.exactly(1)
        # the second one did not wait for the third, nor the first for the second
        assert PAUSE_S / 2 < loop.time() - began < 2 * PAUSE_S
        while not rest.endswith(b"0\r\n\r\n"):
            rest += await wire.exactly(1)
        assert EVENTS[2] in rest


@HOSTS
async def test_events_over_http2(site: Site, host: str) -> None:
    loop = asyncio.get_running_loop()
    async with http2_client(site.weirgate.port()) as client:
        fields = ((":method", "GET"), (":scheme", "http"), (":path", "/events"))
        call = client.call(*fields, (":authority", host), ends=True)
        assert await call.status() == 200
        seen, times = [], []
        while part := await call.part():
            seen.append(part)
            times.append(loop.time())
    assert seen == EVENTS
    assert all(later - earlier > PAUSE_S / 2 for earlier, later in itertools.pairwise(times))


@HOSTS
async def test_another_answer_that_pauses_as_long_is_cut(site: Site, host: str) -> None:
    async with connect(site.weirgate.port()) as wire:
        await wire.send(request("/plain", host=host))
        assert EVENTS[2] not in await wire.rest()
    pool = host.partition(".")[0]
    entry = await site.weirgate.access.wait_for(
        lambda e: e.get("path") == "/plain" and e["pool"] == pool
    )
    assert entry["reason"] == "body_timeout"
