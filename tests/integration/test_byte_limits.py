"""Bytes per second and source: streams are slowed down to it, datagrams beyond it are dropped."""

import asyncio
import time
from dataclasses import dataclass, field

import pytest

from tests.support.tcp import tcp_server
from tests.support.udp import udp_client, udp_server
from tests.support.weirgate import Running, running
from tests.support.wire import Wire, connect, proxy_v2
from weirgate.shared.testing import Configuration, eventually

pytestmark = pytest.mark.anyio

KIB = 1024
RATE = 512 * KIB  # and the burst: what one second brings
CHUNK = b"x" * (16 * KIB)
WIDE = {"ipv4": 24, "ipv6": 48}


@dataclass
class Meter:
    """What passed and when; never more than the burst and what the rate brought since."""

    began: float = field(default_factory=time.monotonic)
    total: int = 0

    def count(self, data: bytes) -> None:
        self.total += len(data)
        most = RATE + RATE * (time.monotonic() - self.began)
        assert self.total <= most, f"{self.total - most} bytes too many"


class Sink:
    """An application that takes everything and at the end says how much it was."""

    def __init__(self) -> None:
        self.meter = Meter()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        count = 0
        while data := await reader.read(1 << 16):
            self.meter.count(data)
            count += len(data)
        writer.write(b"%d" % count)


async def source(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send as many bytes as the first line says."""
    left = int(await reader.readline() or 0)  # nothing: the proof that traffic flows
    while left > 0:
        writer.write(CHUNK[:left])
        left -= len(CHUNK)
        await writer.drain()


async def upload(wire: Wire, count: int, *, within_s: float = 30) -> int:
    """Send so many bytes; return how many the application says it got."""

    async def send() -> None:
        for at in range(0, count, len(CHUNK)):
            wire.writer.write(CHUNK[: count - at])
            await wire.writer.drain()
        wire.half_close()

    async with asyncio.timeout(within_s):
        _, answer = await asyncio.gather(send(), wire.rest(within_s=within_s))
    return int(answer)


def limited(port: int, **settings: object) -> Configuration:
    config = Configuration().pool("p", port)
    return config.listen("tcp", protocol="tcp", pool="p", **settings)


async def waits(weirgate: Running) -> float:
    return await weirgate.metric("weirgate_edge_byte_limit_waits_total", listener="tcp")


async def test_an_upload_is_slowed_down_to_the_rate_and_another_source_is_not() -> None:
    sink = Sink()
    async with (
        tcp_server(sink) as server,
        running(limited(server.port, bytes_in_per_source=f"{RATE // KIB}KiB/s")) as weirgate,
    ):
        port, count = weirgate.port("tcp"), 2 * RATE  # far beyond what is copied before splice
        sink.meter = Meter()
        async with connect(port, local="127.0.0.7") as slow:
            task = asyncio.create_task(upload(slow, count))
            await eventually(lambda: waits(weirgate), what="the upload to be held back")
            assert not task.done()
            held, sink.meter = sink.meter, Meter(total=-RATE)  # another source has its own burst
            async with connect(port, local="127.0.0.8") as calm:
                assert await upload(calm, RATE // 2) == RATE // 2
            assert await task == count
        assert time.monotonic() - held.began >= (count - RATE) / RATE
        entry = await weirgate.access.wait_for(lambda e: e["client"].startswith("127.0.0.7:"))
        assert entry["reason"] == ""
        assert entry["bytes_in"] == count
        assert entry["held_us"] > 100_000
        calm_entry = await weirgate.access.wait_for(lambda e: e["client"].startswith("127.0.0.8:"))
        assert calm_entry["held_us"] == 0


async def test_downloads_of_one_source_share_its_rate() -> None:
    async with (
        tcp_server(source) as server,
        running(limited(server.port, bytes_out_per_source=f"{RATE // KIB}KiB/s")) as weirgate,
    ):
        port, count, meter = weirgate.port("tcp"), RATE // 2, Meter()

        async def download() -> int:
            got = 0
            async with connect(port, local="127.0.0.7") as wire:
                await wire.send(b"%d\n" % count)
                while data := await wire.reader.read(1 << 16):
                    meter.count(data)
                    got += len(data)
            return got

        async with asyncio.timeout(30):
            assert await asyncio.gather(*(download() for _ in range(4))) == [count] * 4
        assert await waits(weirgate) > 0


async def test_many_short_connections_do_not_pass_the_limit() -> None:
    sink = Sink()
    config = limited(0, bytes_in_per_source=f"{RATE // KIB}KiB/s")
    async with tcp_server(sink) as server:
        config.pool("p", server.port, proxy_protocol="v1")  # its first segment counts as well
        async with running(config) as weirgate:
            port, each = weirgate.port("tcp"), 8 * KIB
            sink.meter = Meter(total=-200 * 64)  # PROXY headers, of the proof that it serves, too
            for _ in range(4):
                async with asyncio.timeout(30):
                    await asyncio.gather(*(_short(port, each) for _ in range(25)))
            assert sink.meter.total > 0
            assert await waits(weirgate) > 0


async def _short(port: int, count: int) -> None:
    async with connect(port, local="127.0.0.7") as wire:
        assert await upload(wire, count) > count  # the header came first


async def test_who_waits_for_the_limit_is_not_idle() -> None:
    # 150 streams of one source are served in turn, each once in more than two seconds
    rate, streams, each = 64 * KIB, 150, 2 * KIB
    async with (
        tcp_server(Sink()) as server,
        running(limited(server.port, bytes_in_per_source="64KiB/s", idle_timeout="1s")) as weirgate,
    ):
        began = time.monotonic()

        async def one() -> int:
            async with connect(weirgate.port("tcp"), local="127.0.0.7") as wire:
                return await upload(wire, each)

        async with asyncio.timeout(60):
            assert await asyncio.gather(*(one() for _ in range(streams))) == [each] * streams
        assert time.monotonic() - began >= (streams * each - rate) / rate


@pytest.mark.parametrize(
    ("prefix", "alike", "other"),
    [
        ({}, "2001:db8::ffff:0:0:2", "2001:db8:0:1::1"),
        (WIDE, "2001:db8:0:1::1", "2001:db8:1::1"),
    ],
    ids=["default-64", "48"],
)
async def test_an_ipv6_network_is_one_source(
    prefix: dict[str, int], alike: str, other: str
) -> None:
    sink = Sink()
    config = limited(
        0,
        bytes_in_per_source=f"{RATE // KIB}KiB/s",
        proxy_protocol={"from": "127.0.0.0/8"},
        **({"source_prefix": prefix} if prefix else {}),
    )
    async with tcp_server(sink) as server:
        config.pool("p", server.port)
        async with running(config) as weirgate:
            port = weirgate.port("tcp")
            sink.meter = Meter(total=-10 * RATE)
            async with connect(port) as first, connect(port) as second, connect(port) as third:
                await first.send(proxy_v2("2001:db8::1"))
                await second.send(proxy_v2(alike))
                await third.send(proxy_v2(other))
                assert await upload(first, RATE) == RATE  # the whole burst
                task = asyncio.create_task(upload(second, RATE))
                await eventually(lambda: waits(weirgate), what="the neighbour to be held back")
                assert await upload(third, 8 * KIB) == 8 * KIB
                assert await task == RATE
            entry = await weirgate.access.wait_for(lambda e: e["client"].startswith(f"[{alike}]"))
            assert entry["held_us"] > 0
            entry = await weirgate.access.wait_for(lambda e: e["client"].startswith(f"[{other}]"))
            assert entry["held_us"] == 0


async def test_datagrams_beyond_the_bytes_of_a_source_are_dropped_and_counted() -> None:
    async with udp_server() as server:
        config = Configuration().pool("p", server.port)
        config.listen(
            "udp", protocol="udp", pool="p", bytes_in_per_source="60KiB/m", source_prefix=WIDE
        )
        async with running(config) as weirgate:
            port, sent = weirgate.port("udp"), 200
            async with (
                udp_client(port, source="127.0.7.1") as noisy,
                udp_client(port, source="127.0.7.2") as neighbour,
                udp_client(port, source="127.0.8.1") as calm,
            ):
                for _ in range(sent):
                    noisy.send(b"x" * KIB)
                await weirgate.counted("source_bytes")
                assert await calm.ask(b"y")

                async def added_up() -> bool:
                    neighbour.send(b"z" * KIB)  # of the same /24, so it finds nothing left
                    dropped = await weirgate.metric(
                        "weirgate_edge_datagrams_dropped_total", reason="source_bytes"
                    )
                    came = await weirgate.metric("weirgate_edge_datagrams_in_total", listener="udp")
                    return came > sent and dropped + len(server.received) == came

                await eventually(added_up, what="each datagram passed on or counted")
                passed = [data for data in server.received if data[:1] == b"x"]
                assert 64 <= len(passed) <= 64 + 10, "the burst, and 1 KiB a second"
                assert not [data for data in server.received if data[:1] == b"z"]


async def test_answers_beyond_the_bytes_of_a_source_are_dropped_and_counted() -> None:
    async with udp_server(answers=10) as server:
        config = Configuration().pool("p", server.port)
        config.listen("udp", protocol="udp", pool="p", bytes_out_per_source="60KiB/m")
        async with running(config) as weirgate:
            port, asked = weirgate.port("udp"), 0

            def received() -> bool:
                return len(server.received) == asked

            async with udp_client(port, source="127.0.0.7") as client:
                for _ in range(20):
                    client.send(b"x" * KIB)  # ten answers of a little more
                    asked += 1
                    await eventually(received, what="the question")
                await weirgate.counted("source_bytes")

                async def added_up() -> bool:
                    dropped = await weirgate.metric(
                        "weirgate_edge_datagrams_dropped_total", reason="source_bytes"
                    )
                    came = await weirgate.metric(
                        "weirgate_edge_datagrams_out_total", listener="udp"
                    )
                    return came == 200 == dropped + client.inbox.qsize()

                await eventually(added_up, what="each answer passed on or counted")
                assert 60 <= client.inbox.qsize() <= 64 + 10
