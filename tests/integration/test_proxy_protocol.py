"""PROXY protocol at the edge: read on tcp listeners, written to the endpoints of pools."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.certs import client_context
from tests.support.hello import client_hello
from tests.support.proxied import (
    SIGNATURE,
    haproxy_receiver,
    haproxy_sender,
    nginx_receiver,
    take_apart,
    with_checksum,
)
from tests.support.tcp import tcp_server
from tests.support.tls_peers import nginx_tls
from tests.support.weirgate import Entry, Running, running
from tests.support.wire import Wire, connect, proxy_v1, proxy_v2, request
from weirgate.shared.testing import Configuration, eventually

pytestmark = pytest.mark.anyio

SOURCE = "192.0.2.7"
OTHER = "127.0.1.1"  # not among the peers that send headers
HEADER_TIMEOUT_S = 0.5


@dataclass
class Recorder:
    """A server that speaks first and keeps the first bytes of each connection, as they come."""

    greeting: bytes = b"220 hello\r\n"
    first: list[bytes] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.read(1 << 16)
        if not data:
            return
        self.first.append(data)
        writer.write(self.greeting)
        while more := await reader.read(1 << 16):
            self.first[-1] += more


@dataclass(frozen=True)
class Site:
    weirgate: Running
    recorder: Recorder

    def port(self, listener: str) -> int:
        return self.weirgate.port(listener)

    async def entry(self, wire: Wire, local: str = "127.0.0.1") -> Entry:
        """Return the log line of a connection, found by the address that it came from."""
        here = f"{local}:{wire.local_port}"
        return await self.weirgate.access.wait_for(lambda e: here in (e.get("peer"), e["client"]))


@pytest.fixture(scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    directory = tmp_path_factory.mktemp("proxy-protocol")
    recorder = Recorder()
    config = Configuration()
    proxies = {"from": "127.0.0.0/24"}

    def listen(name: str, pool: str, **settings: object) -> None:
        config.listen(name, protocol="tcp", pool=pool, **settings)

    listen("in", "echo", proxy_protocol=proxies, deny="198.51.100.0/24")
    listen(
        "impatient",
        "echo",
        proxy_protocol=proxies,
        hello_timeout=f"{int(HEADER_TIMEOUT_S * 1000)}ms",
    )
    listen("v1", "v1")
    listen("v2", "v2")
    listen("in-v1", "v1", proxy_protocol=proxies)
    listen("in-v2", "v2", proxy_protocol=proxies)
    listen("unix", "v1", bind=f"unix:{directory}/v1.sock")
    listen("unix-v2", "v2", bind=f"unix:{directory}/v2.sock")
    config.listen("tls", protocol="tls", sni={"a.example": "v2"}, default="v1")
    listen("nginx-v1", "nginx-v1")
    listen("nginx-v2", "nginx-v2")
    listen("haproxy-v1", "haproxy-v1")
    listen("haproxy-v2", "haproxy-v2")
    config.listen("nginx-tls", protocol="tls", default="nginx-tls")
    async with (
        tcp_server() as echo,
        tcp_server(recorder.serve) as recording,
        nginx_receiver(directory) as nginx,
        haproxy_receiver(directory) as haproxy,
        nginx_tls(directory, "shop.example", proxy_protocol=True) as nginx_behind_tls,
    ):
        config.pool("echo", echo.port)
        check = {"path": "/", "interval": "200ms", "fall": 1}
        for version in ("v1", "v2"):
            config.pool(version, recording.port, proxy_protocol=version)
            for name, peer in (("nginx", nginx), ("haproxy", haproxy)):
                config.pool(
                    f"{name}-{version}",
                    peer.port,
                    proxy_protocol=version,
                    health=check,
                    all_down="fail_closed",
                )
        config.pool("nginx-tls", nginx_behind_tls.port, proxy_protocol="v2", health={"tcp": True})
        async with running(config, directory=directory) as weirgate:
            yield Site(weirgate, recorder)


def block(source: str = SOURCE) -> bytes:
    """Return the address block of a version 2 header."""
    return proxy_v2(source)[16:]


def v2(command: int, family: int, body: bytes) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(body)) + body


GOOD: dict[str, tuple[bytes, str | None]] = {
    "v1": (proxy_v1(SOURCE), f"{SOURCE}:4321"),
    "v1 unknown": (b"PROXY UNKNOWN\r\n", None),
    "v1 unknown, 107 bytes": (b"PROXY UNKNOWN ".ljust(105, b"x") + b"\r\n", None),
    "v2": (proxy_v2(SOURCE), f"{SOURCE}:4321"),
    "v2, an IPv6 header on an IPv4 listener": (proxy_v2("2001:db8::7"), "[2001:db8::7]:4321"),
    "v2, IPv4 in IPv6": (proxy_v2(f"::ffff:{SOURCE}"), f"{SOURCE}:4321"),
    "v2 with TLVs": (proxy_v2(SOURCE, tlvs=b"\x04\x00\x02ab\xe5\x00\x00"), f"{SOURCE}:4321"),
    "v2 with a checksum": (with_checksum(proxy_v2(SOURCE)), f"{SOURCE}:4321"),
    "v2, 16 + 65535 bytes": (
        proxy_v2(SOURCE, tlvs=b"\x04" + struct.pack("!H", 65_535 - 15) + bytes(65_535 - 15)),
        f"{SOURCE}:4321",
    ),
    "local": (v2(0x20, 0x00, b""), None),
    "local with TLVs": (v2(0x20, 0x00, b"\x04\x00\x01x"), None),
    "local with addresses and TLVs": (v2(0x20, 0x11, block() + b"\x04\x00\x01x"), None),
    "unspecified": (v2(0x21, 0x00, b"anything"), None),
    "a Unix socket's": (v2(0x21, 0x31, bytes(216)), None),
}
BAD = {
    "nothing": b"",
    "another protocol": b"GET / HTTP/1.1\r\n\r\n",
    "v1, 108 bytes": b"PROXY UNKNOWN ".ljust(106, b"x") + b"\r\n",
    "v1, a bare line feed": proxy_v1(SOURCE).replace(b"\r\n", b"\n"),
    "v2, version 3": v2(0x31, 0x11, block()),
    "v2, another command": v2(0x22, 0x11, block()),
    "v2, shorter than its addresses": v2(0x21, 0x11, block()[:11]),
    "v2, IPv6 with the length of IPv4": v2(0x21, 0x21, block()),
    "v2, a TLV past the declared length": v2(0x21, 0x11, block() + b"\x04\x00\x09x") + b"x" * 8,
    "v2, half a TLV": v2(0x21, 0x11, block() + b"\x04\x00"),
    "v2, a wrong checksum": with_checksum(proxy_v2(SOURCE))[:-1] + b"\xff",
    "v2, a checksum of 3 bytes": v2(0x21, 0x11, block() + b"\x03\x00\x03abc"),
    "cut off": proxy_v2(SOURCE)[:-1],
}


@pytest.mark.parametrize("name", GOOD)
async def test_a_header_is_read_and_what_follows_is_payload(site: Site, name: str) -> None:
    header, client = GOOD[name]
    payload = b"\x03\x00\x04\xff\xff\xff\xffPROXY \r\n"  # looks like a TLV, and like a header
    async with connect(site.port("in")) as wire:
        await wire.send(header + payload)
        assert await wire.exactly(len(payload)) == payload
        own = f"127.0.0.1:{wire.local_port}"
        wire.half_close()
        assert await wire.rest() == b""
        entry = await site.entry(wire)
    assert (entry["client"], entry["peer"]) == (client or own, own)
    assert (entry["bytes_in"], entry["reason"]) == (len(payload), "")


@pytest.mark.parametrize("name", [name for name in GOOD if "65535" not in name])
async def test_a_header_may_come_byte_by_byte(site: Site, name: str) -> None:
    header, client = GOOD[name]
    async with connect(site.port("in")) as wire:
        wire.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(header)):
            await wire.send(header[at : at + 1])
            await asyncio.sleep(0)
        await wire.send(b"x")
        assert await wire.exactly(1) == b"x"
        own = f"127.0.0.1:{wire.local_port}"
        wire.half_close()
        assert await wire.rest() == b""
        assert (await site.entry(wire))["client"] == (client or own)


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_header_is_refused(site: Site, name: str) -> None:
    async with connect(site.port("in")) as wire:
        with contextlib.suppress(ConnectionError):
            await wire.send(BAD[name])
            if name in {"nothing", "cut off"}:
                wire.half_close()
        assert await wire.rest() == b""
        entry = await site.entry(wire)
    assert (entry["reason"], entry["pool"]) == ("bad_proxy_header", "")


async def test_a_slow_header_is_refused_in_time(site: Site) -> None:
    loop = asyncio.get_running_loop()
    for part in (b"", proxy_v1(SOURCE)[:-1], proxy_v2(SOURCE)[:20]):
        began = loop.time()
        async with connect(site.port("impatient")) as wire:
            if part:
                await wire.send(part)
            assert await wire.rest(within_s=5) == b""
            assert (await site.entry(wire))["reason"] == "bad_proxy_header"
        assert loop.time() - began >= HEADER_TIMEOUT_S


@pytest.mark.parametrize("header", [proxy_v1(SOURCE), proxy_v2(SOURCE)])
async def test_a_header_from_anybody_else_is_payload(site: Site, header: bytes) -> None:
    async with connect(site.port("in"), local=OTHER) as wire:
        await wire.send(header)
        assert await wire.exactly(len(header)) == header
        wire.half_close()
        assert await wire.rest() == b""
        entry = await site.entry(wire, OTHER)
    assert entry["client"] == f"{OTHER}:{wire.local_port}"
    assert "peer" not in entry


async def test_the_address_that_a_header_names_is_judged_too(site: Site) -> None:
    async with connect(site.port("in")) as wire:
        await wire.send(proxy_v2("198.51.100.9") + b"x")
        assert await wire.rest() == b""
        entry = await site.entry(wire)
    assert (entry["client"], entry["reason"]) == ("198.51.100.9:4321", "denied")


async def _first(site: Site, listener: str, before: bytes = b"") -> tuple[bytes, int]:
    """Connect, say nothing, be greeted, say one thing: what the endpoint got."""
    count = len(site.recorder.first)
    async with connect(site.port(listener)) as wire:
        if before:
            await wire.send(before)
        # the server waits for the header alone: had it to wait for the client, nothing would come
        assert await wire.exactly(len(site.recorder.greeting)) == site.recorder.greeting
        await wire.send(b"payload")
        port = wire.local_port
        wire.half_close()
        assert await wire.rest() == b""
    return await eventually(lambda: site.recorder.first[count]), port


async def test_v1_is_sent_at_once(site: Site) -> None:
    got, port = await _first(site, "v1")
    line = f"PROXY TCP4 127.0.0.1 127.0.0.1 {port} {site.port('v1')}\r\n"
    assert got == line.encode() + b"payload"
    entry = await site.weirgate.access.wait_for(lambda e: e["client"] == f"127.0.0.1:{port}")
    assert entry["bytes_in"] == len("payload")


async def test_v2_is_sent_at_once_and_names_the_connection(site: Site) -> None:
    got, port = await _first(site, "v2")
    header = take_apart(got)
    local = socket.inet_aton("127.0.0.1")
    assert (header.command, header.family, header.payload) == (0x21, 0x11, b"payload")
    assert header.addresses == local * 2 + struct.pack("!HH", port, site.port("v2"))
    entry = await site.weirgate.access.wait_for(lambda e: e["client"] == f"127.0.0.1:{port}")
    assert set(header.tlvs) == {3, 5}
    assert header.tlvs[5].decode() == entry["connection_id"]
    assert entry["bytes_in"] == len("payload")


async def test_whom_a_header_names_is_passed_on(site: Site) -> None:
    got, _ = await _first(site, "in-v1", proxy_v2(SOURCE))
    assert got == f"PROXY TCP4 {SOURCE} 192.0.2.1 4321 443\r\n".encode() + b"payload"
    got, _ = await _first(site, "in-v1", proxy_v1(SOURCE))
    assert got == f"PROXY TCP4 {SOURCE} 192.0.2.1 4321 443\r\n".encode() + b"payload"
    got, _ = await _first(site, "in-v2", proxy_v2("2001:db8::7"))
    header = take_apart(got)
    assert (header.family, header.addresses) == (0x21, block("2001:db8::7"))
    got, port = await _first(site, "in-v1", v2(0x20, 0x00, b""))
    assert got.startswith(f"PROXY TCP4 127.0.0.1 127.0.0.1 {port} ".encode())


@pytest.mark.parametrize(
    ("listener", "expected"), [("unix", b"PROXY UNKNOWN\r\n"), ("unix-v2", b"\x21\x00\x00")]
)
async def test_a_client_without_an_address(site: Site, listener: str, expected: bytes) -> None:
    count = len(site.recorder.first)
    bind = site.weirgate.config.data["listeners"][listener]["bind"]
    reader, writer = await asyncio.open_unix_connection(bind.removeprefix("unix:"))
    assert await reader.readexactly(len(site.recorder.greeting)) == site.recorder.greeting
    writer.close()
    await writer.wait_closed()
    got = await eventually(lambda: site.recorder.first[count])
    assert expected in got[:16]


@pytest.mark.parametrize(
    ("alpn", "shown"), [((), None), (("smtp",), b"smtp"), (("h2", "http/1.1"), None)]
)
async def test_the_server_name_is_told_in_the_segment_of_the_hello(
    site: Site, alpn: tuple[str, ...], shown: bytes | None
) -> None:
    count = len(site.recorder.first)
    hello = client_hello("a.example", context=client_context(alpn=alpn))
    async with connect(site.port("tls")) as wire:
        await wire.send(hello)
        assert await wire.exactly(len(site.recorder.greeting)) == site.recorder.greeting
        # the greeting is the answer to what the server's first read gave it
        header = take_apart(site.recorder.first[count])
    assert header.payload == hello
    assert header.tlvs[2] == b"a.example"
    assert header.tlvs.get(1) == shown


async def test_a_hello_without_a_name_has_no_authority(site: Site) -> None:
    count = len(site.recorder.first)
    async with connect(site.port("tls")) as wire:
        await wire.send(client_hello(None))
        assert await wire.exactly(len(site.recorder.greeting)) == site.recorder.greeting
    assert site.recorder.first[count].startswith(b"PROXY TCP4 127.0.0.1 ")


@pytest.mark.parametrize("listener", ["nginx-v1", "nginx-v2", "haproxy-v1", "haproxy-v2"])
async def test_nginx_and_haproxy_learn_who_the_client_is(site: Site, listener: str) -> None:
    async with connect(site.port(listener), local="127.0.0.9") as wire:
        answer = await wire.exchange(request("/"))
        client = f"127.0.0.9:{wire.local_port}"
    words = answer.body.decode().split()
    port = str(site.port(listener))
    assert words[:3] == ["127.0.0.9", client.rpartition(":")[2], port], answer.body
    if listener == "haproxy-v2":
        entry = await site.weirgate.access.wait_for(lambda e: e["client"] == client)
        assert words[3] == entry["connection_id"]


async def test_checks_introduce_themselves(site: Site) -> None:
    async def states() -> bool:
        pools = (await site.weirgate.status())["pools"]
        found = {
            pool["name"]: endpoint["state"] for pool in pools for endpoint in pool["endpoints"]
        }
        checked = [state for name, state in found.items() if name.startswith(("nginx", "haproxy"))]
        return checked == ["up"] * 5

    await eventually(states, what="every checked endpoint up")


async def test_nginx_behind_passthrough_learns_who_the_client_is(site: Site) -> None:
    async with connect(
        site.port("nginx-tls"), local="127.0.0.9", tls=client_context(), server_name="shop.example"
    ) as wire:
        answer = await wire.exchange(request("/", host="shop.example"))
        assert answer.body.decode().split()[:4] == [
            "nginx", "shop.example", "127.0.0.9", str(wire.local_port)
        ]  # fmt: skip


@pytest.mark.parametrize(
    "options",
    [
        "send-proxy",
        "send-proxy-v2",
        "send-proxy-v2 proxy-v2-options crc32c,unique-id",
        "send-proxy-v2-ssl proxy-v2-options crc32c",
    ],
)
async def test_haproxy_says_who_the_client_is(site: Site, tmp_path: Path, options: str) -> None:
    async with haproxy_sender(tmp_path, site.port("in"), options) as haproxy:
        async with connect(haproxy.port, local="127.0.0.9") as wire:
            await wire.send(b"x")
            assert await wire.exactly(1) == b"x"
            client = f"127.0.0.9:{wire.local_port}"
        entry = await site.weirgate.access.wait_for(lambda e: e["client"] == client)
    assert entry["peer"].startswith("127.0.0.1:")
    assert (entry["bytes_in"], entry["bytes_out"]) == (1, 1)
