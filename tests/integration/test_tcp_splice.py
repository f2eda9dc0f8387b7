"""Bulk through a tcp listener: what relays by splice(2) or sockmap got wrong, one test each.

==============================================================  ====================================
what went wrong, and where                                      test
==============================================================  ====================================
sockmap: FIN forwarded before the bytes, 31-41 KB lost in 23    the_tail_arrives (``shutdown``)
of 30 runs; HAProxy 3abf6934, 48f1e2b6: shutdown with bytes
still in the pipe; HAProxy 2505, 2749; Envoy 45190, 45198
the same when the sender is gone altogether                     the_tail_arrives (``close``)
sockmap: a FIN is not carried; HAProxy 2749: nor is what the    a_half_closed_stream_carries_on
other side still says
sockmap: bytes queued before the attach stay, attach after a    bytes_and_the_end_from_before
FIN is refused (EOPNOTSUPP)
sockmap: RST and errors do not cross (Envoy 36197)              a_reset_in_the_middle_of_bulk
HAProxy 760d26a8: pipe not released on an error; 0284be54:      broken_streams_leave_no_pipe
pipes beyond the limit of descriptors (no pipe to be had at
all: ``tests/chaos/test_descriptors.py``)
bytes of a broken stream in the next one that gets its pipe     broken_streams_leave_no_pipe
Linux 76831671, 3b4f14b7: bytes lost or doubled on EAGAIN;      every_byte_once_and_in_order
splice's EAGAIN means a full pipe or an empty socket
sockmap: no back-pressure, 1018 MB in 3 s; a slow reader is     a_reader_that_stops_stops_the_sender
an attack on memory
HAProxy 61d39a0e: an event that neither splice nor recv takes   waiting_costs_nothing
is told again and again; EPOLLRDHUP with a full pipe
==============================================================  ====================================
"""

import asyncio
import contextlib
import hashlib
import os
import random
import signal
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from tests.support.processes import descriptors, resident_kib
from tests.support.weirgate import Running, running
from weirgate.shared.testing import Configuration, eventually

pytestmark = pytest.mark.anyio

#: A direction is spliced once it has carried so much.
THRESHOLD = 96 * 1024
BULK_BYTES = 4 << 20
PATTERN = hashlib.shake_128(b"bulk").digest(1 << 20) * 16
SMALL_BUFFER = 16 * 1024
DEADLINE_S = 30.0
#: The edge keeps so many pipes for later, of two descriptors each.
SPARE_DESCRIPTORS = 2 * 16
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")

Way = Literal["forth", "back"]
both_ways = pytest.mark.parametrize("way", ["forth", "back"])


@dataclass(frozen=True)
class Site:
    weirgate: Running
    listener: socket.socket

    @property
    def edge(self) -> int:
        (pid,) = self.weirgate.edges()
        return pid

    @contextlib.asynccontextmanager
    async def joined(self, way: Way = "forth") -> AsyncIterator[tuple["End", "End"]]:
        """Connect a client; return who sends and who reads: ``forth``, the client sends."""
        client = self.client()
        try:
            await client.connect(self.weirgate.port("tcp"))
            endpoint = await self.accepted()
            try:
                yield (client, endpoint) if way == "forth" else (endpoint, client)
            finally:
                endpoint.own.close()
        finally:
            client.own.close()

    def client(self) -> "End":
        return End(_small(socket.socket()))

    async def accepted(self) -> "End":
        async with asyncio.timeout(DEADLINE_S):
            own, _ = await asyncio.get_running_loop().sock_accept(self.listener)
        own.settimeout(0)
        return End(own)

    async def skip_the_start(self) -> None:
        """Let go of the connections by which the node has found out that it is ready."""
        client = self.client()
        await client.connect(self.weirgate.port("tcp"))
        await client.send(b"own")
        client.half_close()
        with client.own:
            while (endpoint := await self.accepted()) and await endpoint.rest() != b"own":
                endpoint.own.close()
            endpoint.own.close()

    def spliced(self) -> int:
        """Count the edge's pipes."""
        return len(descriptors(self.edge, "pipe:"))

    def cpu_s(self) -> float:
        """Return what the edge has spent."""
        fields = Path(f"/proc/{self.edge}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


@dataclass(frozen=True)
class End:
    """One end of a stream: a socket with a small receive buffer, every step with a deadline."""

    own: socket.socket

    async def connect(self, port: int) -> None:
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.get_running_loop().sock_connect(self.own, ("127.0.0.1", port))

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.get_running_loop().sock_sendall(self.own, data)

    async def receive(self, most: int = 1 << 18) -> bytes:
        async with asyncio.timeout(DEADLINE_S):
            return await asyncio.get_running_loop().sock_recv(self.own, most)

    async def exactly(self, count: int) -> bytes:
        parts = bytearray()
        while len(parts) < count and (data := await self.receive(count - len(parts))):
            parts += data
        return bytes(parts)

    async def rest(self) -> bytes:
        parts = bytearray()
        while data := await self.receive():
            parts += data
        return bytes(parts)

    async def send_until_stuck(self, most: int) -> int:
        """Send for as long as anything is taken; return how much that was."""
        loop, sent = asyncio.get_running_loop(), 0
        while sent < most:
            with contextlib.suppress(BlockingIOError):
                sent += self.own.send(PATTERN[sent % len(PATTERN) :][: 1 << 18])
                continue
            writable = asyncio.Event()
            loop.add_writer(self.own, writable.set)
            try:
                async with asyncio.timeout(1.0):
                    await writable.wait()
            except TimeoutError:
                return sent
            finally:
                loop.remove_writer(self.own)
        return sent

    def half_close(self) -> None:
        self.own.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        self.own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.own.close()


def _small(own: socket.socket) -> socket.socket:
    own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
    own.settimeout(0)
    return own


@pytest.fixture(scope="module")
async def site() -> AsyncIterator[Site]:
    with socket.socket() as listener:
        _small(listener).bind(("127.0.0.1", 0))
        listener.listen(256)
        config = Configuration().listen("tcp", protocol="tcp", pool="own")
        config.pool("own", int(listener.getsockname()[1]))
        async with running(config) as weirgate:
            site = Site(weirgate, listener)
            await site.skip_the_start()
            yield site


def same(data: bytes, wanted: bytes) -> bool:
    """Compare without the megabytes in the report."""
    return (
        len(data) == len(wanted)
        and hashlib.sha256(data).digest() == hashlib.sha256(wanted).digest()
    )


@both_ways
@pytest.mark.parametrize("how", ["shutdown", "close"])
@pytest.mark.parametrize("size", [THRESHOLD, THRESHOLD + 1, BULK_BYTES + 13])
async def test_the_tail_arrives(site: Site, way: Way, how: str, size: int) -> None:
    """The end is on its way while the bytes before it still wait for the reader."""
    for _ in range(5):
        async with site.joined(way) as (sender, reader):
            sending = asyncio.create_task(sender.send(PATTERN[:size]))
            received = await reader.exactly(1)
            if size < BULK_BYTES:  # all of it fits into the buffers: the end is there first
                await sending
            else:
                received += await reader.exactly(size - (256 << 10))
                await sending
            if how == "shutdown":
                sender.half_close()
            else:
                sender.own.close()
            received += await reader.rest()
        assert same(received, PATTERN[:size]), f"{len(received)} of {size}"


@both_ways
async def test_a_half_closed_stream_carries_on_the_other_way(site: Site, way: Way) -> None:
    async with site.joined(way) as (sender, other):
        sending = asyncio.create_task(sender.send(PATTERN[:BULK_BYTES]))
        assert same(await other.exactly(BULK_BYTES), PATTERN[:BULK_BYTES])
        await sending
        sender.half_close()
        assert await other.rest() == b""
        for size in (1, THRESHOLD, BULK_BYTES):  # by copy, and by splice
            answering = asyncio.create_task(other.send(PATTERN[:size]))
            assert same(await sender.exactly(size), PATTERN[:size])
            await answering
        other.half_close()
        assert await sender.rest() == b""


@pytest.mark.parametrize("size", [0, 1, THRESHOLD + 1, 160 * 1024])
async def test_bytes_and_the_end_from_before_the_edge_has_accepted(site: Site, size: int) -> None:
    client = site.client()
    os.kill(site.edge, signal.SIGSTOP)
    try:
        await client.connect(site.weirgate.port("tcp"))
        sent = await client.send_until_stuck(size) if size else 0
        client.half_close()
    finally:
        os.kill(site.edge, signal.SIGCONT)
    endpoint = await site.accepted()
    with client.own, endpoint.own:
        assert same(await endpoint.rest(), PATTERN[:sent])
        await endpoint.send(b"answer")
        endpoint.half_close()
        assert await client.rest() == b"answer"


@both_ways
async def test_a_reset_in_the_middle_of_bulk_is_a_reset_on_the_other_side(
    site: Site, way: Way
) -> None:
    """Never an end that looks as if that had been all."""
    async with site.joined(way) as (sender, reader):
        client = reader if way == "back" else sender
        here = f"127.0.0.1:{client.own.getsockname()[1]}"
        sent = await sender.send_until_stuck(64 << 20)
        assert sent > THRESHOLD
        sender.reset()
        with pytest.raises(ConnectionResetError):
            await reader.rest()
    entry = await site.weirgate.access.wait_for(lambda entry: entry["client"] == here)
    who = "client" if way == "forth" else "endpoint"
    reason = "client_reset" if way == "forth" else "upstream_reset"
    assert (entry["reason"], entry["closed_by"]) == (reason, who)


async def test_broken_streams_leave_no_pipe_and_no_byte_behind(site: Site) -> None:
    before = site.spliced()
    async with contextlib.AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(site.joined()) for _ in range(24)]
        for sender, _ in streams:
            await sender.send(PATTERN[: THRESHOLD + SMALL_BUFFER])
        stuck = (sender.send_until_stuck(16 << 20) for sender, _ in streams)
        await asyncio.gather(*stuck)
        assert site.spliced() - before > SPARE_DESCRIPTORS, "one pipe each"
        for number, (sender, reader) in enumerate(streams):
            (sender if number % 2 else reader).reset()
        for number, (sender, reader) in enumerate(streams):
            if number % 2:
                with contextlib.suppress(ConnectionResetError):
                    await reader.rest()
            else:
                sender.own.close()
    most = max(before, SPARE_DESCRIPTORS)
    await eventually(lambda: site.spliced() <= most, what="pipes given back")
    for _ in range(20):
        data = random.Random(site.spliced()).randbytes(THRESHOLD * 4)
        async with site.joined() as (sender, reader):
            sending = asyncio.create_task(sender.send(data))
            assert same(await reader.exactly(len(data)), data)
            await sending


@pytest.mark.parametrize("seed", range(4))
async def test_every_byte_once_and_in_order_whatever_the_pace(site: Site, seed: int) -> None:
    """Both ways at once, by bits of any size: each buffer is full and empty again and again."""
    chance = random.Random(seed)

    async def pour(end: End, data: bytes) -> None:
        at = 0
        while at < len(data):
            step = chance.choice((1, 100, 4096, 65_536, 300_000))
            await end.send(data[at : at + step])
            at += step
            if chance.random() < 0.2:
                await asyncio.sleep(0)
        end.half_close()

    async def sip(end: End) -> bytes:
        received = bytearray()
        while data := await end.receive(chance.choice((100, 4096, 65_536, 262_144))):
            received += data
            if chance.random() < 0.2:
                await asyncio.sleep(0)
        return bytes(received)

    forth, back = (chance.randbytes(BULK_BYTES + chance.randrange(1000)) for _ in range(2))
    async with site.joined() as (client, endpoint):
        results = await asyncio.gather(
            sip(client), sip(endpoint), pour(client, forth), pour(endpoint, back)
        )
    assert same(results[0], back)
    assert same(results[1], forth)


@both_ways
async def test_a_reader_that_stops_stops_the_sender(site: Site, way: Way) -> None:
    """The kernel's buffers fill up, the edge's memory does not, and nothing is lost."""
    limit = 64 << 20
    resident = resident_kib(site.edge)
    async with contextlib.AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(site.joined(way)) for _ in range(8)]
        taken = await asyncio.gather(*(sender.send_until_stuck(limit) for sender, _ in streams))
        assert max(taken) < limit, "the sender was never stopped"
        assert resident_kib(site.edge) - resident < 8 * 1024
        for (sender, reader), sent in zip(streams, taken, strict=True):
            sender.half_close()
            received = hashlib.sha256()
            count = 0
            while data := await reader.receive():
                received.update(data)
                count += len(data)
            wanted = (PATTERN * (sent // len(PATTERN) + 1))[:sent]
            assert (count, received.digest()) == (sent, hashlib.sha256(wanted).digest())


@both_ways
async def test_waiting_costs_nothing(site: Site, way: Way) -> None:
    """A full pipe, a reader that does not read, a sender that has ended: nothing can be done."""
    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(site.joined(way)) for _ in range(8)]
        await asyncio.gather(*(sender.send_until_stuck(64 << 20) for sender, _ in streams))
        for number, (sender, _) in enumerate(streams):
            if number % 2:
                sender.half_close()
        began, before = loop.time(), site.cpu_s()
        await eventually(lambda: loop.time() - began > 2)  # what is measured is a matter of time
        spent, lasted = site.cpu_s() - before, loop.time() - began
    assert spent < lasted / 4, f"{spent:.2f} s of CPU in {lasted:.2f} s"
