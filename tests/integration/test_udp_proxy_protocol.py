"""PROXY protocol in datagrams: each one for an endpoint says who sent it, byte by byte."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from tests.support.proxied import SIGNATURE
from tests.support.udp import udp_client
from tests.support.weirgate import Running, running
from weirgate.shared.testing import Configuration, eventually, free_port

pytestmark = pytest.mark.anyio

#: linux/udp.h
UDP_SEGMENT = 103
#: What UDP over IPv4 can carry.
MOST_BYTES = 65_507
HEADER_BYTES = {socket.AF_INET: 28, socket.AF_INET6: 52}
LOCAL = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


def header(client: tuple[str, int], asked: tuple[str, int]) -> bytes:
    """Write the header that a datagram must have, from the specification's table."""
    family = socket.AF_INET6 if ":" in client[0] else socket.AF_INET
    kind = 0x22 if family == socket.AF_INET6 else 0x12
    addresses = socket.inet_pton(family, client[0]) + socket.inet_pton(family, asked[0])
    addresses += struct.pack("!HH", client[1], asked[1])
    return SIGNATURE + struct.pack("!BBH", 0x21, kind, len(addresses)) + addresses


@dataclass
class Application(asyncio.DatagramProtocol):
    """Takes the header off each datagram and answers with the rest, upside down."""

    received: list[bytes] = field(default_factory=list)
    transport: asyncio.DatagramTransport = field(init=False, repr=False)

    @property
    def port(self) -> int:
        return int(self.transport.get_extra_info("sockname")[1])

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.received.append(data)
        length = 16 + struct.unpack_from("!H", data, 14)[0]
        self.transport.sendto(data[length:][::-1], addr)


@contextlib.asynccontextmanager
async def application(host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Application]:
    transport, server = await asyncio.get_running_loop().create_datagram_endpoint(
        Application, local_addr=(host, port)
    )
    try:
        yield server
    finally:
        transport.close()


@dataclass(frozen=True)
class Site:
    server: Application
    server_six: Application
    weirgate: Running

    def port(self, listener: str) -> int:
        return self.weirgate.port(listener)


@pytest.fixture(scope="module")
async def site() -> AsyncIterator[Site]:
    config = Configuration()
    for name, settings in {
        "four": {},
        "six": {"bind": f"[::1]:{free_port()}"},
        "six-to-four": {"bind": f"[::1]:{free_port()}", "pool": "four"},
        "four-to-six": {"pool": "six"},
        "any": {"bind": f"0.0.0.0:{free_port()}", "pool": "four"},
    }.items():
        config.listen(name, protocol="udp", **{"pool": name, **settings})
    async with application() as four, application("::1") as six:
        config.pool("four", four.port, proxy_protocol="v2")
        config.pool("six", f"[::1]:{six.port}", proxy_protocol="v2")
        async with running(config) as weirgate:
            yield Site(four, six, weirgate)


@pytest.mark.parametrize(
    ("listener", "family", "asked", "endpoint"),
    [
        ("four", socket.AF_INET, "127.0.0.1", "server"),
        ("six", socket.AF_INET6, "::1", "server_six"),
        ("six-to-four", socket.AF_INET6, "::1", "server"),
        ("four-to-six", socket.AF_INET, "127.0.0.1", "server_six"),
        ("any", socket.AF_INET, "127.0.0.9", "server"),
    ],
)
async def test_each_datagram_has_the_client_and_whom_it_asked(
    site: Site, listener: str, family: socket.AddressFamily, asked: str, endpoint: str
) -> None:
    server: Application = getattr(site, endpoint)
    port = site.port(listener)
    async with udp_client(port, host=asked) as client:
        own = client.transport.get_extra_info("sockname")[:2]
        before = len(server.received)
        payloads = [b"first", b"second", b"x" * 1400, b"\r\n\r\n\0\r\nQUIT\n"]
        for payload in payloads:
            assert await client.ask(payload) == payload[::-1]
    assert server.received[before:] == [header(own, (asked, port)) + each for each in payloads]
    assert len(server.received[before]) == HEADER_BYTES[family] + len(b"first")


async def test_an_empty_datagram_is_a_header_alone(site: Site) -> None:
    port = site.port("four")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:  # asyncio does not send it
        client.connect(("127.0.0.1", port))
        before = len(site.server.received)
        client.send(b"")
        await eventually(lambda: len(site.server.received) > before)
        assert site.server.received[before] == header(client.getsockname(), ("127.0.0.1", port))


@pytest.mark.parametrize(
    ("size", "count", "last"),
    [(100, 40, 100), (1472, 40, 1472), (1400, 20, 7), (1, 64, 1), (9000, 7, 1)],
)
async def test_datagrams_that_the_kernel_put_together_have_one_each(
    site: Site, size: int, count: int, last: int
) -> None:
    """Loopback keeps what was sent as one together, and so does ``UDP_GRO`` on the listener."""
    port = site.port("four")
    payloads = [bytes([number]) * size for number in range(count - 1)] + [b"z" * last]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect(("127.0.0.1", port))
        client.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, size)
        before = len(site.server.received)
        client.send(b"".join(payloads))
        await eventually(lambda: len(site.server.received) >= before + count)
        wanted = header(client.getsockname(), ("127.0.0.1", port))
    assert site.server.received[before:] == [wanted + payload for payload in payloads]


async def test_one_that_is_too_long_with_its_header_is_dropped_and_counted(site: Site) -> None:
    async def dropped() -> float:
        return await site.weirgate.metric(
            "weirgate_edge_datagrams_dropped_total", listener="four", reason="datagram_too_large"
        )

    before = await dropped()
    most = MOST_BYTES - HEADER_BYTES[socket.AF_INET]
    async with udp_client(site.port("four")) as client:
        assert await client.ask(b"x" * most) == b"x" * most
        client.send(b"y" * (most + 1))
        client.send(b"z" * MOST_BYTES)

        async def counted() -> bool:
            return await dropped() == before + 2

        await eventually(counted, what="both counted")
        assert await client.ask(b"after") == b"retfa", "the session goes on"


async def test_a_session_that_moves_keeps_its_words() -> None:
    """The first endpoint is refused by ICMP: the same datagram goes on with the same header."""
    config = Configuration().listen("voice", protocol="udp", pool="voice")
    async with application() as server:
        config.pool("voice", free_port(), server.port, proxy_protocol="v2", balance="round_robin")
        async with running(config) as weirgate:
            port = weirgate.port("voice")
            for _ in range(4):
                async with udp_client(port) as client:
                    own = client.transport.get_extra_info("sockname")
                    assert await client.ask_until_answered(b"moves") == b"sevom"
                    wanted = header(own, ("127.0.0.1", port))
                    assert server.received[-1] == wanted + b"moves"


async def test_a_reload_turns_it_on_and_off_for_sessions_that_are_open() -> None:
    def config(version: str) -> Configuration:
        changed = Configuration().listen("voice", bind=f"127.0.0.1:{port}", protocol="udp")
        changed.data["listeners"]["voice"]["pool"] = "voice"
        changed.pool("voice", server.port, proxy_protocol=version)
        return changed

    port = free_port()
    async with application() as server, running(config("v2")) as weirgate:
        async with udp_client(port) as client:
            wanted = header(client.transport.get_extra_info("sockname"), ("127.0.0.1", port))
            assert await client.ask(b"one") == b"eno"
            assert (await weirgate.reload(config("off"))).status_code == 200
            assert await client.ask(b"\0" * 20) == b"\0" * 4, "taken for a header of 16 bytes"
            assert (await weirgate.reload(config("v2"))).status_code == 200
            assert await client.ask(b"two") == b"owt"
        assert server.received == [wanted + b"one", b"\0" * 20, wanted + b"two"]


async def test_it_is_off_unless_asked_for(site: Site) -> None:
    config = Configuration().listen("voice", protocol="udp", pool="voice")
    config.pool("voice", site.server.port)
    async with running(config) as weirgate, udp_client(weirgate.port("voice")) as client:
        before = len(site.server.received)
        client.send(b"\0" * 20)
        await eventually(lambda: len(site.server.received) > before)
        assert site.server.received[before] == b"\0" * 20
