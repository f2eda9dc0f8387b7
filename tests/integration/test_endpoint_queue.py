"""Endpoints at their maximum of connections: who waits, for how long, and who is served next."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from tests.support.hello import client_hello
from tests.support.origin import held, one_origin
from tests.support.tcp import TcpServer, tcp_server
from tests.support.weirgate import Entry, Running, running
from tests.support.wire import Wire, connect, get, proxy_v1, request
from weirgate.shared.testing import Configuration, eventually

pytestmark = pytest.mark.anyio

QUEUE = {"size": 3, "timeout": "30s"}


@contextlib.asynccontextmanager
async def one_place(
    *, queue: dict[str, object] = QUEUE, **listener: object
) -> AsyncIterator[tuple[Running, TcpServer]]:
    """A tcp listener to one endpoint that takes one connection at a time."""
    async with tcp_server() as server:
        config = Configuration()
        config.pool("p", server.port, limits={"connections": 1}, queue=queue)
        config.listen("tcp", protocol="tcp", pool="p", **listener)
        async with running(config) as weirgate:
            await all_free(weirgate)  # the proof that it serves has had the place
            yield weirgate, server


async def all_free(weirgate: Running) -> None:
    async def none() -> bool:
        return await weirgate.metric("weirgate_edge_connections") == 0

    await eventually(none, what="no connection")


@contextlib.asynccontextmanager
async def in_turn(weirgate: Running, port: int, number: int) -> AsyncIterator[Wire]:
    """Connect, as the one before whom so many have come."""
    async with connect(port) as wire:
        if number == 0:
            await echoed(wire, b"x")
        await waiting(weirgate, number)
        yield wire


async def waiting(weirgate: Running, count: int) -> None:
    async def length() -> bool:
        return await weirgate.metric("weirgate_edge_queue_length", pool="p") == count

    await eventually(length, what=f"{count} waiting")


async def echoed(wire: Wire, text: bytes) -> None:
    await wire.send(text)
    assert await wire.exactly(len(text)) == text


def of(wire: Wire) -> int:
    return wire.local_port


async def refused(weirgate: Running, source: str) -> str:
    """Connect and be reset, wherever that shows; return the reason."""
    with contextlib.suppress(ConnectionError):
        async with connect(weirgate.port("tcp"), local=source) as wire:
            assert await wire.rest() == b""
    entry = await weirgate.access.wait_for(lambda e: e["client"].startswith(f"{source}:"))
    return str(entry["reason"])


async def entry_of(weirgate: Running, port: int) -> Entry:
    return await weirgate.access.wait_for(lambda e: e["client"].endswith(f":{port}"))


async def test_first_come_first_served_and_beyond_the_size_refused() -> None:
    async with one_place() as (weirgate, _), contextlib.AsyncExitStack() as stack:
        port = weirgate.port("tcp")
        first = await stack.enter_async_context(connect(port))
        await echoed(first, b"first")
        others = []
        for number in range(3):
            wire = await stack.enter_async_context(connect(port))
            await wire.send(b"%d" % number)
            await waiting(weirgate, number + 1)
            others.append(wire)
        assert await refused(weirgate, "127.0.0.9") == "queue_full"
        await weirgate.counted("queue_full")
        ports = [of(wire) for wire in others]
        previous = first
        for number, wire in enumerate(others):
            for later in others[number:]:
                assert not later.reader._buffer, "not its turn"  # type: ignore[attr-defined]
            await previous.close()
            assert await wire.exactly(1) == b"%d" % number
            await waiting(weirgate, 2 - number)
            previous = wire
        await previous.close()
        for waited in ports:
            assert (await entry_of(weirgate, waited))["queue_us"] > 0
        assert await weirgate.metric("weirgate_edge_queued_total", pool="p") == 3
        assert await _place_is_free(port)


async def _place_is_free(port: int) -> bool:
    async with connect(port) as wire:
        await echoed(wire, b"x")
    return True


async def test_whoever_waits_for_too_long_is_reset_and_counted() -> None:
    async with one_place(queue={"size": 9, "timeout": "300ms"}) as (weirgate, server):
        port = weirgate.port("tcp")
        async with connect(port) as first, connect(port) as second:
            await echoed(first, b"x")
            await second.send(b"y")
            with pytest.raises(ConnectionResetError):
                async with asyncio.timeout(10):
                    await second.reader.read(1)
            entry = await entry_of(weirgate, of(second))
            assert entry["reason"] == "pool_overloaded"
            assert entry["queue_us"] >= 300_000
            assert (entry["endpoint"], entry["bytes_in"]) == ("", 0)
            await weirgate.counted("pool_overloaded")
            await echoed(first, b"goes on")
            assert server.endings.count("reset") == 0


async def test_no_queue() -> None:
    async with one_place(queue={"size": 0}) as (weirgate, _):
        port = weirgate.port("tcp")
        async with connect(port) as first:
            await echoed(first, b"x")
            assert await refused(weirgate, "127.0.0.9") == "queue_full"


@pytest.mark.parametrize("how", ["close", "reset", "reset after some bytes"])
async def test_a_client_that_goes_away_leaves_the_queue(how: str) -> None:
    async with one_place() as (weirgate, server):
        port = weirgate.port("tcp")
        async with connect(port) as first:
            await echoed(first, b"x")
            before = server.accepted
            async with connect(port) as gone, connect(port) as stays:
                if how == "reset after some bytes":
                    await gone.send(b"some bytes")
                await waiting(weirgate, 2)
                left = of(gone)
                if how == "close":
                    await gone.close()
                else:
                    gone.reset()
                await waiting(weirgate, 1)
                assert (await entry_of(weirgate, left))["reason"] == "client_gone"
                await first.close()
                await echoed(stays, b"served")
            assert server.accepted == before + 1


async def test_a_client_that_has_said_all_and_waits_for_the_answer_stays() -> None:
    async with one_place() as (weirgate, _):
        port = weirgate.port("tcp")
        async with connect(port) as first, connect(port) as second:
            await echoed(first, b"x")
            await second.send(b"question")
            second.half_close()
            await waiting(weirgate, 1)
            await first.close()
            assert await second.rest() == b"question"


async def test_a_reload_serves_those_who_wait() -> None:
    async with one_place() as (weirgate, _), tcp_server() as another:
        port = weirgate.port("tcp")
        async with contextlib.AsyncExitStack() as stack:
            first, second, third = [
                await stack.enter_async_context(in_turn(weirgate, port, number))
                for number in range(3)
            ]
            await echoed(first, b"x")
            await second.send(b"y")
            await third.send(b"z")
            endpoints = weirgate.config.data["pools"]["p"]["endpoints"]
            endpoints.append(f"127.0.0.1:{another.port}")
            assert (await weirgate.reload(weirgate.config)).json()["result"] == "applied"
            assert await second.exactly(1) == b"y", "the new endpoint"
            await waiting(weirgate, 1)
            weirgate.config.data["pools"]["p"]["limits"]["connections"] = 2
            assert (await weirgate.reload(weirgate.config)).json()["result"] == "applied"
            assert await third.exactly(1) == b"z", "the raised limit"


async def test_a_drain_that_is_over_ends_the_waiting() -> None:
    async with one_place() as (weirgate, _):
        port = weirgate.port("tcp")
        async with connect(port) as first, connect(port) as second:
            await echoed(first, b"x")
            await second.send(b"y")
            await waiting(weirgate, 1)
            await weirgate.stop()
            assert await second.rest() == b""
            assert (await entry_of(weirgate, of(second)))["reason"] == "draining"


async def test_behind_a_proxy_header() -> None:
    async with one_place(proxy_protocol={"from": "127.0.0.0/8"}) as (weirgate, _):
        port = weirgate.port("tcp")
        async with connect(port) as first, connect(port) as second, connect(port) as third:
            await first.send(proxy_v1("192.0.2.7"))
            await echoed(first, b"x")
            await second.send(proxy_v1("192.0.2.8") + b"y")
            await waiting(weirgate, 1)
            await third.send(proxy_v1("192.0.2.9"))
            await waiting(weirgate, 2)
            third.reset()
            await waiting(weirgate, 1)
            await first.close()
            assert await second.exactly(1) == b"y"


async def test_behind_a_client_hello() -> None:
    hello = client_hello("a.example")
    async with tcp_server() as server:
        config = Configuration()
        config.pool("p", server.port, limits={"connections": 1}, queue=QUEUE)
        config.listen("tls", protocol="tls", default="p")
        async with running(config) as weirgate:
            await all_free(weirgate)
            port = weirgate.port("tls")
            async with connect(port) as first, connect(port) as second, connect(port) as third:
                await echoed(first, hello)
                await second.send(hello)
                await waiting(weirgate, 1)
                await third.send(hello)
                await waiting(weirgate, 2)
                second.reset()
                await waiting(weirgate, 1)
                await first.close()
                assert await third.exactly(len(hello)) == hello


async def test_many_clients_and_few_places() -> None:
    """No place is lost and none is given twice, whoever comes and goes."""
    open_now, most = 0, 0

    async def application(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        try:
            writer.write(await reader.read(64))
            await reader.read(64)
        finally:
            open_now -= 1

    async with tcp_server(application) as one, tcp_server(application) as two:
        config = Configuration()
        limits, queue = {"connections": 2}, {"size": 500, "timeout": "60s"}
        config.pool("p", one.port, two.port, limits=limits, queue=queue)
        config.listen("tcp", protocol="tcp", pool="p")
        async with running(config) as weirgate:
            port = weirgate.port("tcp")

            async def client(number: int) -> None:
                async with connect(port) as wire:
                    await wire.send(b"hello")
                    if number % 7 == 3:
                        wire.reset()
                    else:
                        assert await wire.exactly(5) == b"hello"

            async with asyncio.timeout(60):
                await asyncio.gather(*(client(number) for number in range(200)))
            await waiting(weirgate, 0)
            await all_free(weirgate)
            # the endpoint may see the end of one a moment after the edge has given its place away
            assert most <= 4 + 4
            assert await weirgate.metric("weirgate_edge_queued_total", pool="p") > 0
            assert await _place_is_free(port)


async def test_requests_wait_in_a_queue_of_the_same_kind() -> None:
    async with one_origin() as origin:
        config = Configuration().listen("web").route("all", pool="p")
        queue = {"size": 1, "timeout": "1s"}
        config.pool("p", origin.port, limits={"connections": 1}, queue=queue, connect_timeout="20s")
        async with running(config) as weirgate:
            port, gate = weirgate.port(), asyncio.Event()
            origin.on("/long", held(gate))
            async with connect(port) as first, connect(port) as second:
                await first.send(request("/long"))
                await eventually(lambda: any(r.target == "/long" for r in origin.requests))
                before = await weirgate.metric("weirgate_upstream_queued_total")
                await second.send(request("/waits"))

                async def queued() -> bool:
                    return await weirgate.metric("weirgate_upstream_queued_total") > before

                await eventually(queued, what="one that waits")
                refused = await get(port, "/refused")
                response = await second.response()
                gate.set()
                assert (await first.response()).status == 200
            assert (refused.status, refused.reason) == (503, "queue_full")
            assert (response.status, response.reason) == (503, "pool_overloaded")
