"""Whoever stalls holds nobody for longer than the timeouts say: a deaf endpoint, a slow client."""

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import partial

import pytest

from tests.support import certs
from tests.support.origin import Exchange, Origin, one_origin
from tests.support.strict import Response
from tests.support.tcp import tcp_server
from tests.support.weirgate import Entry, Running, running
from tests.support.wire import Wire, connect, request
from weirgate.shared.testing import Configuration, eventually, free_port

pytestmark = pytest.mark.anyio

#: More than all the buffers between two processes ever hold.
BULK_BYTES = 128 * 2**20
PIECE = b"x" * 2**16
STALL_S = 0.3
LIMIT_S = 0.6
#: Deadlines may be late by 200 ms, and the machine may be busy; "for ever" is 20 s here.
LATE_S = 5.0
#: One tick of the coarse clock; whether a timeout may be early at all is a test of its own.
EARLY_S = 0.1
FOR_EVER = "20s"


@dataclass(frozen=True)
class Site:
    origin: Origin
    weirgate: Running

    @property
    def port(self) -> int:
        return self.weirgate.port()

    @contextlib.asynccontextmanager
    async def connected(self, listener: str) -> AsyncIterator[Wire]:
        """A client of the plain listener, or of the one with TLS."""
        tls: ssl.SSLContext | None = certs.client_context() if listener == "secure" else None
        name = "weirgate.test" if listener == "secure" else None
        async with connect(self.weirgate.port(listener), tls=tls, server_name=name) as wire:
            yield wire

    async def nothing_is_held(self) -> None:
        """Wait until no request is in flight any more."""

        async def none() -> bool:
            return await self.weirgate.metric("weirgate_gateway_requests_in_flight") == 0

        await eventually(none, what="no request in flight")


@contextlib.contextmanager
def deaf() -> Iterator[int]:
    """A port where the kernel takes connections, and nobody ever reads from one."""
    with socket.create_server(("127.0.0.1", free_port()), backlog=256) as listener:
        yield int(listener.getsockname()[1])


async def _read_a_little(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.readexactly(2**20)
    await asyncio.Event().wait()


@pytest.fixture(scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    cert = certs.issue(tmp_path_factory.mktemp("certs"), "weirgate.test")
    config = Configuration().listen("web").listen("secure", tls={"certificates": [cert.yaml()]})
    bounds = {
        "stall": {"between_bytes": f"{STALL_S}s", "response_head": FOR_EVER},
        "head": {"response_head": f"{STALL_S}s", "between_bytes": FOR_EVER},
        "total": {"total": f"{LIMIT_S}s", "between_bytes": FOR_EVER, "response_head": FOR_EVER},
    }
    for pool in ("deaf", "sleepy", "lively"):
        for bound, timeouts in bounds.items():
            path = f"/{pool}/{bound}/*"
            config.route(f"{pool}-{bound}", match={"path": path}, pool=pool, timeouts=timeouts)
    with deaf() as nobody:
        async with tcp_server(_read_a_little) as sleepy, one_origin() as origin:
            config.pool("deaf", nobody).pool("sleepy", sleepy.port).pool("lively", origin.port)
            async with running(config) as weirgate:
                yield Site(origin, weirgate)


async def upload(wire: Wire, path: str, framing: str) -> Response:
    """Send a large body for as long as it is taken; return the answer that comes meanwhile."""
    chunked = framing == "chunked"
    field = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {BULK_BYTES}"
    piece = b"%x\r\n%s\r\n" % (len(PIECE), PIECE) if chunked else PIECE

    async def send() -> None:
        with contextlib.suppress(ConnectionError, TimeoutError):
            await wire.send(request(path, field, method="PUT"))
            for _ in range(BULK_BYTES // len(PIECE)):
                await wire.send(piece)

    sending = asyncio.create_task(send())
    try:
        return await wire.response("PUT", within_s=STALL_S + LIMIT_S + LATE_S)
    finally:
        sending.cancel()
        await asyncio.wait([sending])


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("listener", ["web", "secure"])
@pytest.mark.parametrize(
    ("endpoint", "bound", "reason", "least_s"),
    [
        ("deaf", "stall", "body_timeout", STALL_S),
        ("sleepy", "stall", "body_timeout", STALL_S),
        ("deaf", "total", "total_timeout", LIMIT_S),
    ],
)
async def test_large_upload_to_an_endpoint_that_does_not_read(
    site: Site, endpoint: str, bound: str, reason: str, least_s: float, listener: str, framing: str
) -> None:
    path = f"/{endpoint}/{bound}/{listener}-{framing}"
    began = time.monotonic()
    async with site.connected(listener) as wire:
        response = await upload(wire, path, framing)
    took = time.monotonic() - began
    assert (response.status, response.reason) == (504, reason), response.head
    assert least_s - EARLY_S <= took < least_s + LATE_S
    entry = await site.weirgate.access.of(path)
    assert (entry["status"], entry["reason"]) == (504, reason)
    assert 0 < entry["bytes_in"] < BULK_BYTES
    await site.nothing_is_held()


@pytest.mark.parametrize("size", [0, 1000])
async def test_small_request_to_an_endpoint_that_does_not_read(site: Site, size: int) -> None:
    """The kernel takes all of it, so that it is the answer which does not come."""
    path = f"/deaf/head/{size}"
    async with site.connected("web") as wire:
        raw = request(path, method="POST", body=b"x" * size)
        await wire.send(raw)
        response = await wire.response(within_s=STALL_S + LATE_S)
    assert (response.status, response.reason) == (504, "response_timeout"), response.head
    assert (await site.weirgate.access.of(path))["reason"] == "response_timeout"


async def bulk(exchange: Exchange) -> None:
    """Answer with more than a slow client can take; in chunks where the path says so."""
    await exchange.read()
    chunked = "chunked" in exchange.head.target
    field = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {BULK_BYTES}"
    await exchange.send(f"HTTP/1.1 200 OK\r\n{field}\r\n\r\n".encode())
    piece = b"%x\r\n%s\r\n" % (len(PIECE), PIECE) if chunked else PIECE
    for _ in range(BULK_BYTES // len(PIECE)):
        await exchange.send(piece)
    await exchange.send(b"0\r\n\r\n" if chunked else b"")


def _is_past(moment: float) -> bool:
    return asyncio.get_running_loop().time() >= moment


async def pause(seconds: float) -> None:
    """Let a client be slow: the one thing here that is a matter of time."""
    await eventually(partial(_is_past, asyncio.get_running_loop().time() + seconds))


async def sip(wire: Wire, hurry: asyncio.Event) -> int:
    """Read steadily, a little at a time until it has to hurry; return how much it was."""
    received = 0
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while data := await wire.reader.read(2**14):
            received += len(data)
            if not hurry.is_set():
                await pause(0.02)
    return received


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("listener", ["web", "secure"])
@pytest.mark.parametrize("pace", ["slowly", "nothing"])
async def test_total_timeout_bounds_a_client_that_reads_slowly_or_not_at_all(
    site: Site, pace: str, listener: str, framing: str
) -> None:
    path = f"/lively/total/{pace}-{listener}-{framing}"
    site.origin.on(path, bulk)
    async with site.connected(listener) as wire:
        await wire.send(request(path))
        if pace == "nothing":
            wire.pause_reading()
        over = asyncio.Event()
        reading = asyncio.create_task(sip(wire, over))
        entry = await site.weirgate.access.of(path)
        over.set()
        if pace == "slowly":
            assert await reading < BULK_BYTES
        else:
            reading.cancel()
            await asyncio.wait([reading])
    assert (entry["status"], entry["reason"]) == (200, "total_timeout")
    assert LIMIT_S - EARLY_S <= entry["total_us"] / 1e6 < LIMIT_S + LATE_S
    assert entry["bytes_out"] < BULK_BYTES
    await site.nothing_is_held()


async def small(exchange: Exchange) -> None:
    """Answer with what comes in one piece: nothing is written before it is complete."""
    await exchange.read()
    body = b"x" * 8_000
    await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


@pytest.mark.parametrize("listener", ["web", "secure"])
async def test_total_timeout_bounds_the_last_bytes_of_an_answer(site: Site, listener: str) -> None:
    """Of answers to a client that asks on without reading, one is the first that does not fit."""
    path = f"/lively/total/small-{listener}"
    site.origin.on(path, small)
    async with site.connected(listener) as wire:
        wire.pause_reading()
        asking = asyncio.create_task(wire.send(request(path) * 4000))

        def cut(entry: Entry) -> bool:
            return entry.get("path") == path and entry["reason"] != ""

        entry = await site.weirgate.access.wait_for(cut)
        asking.cancel()
        await asyncio.wait([asking])
    assert entry["reason"] == "total_timeout"
    assert LIMIT_S <= entry["total_us"] / 1e6 < LIMIT_S + LATE_S
    await site.nothing_is_held()


async def test_total_timeout_is_never_early(site: Site) -> None:
    async def wait_for_it(number: int) -> float:
        await pause(0.025 * number)  # the ticks of the coarse clock are 100 ms apart
        async with site.connected("web") as wire:
            began = time.monotonic()
            response = await wire.exchange(request(f"/deaf/total/early-{number}"))
            assert response.reason == "total_timeout"
            return time.monotonic() - began

    took = await asyncio.gather(*(wait_for_it(number) for number in range(4)))
    assert min(took) >= LIMIT_S, took
