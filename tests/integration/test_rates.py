"""How often: new connections of a source and of a listener, datagrams of a source."""

import asyncio
import contextlib
import time

import pytest

from tests.support.tcp import tcp_server
from tests.support.udp import udp_client, udp_server
from tests.support.weirgate import running
from tests.support.wire import connect, request
from weirgate.shared.testing import Configuration, eventually

pytestmark = pytest.mark.anyio


async def _served(port: int, source: str) -> bool:
    """Say whether a connection from a source is answered; one over a rate is reset."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
    except ConnectionError:
        return False
    try:
        writer.write(request("/"))
        await writer.drain()
        return bool(await reader.read(1))
    except ConnectionError:
        return False
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def test_new_connections_of_a_source_and_of_the_listener() -> None:
    config = Configuration().route("all", respond={"body": "hello"})
    config.listen("web", new_connections_per_source="2/s", new_connections="300/m")
    async with running(config) as weirgate:
        port = weirgate.port()

        async def flood(source: str) -> int:
            return sum([await _served(port, source) for _ in range(20)])

        began = time.monotonic()
        first = await flood("127.0.0.7")
        most = 2 + 2 * (time.monotonic() - began)
        assert 2 <= first <= most + 1
        await weirgate.counted("source_rate")
        assert await _served(port, "127.0.0.8"), "another source has a rate of its own"
        # 300/m = a burst of 5, then 5 a second: many sources together are over it
        served = [await _served(port, f"127.0.1.{n}") for n in range(1, 120)]
        assert served.count(True) < 110
        await weirgate.counted("listener_rate")
        await eventually(lambda: _served(port, "127.0.0.9"), what="a place once more")


async def test_new_connections_of_a_tcp_listener() -> None:
    async with tcp_server() as server:
        config = Configuration().pool("p", server.port)
        config.listen("tcp", protocol="tcp", pool="p", new_connections_per_source="1/m")
        async with running(config) as weirgate:
            await _refused(weirgate.port("tcp"))  # or taken by the proof that traffic flows
            assert await _refused(weirgate.port("tcp"))
            await weirgate.counted("source_rate")


async def _refused(port: int) -> bool:
    with contextlib.suppress(ConnectionError):
        async with connect(port) as wire:
            await wire.send(b"x")
            return await wire.rest() == b""
    return True


async def test_datagrams_of_a_source() -> None:
    async with udp_server() as server:
        config = Configuration().pool("p", server.port)
        config.listen("udp", protocol="udp", pool="p", datagrams_per_source="600/m")
        async with running(config) as weirgate:
            port = weirgate.port("udp")
            async with udp_client(port, source="127.0.0.7") as noisy:
                for _ in range(200):
                    noisy.send(b"x")
                await weirgate.counted("source_rate")
                await eventually(lambda: len(server.received) >= 10, what="the burst")
                assert len(server.received) < 100
                async with udp_client(port, source="127.0.0.8") as calm:
                    await calm.ask(b"y")

            async def added_up() -> bool:
                dropped = await weirgate.metric(
                    "weirgate_edge_datagrams_dropped_total", reason="source_rate"
                )
                passed = await weirgate.metric("weirgate_edge_datagrams_in_total", listener="udp")
                return dropped > 0 and dropped + len(server.received) == passed == 201

            await eventually(added_up, what="each datagram passed on or counted")
