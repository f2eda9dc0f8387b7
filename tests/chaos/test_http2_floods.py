"""HTTP/2 attacks on a running node: the connection ends, memory stays, others are served."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from itertools import count

import pytest

from tests.support.http2 import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    PREFACE,
    PRIORITY,
    RST_STREAM,
    WINDOW_UPDATE,
    Http2,
    block,
    fields_of,
    frame,
    get,
    headers,
    http2,
    settings,
)
from tests.support.origin import Origin, answer, held, one_origin
from tests.support.processes import resident_kib
from tests.support.weirgate import Running, running
from weirgate.shared.testing import Configuration, eventually

pytestmark = [pytest.mark.anyio, pytest.mark.chaos]

MEGABYTE = 1 << 20
KIB_IN_MIB = 1024
# What an attacker sends at most before a test calls it unlimited.
ROUNDS = 400
CANCEL = bytes(3) + b"\x08"

Attack = Callable[[], Iterator[bytes]]


@dataclass(frozen=True)
class Site:
    origin: Origin
    weirgate: Running


@pytest.fixture(scope="module")
async def site() -> AsyncIterator[Site]:
    config = Configuration().listen("web")
    config.gateway(http2={"control_frames": 200}, timeouts={"idle": "2s"})
    release = asyncio.Event()
    async with one_origin() as origin:
        origin.on("/held", held(release)).on("/large", answer(200, bytes(4 * MEGABYTE)))
        config.pool("all", origin.port).route("all", pool="all")
        async with running(config) as weirgate:
            yield Site(origin, weirgate)
            release.set()


def rapid_reset() -> Iterator[bytes]:
    for stream in count(1, 2):
        yield get(stream, "/held") + frame(RST_STREAM, 0, stream, CANCEL)


def made_you_reset() -> Iterator[bytes]:
    """Make the receiver reset: a window update of 0 on an open stream (CVE-2025-8671)."""
    for stream in count(1, 2):
        yield get(stream, "/held") + frame(WINDOW_UPDATE, 0, stream, bytes(4))


def empty_data() -> Iterator[bytes]:
    yield headers(1, fields_of("/up", method="POST"), ends=False)
    while True:
        yield frame(DATA, 0, 1)


def continuations() -> Iterator[bytes]:
    yield frame(HEADERS, END_STREAM, 1, block(*fields_of()))
    while True:
        yield frame(CONTINUATION, 0, 1, b"\x00\x01x" + bytes([100]) + b"y" * 100)


def empty_continuations() -> Iterator[bytes]:
    yield frame(HEADERS, END_STREAM, 1, block(*fields_of()))
    while True:
        yield frame(CONTINUATION, 0, 1)


def bomb() -> Iterator[bytes]:
    """Put 4 KB into the table once, then name it again and again: 1 byte each for 4 KB."""
    name = b"\x40\x01x" + b"\x7f\xa1\x1e" + b"y" * 4000
    yield frame(HEADERS, END_STREAM | END_HEADERS, 1, block(*fields_of()) + name)
    for stream in count(3, 2):
        yield frame(HEADERS, 5, stream, block(*fields_of()) + b"\xbe" * 16_000)


def endless(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> Attack:
    def attack() -> Iterator[bytes]:
        while True:
            yield frame(kind, flags, stream, payload)

    return attack


ATTACKS: dict[str, Attack] = {
    "rapid reset": rapid_reset,
    "made you reset": made_you_reset,
    "empty DATA": empty_data,
    "CONTINUATION": continuations,
    "empty CONTINUATION": empty_continuations,
    "PING": endless(PING, payload=bytes(8)),
    "SETTINGS": endless(4),
    "PRIORITY": endless(PRIORITY, stream=1, payload=b"\0\0\0\0\x10"),
    "WINDOW_UPDATE": endless(WINDOW_UPDATE, payload=b"\0\0\0\x01"),
    "unknown frames": endless(0xFA),
}


async def attacked(client: Http2, attack: Iterator[bytes]) -> bool:
    """Send an attack until the connection ends; say whether it did."""
    closed = asyncio.create_task(client.goaway())
    try:
        for _ in range(ROUNDS):
            await client.send(b"".join(next(attack) for _ in range(100)))
            if closed.done() or client.wire.writer.is_closing():
                break
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(closed, 10)
        return client.closed
    finally:
        closed.cancel()
        await asyncio.gather(closed, return_exceptions=True)


@pytest.mark.parametrize("name", ATTACKS)
async def test_a_flood_ends_its_connection_and_harms_no_other(site: Site, name: str) -> None:
    (gateway,) = site.weirgate.gateways()
    async with http2(site.weirgate.port()) as other:
        before = resident_kib(gateway)
        async with http2(site.weirgate.port()) as client:
            assert await attacked(client, ATTACKS[name]()), "it goes on"
        await other.send(get(1, "/up"))
        assert (await other.answer(1)).status == 200
        assert resident_kib(gateway) - before < 16 * KIB_IN_MIB
    assert len(site.origin.heads) < 2000, "most of it never became a request of ours"


async def test_floods_are_counted(site: Site) -> None:
    async with http2(site.weirgate.port()) as client:
        assert await attacked(client, ATTACKS["PING"]())
    assert await site.weirgate.counted("http2_flood") >= 1


async def test_a_head_that_grows_when_decoded_is_refused(site: Site) -> None:
    (gateway,) = site.weirgate.gateways()
    before = resident_kib(gateway)
    async with http2(site.weirgate.port()) as client:
        attack = bomb()
        await client.send(*[next(attack) for _ in range(20)])
        with contextlib.suppress(AssertionError, TimeoutError):
            assert (await client.answer(3)).status in {0, 431}
    assert resident_kib(gateway) - before < 16 * KIB_IN_MIB


@pytest.mark.parametrize("window", [0, 2**31 - 1])
async def test_answers_that_are_asked_for_and_not_read_take_little_room(
    site: Site, window: int
) -> None:
    """A hundred answers of 4 MB, with windows of 0 or wide open; then the stalls end them."""
    (gateway,) = site.weirgate.gateways()
    before = resident_kib(gateway)
    opened = frame(WINDOW_UPDATE, 0, 0, (2**31 - 65_536).to_bytes(4))
    async with http2(
        site.weirgate.port(), first=PREFACE + settings((4, window)) + opened
    ) as client:
        streams = range(1, 200, 2)
        await client.send(*[get(stream, "/large") for stream in streams])
        for stream in streams:
            await client.head(stream)
        assert resident_kib(gateway) - before < 48 * KIB_IN_MIB
        client.wire.pause_reading()
    await eventually(lambda: resident_kib(gateway) - before < 32 * KIB_IN_MIB)
