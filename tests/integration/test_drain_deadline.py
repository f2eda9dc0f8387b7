"""The deadline of a drain is final: a transfer that goes on and on is cut all the same."""

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import certs
from tests.support.origin import Exchange, Origin, one_origin
from tests.support.tcp import TcpServer, tcp_server
from tests.support.weirgate import Running, running
from tests.support.wire import Wire, connect, request
from weirgate.shared.testing import Configuration, eventually

pytestmark = pytest.mark.anyio

DRAIN_S = 1.0
#: A coarse clock, three processes to end, a busy machine.
LATE_S = 5.0
PIECE = b"x" * 2**16


@dataclass(frozen=True)
class Site:
    origin: Origin
    server: TcpServer
    weirgate: Running


async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send as fast as it is taken, without end."""
    with contextlib.suppress(ConnectionError):
        while not reader.at_eof():
            writer.write(PIECE)
            await writer.drain()


async def length(exchange: Exchange) -> None:
    await exchange.read()
    await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")
    await pour(exchange.connection.reader, exchange.connection.writer)


async def chunked(exchange: Exchange) -> None:
    await exchange.read()
    await exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    piece = b"%x\r\n%s\r\n" % (len(PIECE), PIECE)
    with contextlib.suppress(ConnectionError):
        while not exchange.connection.reader.at_eof():
            await exchange.send(piece)


async def drip(exchange: Exchange) -> None:
    """A byte every few milliseconds: each renews the timeout between two bytes."""
    await exchange.read()
    await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")
    ended = asyncio.create_task(exchange.connection.reader.read())
    while not ended.done():
        await exchange.send(b"x")
        await asyncio.wait([ended], timeout=0.005)


@contextlib.asynccontextmanager
async def site(directory: Path) -> AsyncIterator[Site]:
    cert = certs.issue(directory, "weirgate.test")
    config = Configuration(workers=2).listen("web").route("all", pool="all")
    config.listen("secure", tls={"certificates": [cert.yaml()]})
    config.listen("raw", protocol="tcp", pool="raw")
    config.data["drain"] = {"timeout": f"{DRAIN_S}s"}
    async with one_origin() as origin, tcp_server(pour) as server:
        origin.on("/length", length).on("/chunked", chunked).on("/drip", drip)
        config.pool("all", origin.port).pool("raw", server.port)
        async with running(config) as weirgate:
            yield Site(origin, server, weirgate)


class Sink:
    """A client that reads whatever comes, until the end."""

    def __init__(self, wire: Wire) -> None:
        self.received = 0
        self.ended_at = 0.0
        self._wire = wire

    async def run(self) -> None:
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while data := await self._wire.reader.read(1 << 18):
                self.received += len(data)
        self.ended_at = time.monotonic()


@pytest.mark.parametrize(
    ("listener", "path"),
    [
        ("web", "/length"),
        ("web", "/chunked"),
        ("web", "/drip"),
        ("secure", "/length"),
        ("secure", "/drip"),
        ("raw", ""),
    ],
)
async def test_endless_download_is_cut_at_the_deadline(
    tmp_path: Path, listener: str, path: str
) -> None:
    tls = certs.client_context() if listener == "secure" else None
    name = "weirgate.test" if listener == "secure" else None
    async with site(tmp_path) as running_site:
        weirgate = running_site.weirgate
        async with connect(weirgate.port(listener), tls=tls, server_name=name) as wire:
            if path:
                await wire.send(request(path))
            sink = Sink(wire)
            sinking = asyncio.create_task(sink.run())
            await eventually(lambda: sink.received > 200)
            began, before = time.monotonic(), sink.received
            log = await weirgate.stop()
            ended = time.monotonic()
            await sinking
        assert sink.received > before, "it went on while the node drained"
        assert DRAIN_S <= sink.ended_at - began < DRAIN_S + LATE_S
        assert DRAIN_S <= ended - began < DRAIN_S + LATE_S
        assert "not drained" not in log, "the data planes closed it, not the supervisor's patience"
        entry = await weirgate.access.wait_for(lambda e: e["reason"] == "draining")
        assert entry["listener"] == listener
        assert not path or entry["path"] == path


async def test_endless_upload_is_cut_at_the_deadline(tmp_path: Path) -> None:
    async def swallow(exchange: Exchange) -> None:
        with contextlib.suppress(ConnectionError):
            while await exchange.connection.reader.read(1 << 18):
                pass

    async with site(tmp_path) as running_site:
        running_site.origin.on("/swallow", swallow)
        weirgate = running_site.weirgate
        async with connect(weirgate.port()) as wire:
            head = request("/swallow", "Content-Length: 1000000000", method="PUT")
            await wire.send(head)

            async def send() -> None:
                with contextlib.suppress(ConnectionError):
                    while True:
                        await wire.send(b"x" * 1000)
                        await asyncio.wait([closed], timeout=0.005)

            closed = asyncio.create_task(wire.rest())
            sending = asyncio.create_task(send())
            await eventually(lambda: running_site.origin.heads)
            began = time.monotonic()
            log = await weirgate.stop()
            ended = time.monotonic()
            await asyncio.wait([closed, sending], timeout=LATE_S)
            assert closed.done()
            sending.cancel()
        assert DRAIN_S - 0.1 <= ended - began < DRAIN_S + LATE_S
        assert "not drained" not in log
        entry = await weirgate.access.of("/swallow")
        assert entry["reason"] == "draining"
