"""The log line of a relayed connection: who ended it first, its timers, what the kernel knew."""

import asyncio
import contextlib
import ctypes
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.tcp import tcp_server
from tests.support.weirgate import Entry, Running, running
from tests.support.wire import Wire, connect
from weirgate.shared.testing import Configuration, eventually, free_port

pytestmark = pytest.mark.anyio

#: linux/filter.h and asm-generic/socket.h
SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27
#: The whole program: take 0 bytes of every packet, which is to drop it.
DROP_ALL = struct.pack("HBBI", 0x06, 0, 0, 0)
#: Shorter streams do not tell of their ways, longer ones do.
SHORT_US, LONG_US = 20_000, 200_000


@dataclass(frozen=True)
class Site:
    weirgate: Running

    def port(self, listener: str = "echo") -> int:
        return self.weirgate.port(listener)

    async def entry(self, wire: Wire) -> Entry:
        here = f"127.0.0.1:{wire.local_port}"
        return await self.weirgate.access.wait_for(lambda entry: entry["client"] == here)


async def _greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 hello\r\n")
    await writer.drain()


async def _hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readexactly(1)
    Wire(reader, writer).reset()


async def _swallow(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    while await reader.read(1 << 16):
        pass


@pytest.fixture(scope="module")
async def site() -> AsyncIterator[Site]:
    config = Configuration()
    for name, settings in (
        ("echo", {}),
        ("greeting", {}),
        ("hanging-up", {}),
        ("silent", {"idle_timeout": "300ms"}),
        ("dead", {}),
    ):
        config.listen(name, protocol="tcp", pool=name, **settings)
    async with (
        tcp_server() as echo,
        tcp_server(_greet) as greeting,
        tcp_server(_hang_up) as hanging_up,
        tcp_server(_swallow) as silent,
    ):
        config.pool("echo", echo.port).pool("greeting", greeting.port)
        config.pool("hanging-up", hanging_up.port).pool("silent", silent.port)
        config.pool("dead", free_port())
        async with running(config) as weirgate:
            yield Site(weirgate)


async def _half_close(wire: Wire) -> None:
    await wire.send(b"x")
    wire.half_close()
    assert await wire.rest() == b"x"


async def _reset(wire: Wire) -> None:
    await wire.send(b"x")
    assert await wire.exactly(1) == b"x"
    wire.reset()


async def _read_on(wire: Wire) -> None:
    with contextlib.suppress(ConnectionError):
        await wire.send(b"x")
        await wire.rest()


@pytest.mark.parametrize(
    ("listener", "client", "closed_by", "reason"),
    [
        ("echo", _half_close, "client", ""),
        ("echo", _reset, "client", "client_reset"),
        ("greeting", _read_on, "endpoint", ""),
        ("hanging-up", _read_on, "endpoint", "upstream_reset"),
        ("silent", _read_on, "weirgate", "idle_timeout"),
    ],
)
async def test_who_ended_it_first(
    site: Site, listener: str, client: object, closed_by: str, reason: str
) -> None:
    assert callable(client)
    async with connect(site.port(listener)) as wire:
        await client(wire)
    entry = await site.entry(wire)  # the other half is closed, too
    assert entry["closed_by"] == closed_by, entry
    # a server that ends while it has bytes unread resets: its own doing, too
    assert entry["reason"] == reason or (listener, entry["reason"]) == (
        "greeting",
        "upstream_reset",
    )


async def test_timers_and_round_trips(site: Site) -> None:
    async with connect(site.port()) as wire:
        await eventually(lambda: _established(site.port(), wire.local_port))
        await wire.send(b"x")
        assert await wire.exactly(1) == b"x"
        wire.half_close()
        assert await wire.rest() == b""
        entry = await site.entry(wire)
    assert 0 < entry["connect_us"] <= entry["first_byte_us"] <= entry["total_us"]
    if entry["total_us"] < SHORT_US:
        assert not {"client_rtt_us", "endpoint_rtt_us"} & set(entry)


async def test_an_endpoint_that_said_nothing_has_no_first_byte(site: Site) -> None:
    async with connect(site.port("silent")) as wire:
        await wire.send(b"x")
        assert await wire.rest() == b""
        entry = await site.entry(wire)
    assert (entry["first_byte_us"], entry["bytes_in"], entry["bytes_out"]) == (0, 1, 0)
    assert entry["total_us"] >= LONG_US
    for side in ("client", "endpoint"):
        assert 0 < entry[f"{side}_rtt_us"] < 10_000_000
        assert entry[f"{side}_retransmits"] >= 0


async def test_where_no_endpoint_was_reached_there_is_nothing_to_tell(site: Site) -> None:
    with contextlib.suppress(ConnectionError):  # it may be reset before the client knows of it
        async with connect(site.port("dead")) as wire:
            await _read_on(wire)
    entry = await site.weirgate.access.wait_for(lambda entry: entry["listener"] == "dead")
    assert (entry["closed_by"], entry["reason"]) == ("weirgate", "connect_refused")
    assert (entry["first_byte_us"], entry["bytes_out"]) == (0, 0)
    assert not {"client_rtt_us", "endpoint_rtt_us"} & set(entry)


@contextlib.contextmanager
def deaf_kernel(writer: asyncio.StreamWriter) -> Iterator[None]:
    """Drop whatever comes for a connection, before its TCP sees it."""
    program = ctypes.create_string_buffer(DROP_ALL, len(DROP_ALL))
    own = writer.get_extra_info("socket")
    own.setsockopt(
        socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(program))
    )
    try:
        yield
    finally:
        own.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)


def _connections(local: int, remote: int) -> list[list[str]]:
    """Return the kernel's lines of connections between two ports of 127.0.0.1."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    wanted = [f"0100007F:{local:04X}", f"0100007F:{remote:04X}"]
    return [fields for fields in map(str.split, lines) if fields[1:3] == wanted]


def _established(local: int, remote: int) -> bool:
    return any(fields[3] == "01" for fields in _connections(local, remote))


def _sent_again(local: int, remote: int) -> bool:
    """Say whether the kernel has sent a segment of this connection more than once."""
    return any(int(fields[6], 16) > 0 for fields in _connections(local, remote))


async def test_segments_sent_again_are_told_and_counted(site: Site) -> None:
    async def counted(side: str) -> float:
        return await site.weirgate.metric(
            "weirgate_edge_retransmits_total", listener="echo", side=side
        )

    before = await counted("client")
    async with connect(site.port()) as wire:
        await wire.send(b"x")
        assert await wire.exactly(1) == b"x"
        with deaf_kernel(wire.writer):
            await wire.send(b"y")
            await eventually(lambda: _sent_again(site.port(), wire.local_port))
        assert await wire.exactly(1) == b"y"
        wire.half_close()
        assert await wire.rest() == b""
        entry = await site.entry(wire)
    assert entry["client_retransmits"] >= 1
    assert entry["reason"] == ""

    async def added() -> bool:
        return bool(await counted("client") - before >= entry["client_retransmits"])

    await eventually(added, what="the retransmissions in the metric")


async def test_segments_sent_again_to_an_endpoint() -> None:
    visits: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()

    async def answer_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.read(1) == b"x":  # not the check at the start
            writer.write(b"x")
            visits.put_nowait(writer)
            writer.write(await reader.readexactly(1))

    async with tcp_server(answer_once) as server:
        config = Configuration().listen("tcp", protocol="tcp", pool="own").pool("own", server.port)
        async with running(config) as weirgate, connect(weirgate.port("tcp")) as wire:
            await wire.send(b"x")
            assert await wire.exactly(1) == b"x"
            endpoint = await visits.get()
            edge_port = int(endpoint.get_extra_info("peername")[1])
            with deaf_kernel(endpoint):
                await wire.send(b"y")
                await eventually(lambda: _sent_again(edge_port, server.port))
            assert await wire.rest() == b"y"
            wire.half_close()
            here = f"127.0.0.1:{wire.local_port}"
            entry = await weirgate.access.wait_for(lambda entry: entry["client"] == here)
            assert entry["endpoint_retransmits"] >= 1
            assert entry["closed_by"] == "endpoint"
            counted = await weirgate.metric(
                "weirgate_edge_retransmits_total", listener="tcp", side="endpoint"
            )
    assert counted >= entry["endpoint_retransmits"]
