"""Layer 4: bytes relayed unread, half-closes and resets carried, sources admitted or not."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import peers
from tests.support.tcp import TcpServer, tcp_server
from tests.support.weirgate import Running, running
from tests.support.wire import Wire, connect
from weirgate.shared.testing import Configuration, eventually, free_port

pytestmark = pytest.mark.anyio

BULK = hashlib.shake_128(b"bulk").digest(1 << 20) * 32


@dataclass(frozen=True)
class Site:
    server: TcpServer
    weirgate: Running

    def port(self, listener: str = "echo") -> int:
        return self.weirgate.port(listener)


async def _answer_after_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    data = await reader.read()
    writer.write(hashlib.sha256(data).hexdigest().encode())
    await writer.drain()


async def _reset_when_asked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readexactly(1)
    Wire(reader, writer).reset()


@pytest.fixture(scope="module")
async def site() -> AsyncIterator[Site]:
    config = Configuration()

    def listen(name: str, pool: str = "echo", **settings: object) -> None:
        config.listen(name, protocol="tcp", pool=pool, **settings)

    listen("echo")
    listen("hash", "hash")
    listen("reset", "reset")
    listen("next", "next", connect_timeout="500ms")
    listen("dead", "dead")
    listen("idle", idle_timeout="300ms")
    listen("guarded", allow=["127.0.0.0/24"], deny=["127.0.0.3"])
    listen("per-source", connections_per_source=2)
    listen("few", max_connections=2)
    async with (
        tcp_server() as server,
        tcp_server(_answer_after_the_end) as hashing,
        tcp_server(_reset_when_asked) as resetting,
    ):
        config.pool("echo", server.port).pool("hash", hashing.port).pool("reset", resetting.port)
        config.pool("next", free_port(), server.port, free_port(), balance="round_robin")
        config.pool("dead", free_port())
        async with running(config) as weirgate:
            yield Site(server, weirgate)


async def test_bytes_come_back(site: Site) -> None:
    async with connect(site.port()) as wire:
        for data in (b"a", b"\0\xff\r\n", b"x" * 100_000):
            await wire.send(data)
            assert await wire.exactly(len(data)) == data


async def test_server_that_speaks_first(site: Site) -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hello\r\n")
        await writer.drain()

    async with tcp_server(greet) as server:
        config = Configuration().listen("mail", protocol="tcp", pool="mail")
        config.pool("mail", server.port)
        async with running(config) as weirgate, connect(weirgate.port("mail")) as wire:
            assert await wire.rest() == b"220 hello\r\n"


async def test_half_close_is_carried(site: Site) -> None:
    async with connect(site.port("hash")) as wire:
        await wire.send(b"question")
        wire.half_close()
        assert await wire.rest() == hashlib.sha256(b"question").hexdigest().encode()


async def test_bulk_arrives_whole_in_both_directions(site: Site) -> None:
    async with connect(site.port("hash")) as wire:
        await wire.send(BULK)
        wire.half_close()
        assert await wire.rest() == hashlib.sha256(BULK).hexdigest().encode()
    async with connect(site.port()) as wire:
        sending = asyncio.create_task(wire.send(BULK))
        back = await wire.exactly(len(BULK))
        await sending
        assert hashlib.sha256(back).digest() == hashlib.sha256(BULK).digest()


async def test_reset_of_the_client_reaches_the_server(site: Site) -> None:
    before = len(site.server.endings)
    async with connect(site.port()) as wire:
        await wire.send(b"x")
        assert await wire.exactly(1) == b"x"
        wire.reset()
    await eventually(lambda: "reset" in site.server.endings[before:])
    await site.weirgate.access.wait_for(lambda e: e["reason"] == "client_reset")


async def test_reset_of_the_server_reaches_the_client(site: Site) -> None:
    async with connect(site.port("reset")) as wire:
        await wire.send(b"x")
        with pytest.raises(ConnectionResetError):
            await wire.exactly(1)
    entry = await site.weirgate.access.wait_for(lambda e: e["reason"] == "upstream_reset")
    assert entry["listener"] == "reset"


async def test_next_endpoint_is_tried_when_one_refuses(site: Site) -> None:
    for _ in range(12):
        async with connect(site.port("next")) as wire:
            await wire.send(b"x")
            assert await wire.exactly(1) == b"x"


async def test_no_endpoint_listens(site: Site) -> None:
    with contextlib.suppress(ConnectionError):
        async with connect(site.port("dead")) as wire:
            assert await wire.rest() == b""
    entry = await site.weirgate.access.wait_for(lambda e: e["listener"] == "dead")
    assert entry["reason"] == "connect_refused"


async def test_idle_connection_is_closed(site: Site) -> None:
    async with connect(site.port("idle")) as wire:
        await wire.send(b"x")
        assert await wire.exactly(1) == b"x"
        assert await wire.rest(within_s=5) == b""
    await site.weirgate.access.wait_for(
        lambda e: (e["listener"], e["reason"]) == ("idle", "idle_timeout")
    )


async def test_busy_connection_is_not_idle(site: Site) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with connect(site.port("idle")) as wire:
        # each wait is far below the idle time, all of them together are far above it
        while loop.time() - began < 1:
            await wire.send(b"x")
            assert await wire.exactly(1) == b"x"
            with pytest.raises(TimeoutError):
                await wire.rest(within_s=0.05)


@pytest.mark.parametrize(
    ("source", "admitted"), [("127.0.0.1", True), ("127.0.0.3", False), ("127.0.1.1", False)]
)
async def test_sources_are_allowed_and_denied(site: Site, source: str, *, admitted: bool) -> None:
    with contextlib.suppress(ConnectionError):
        async with connect(site.port("guarded"), local=source) as wire:
            await wire.send(b"x")
            wire.half_close()
            assert await wire.rest() == (b"x" if admitted else b"")
    if not admitted:
        assert await site.weirgate.counted("denied") >= 1


async def test_connections_per_source(site: Site) -> None:
    port = site.port("per-source")
    async with connect(port) as one, connect(port) as two:
        for wire in (one, two):
            await wire.send(b"x")
            assert await wire.exactly(1) == b"x"
        with contextlib.suppress(ConnectionError):
            async with connect(port) as three:
                await three.send(b"x")
                assert await three.rest() == b""
        async with connect(port, local="127.0.0.2") as other:
            await other.send(b"x")
            assert await other.exactly(1) == b"x"
    assert await site.weirgate.counted("source_limit") >= 1

    async def admitted_again() -> bool:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            async with connect(port) as wire:
                await wire.send(b"x")
                return await wire.exactly(1) == b"x"
        return False

    await eventually(admitted_again)


async def test_connections_of_a_listener_are_limited(site: Site) -> None:
    port = site.port("few")
    before = site.server.accepted
    async with connect(port) as one, connect(port) as two:
        for wire in (one, two):
            await wire.send(b"x")
            assert await wire.exactly(1) == b"x"
        with contextlib.suppress(OSError, TimeoutError):
            async with connect(port) as three:
                await three.send(b"x")
                assert await three.rest(within_s=0.5) == b""
        assert site.server.accepted - before == 2


async def test_log_line_of_a_connection(site: Site) -> None:
    async with connect(site.port()) as wire:
        client = wire.local_port
        await wire.send(b"12345")
        assert await wire.exactly(5) == b"12345"
        wire.half_close()
        assert await wire.rest() == b""
    entry = await site.weirgate.access.wait_for(lambda e: e["client"].endswith(f":{client}"))
    assert entry["protocol"] == "tcp"
    assert (entry["listener"], entry["pool"], entry["reason"]) == ("echo", "echo", "")
    assert entry["endpoint"] == f"127.0.0.1:{site.server.port}"
    assert (entry["bytes_in"], entry["bytes_out"]) == (5, 5)
    assert 0 <= entry["connect_us"] <= entry["total_us"]
    assert entry["connection_id"]
    assert entry["time"]


async def test_redis(tmp_path: Path) -> None:
    async with peers.redis(tmp_path) as peer:
        config = Configuration().listen("redis", protocol="tcp", pool="redis")
        config.pool("redis", peer.port)
        async with running(config) as weirgate, connect(weirgate.port("redis")) as wire:
            value = b"v" * 300_000
            await wire.send(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$300000\r\n" + value + b"\r\n")
            assert await wire.exactly(5) == b"+OK\r\n"
            await wire.send(b"GET k\r\n" * 10)
            for _ in range(10):
                assert await wire.exactly(300_011) == b"$300000\r\n" + value + b"\r\n"
