"""``protocol: tls``: the server name decides, and TLS ends where that name leads."""

import asyncio
import contextlib
import os
import signal
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.certs import authority_file, client_context, issue
from tests.support.hello import (
    Send,
    TlsWire,
    byte_by_byte,
    client_hello,
    in_records,
    whole,
)
from tests.support.origin import Origin, one_origin
from tests.support.peers import tool
from tests.support.tls_peers import nginx_tls, openssl_server, python_tls
from tests.support.weirgate import Running, running
from tests.support.wire import Wire, connect, proxy_v1, proxy_v2, request
from weirgate.shared.testing import Configuration, eventually

pytestmark = pytest.mark.anyio

ALERT_UNRECOGNIZED_NAME = bytes([21, 3, 3, 0, 2, 2, 112])
ALERT_MISSING_EXTENSION = bytes([21, 3, 3, 0, 2, 2, 109])
HELLO_TIMEOUT_S = 0.5


@dataclass(frozen=True)
class Site:
    weirgate: Running
    origin: Origin
    ca: Path

    def port(self, listener: str = "mixed") -> int:
        return self.weirgate.port(listener)


@pytest.fixture(scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    directory = tmp_path_factory.mktemp("passthrough")
    here = issue(directory, "here.example", "*.here.example").yaml()
    async with (
        openssl_server(directory, "a.example") as openssl,
        nginx_tls(directory, "b.example", "x.b.example") as nginx,
        python_tls("default.example", "other.example") as default,
        one_origin() as origin,
    ):
        config = Configuration()
        names: dict[str, Any] = {"A.Example.": "openssl", "*.b.example": "nginx"}
        config.listen(
            "mixed",
            protocol="tls",
            sni={**names, "b.example": "nginx"},
            terminate=["here.example", "*.here.example"],
            default="python",
            tls={"certificates": [here]},
        )
        config.listen(
            "strict", protocol="tls", sni=names, hello_timeout=f"{int(HELLO_TIMEOUT_S * 1000)}ms"
        )
        config.listen("all", protocol="tls", sni=names, terminate="*", tls={"certificates": [here]})
        config.listen(
            "few", protocol="tls", terminate="*", tls={"certificates": [here]}, max_connections=2
        )
        config.listen(
            "proxied",
            protocol="tls",
            sni={"a.example": "openssl"},
            default="python",
            terminate="here.example",
            tls={"certificates": [here]},
            proxy_protocol={"from": "127.0.0.0/24"},
            trusted_proxies="127.0.0.2",
        )
        config.pool("openssl", openssl.port).pool("nginx", nginx.port).pool("python", default)
        config.pool("origin", origin.port).route("all", pool="origin")
        async with running(config, directory=directory) as weirgate:
            yield Site(weirgate, origin, authority_file(directory))


@contextlib.asynccontextmanager
async def shaken(
    port: int,
    server_name: str | None,
    *,
    send: Send | None = None,
    context: ssl.SSLContext | None = None,
    before: bytes = b"",
    local: str | None = None,
) -> AsyncIterator[TlsWire]:
    """Shake hands through a listener; ``before`` goes in front of everything."""
    async with connect(port, local=local) as wire:
        if before:
            await wire.send(before)
        tls = TlsWire(wire, context or client_context(), server_name)
        await tls.handshake(send)
        yield tls


def no_name_context() -> ssl.SSLContext:
    context = client_context()
    context.check_hostname = False
    return context


@pytest.mark.parametrize(
    ("name", "certificate"),
    [
        ("a.example", "a.example"),
        ("b.example", "b.example"),
        ("x.b.example", "b.example"),
        ("other.example", "default.example"),
        ("here.example", "here.example"),
        ("x.here.example", "here.example"),
    ],
)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_the_certificate_is_that_of_the_name_s_place(
    site: Site, name: str, certificate: str, version: ssl.TLSVersion
) -> None:
    async with shaken(site.port(), name, context=client_context(version=version)) as tls:
        assert certificate in tls.certificate_names()


async def test_curl_sees_each_endpoint(site: Site) -> None:
    async def curl(name: str, path: str = "/") -> str:
        port = site.port()
        process = await asyncio.create_subprocess_exec(
            tool("curl"), "-sS", "--max-time", "10", "--cacert", str(site.ca),
            "--resolve", f"{name}:{port}:127.0.0.1", f"https://{name}:{port}{path}",
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
        assert process.returncode == 0, err.decode()
        return out.decode()

    assert "s_server" in await curl("a.example")
    assert await curl("b.example") == "nginx b.example  \n"
    assert '"target": "/x"' in await curl("here.example", "/x")
    entry = await site.weirgate.access.wait_for(lambda e: e.get("sni") == "b.example")
    assert (entry["protocol"], entry["pool"], entry["reason"]) == ("tls", "nginx", "")
    entry = await site.weirgate.access.wait_for(lambda e: e.get("path") == "/x")
    assert entry["listener"] == "mixed"


async def test_openssl_s_client_gets_the_endpoint_s_certificate(site: Site) -> None:
    async def subject(*options: str) -> str:
        process = await asyncio.create_subprocess_exec(
            tool("openssl"), "s_client", "-connect", f"127.0.0.1:{site.port()}",
            "-CAfile", str(site.ca), "-brief", *options,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        out, _ = await process.communicate()
        return out.decode()

    named = ("-verify_hostname", "a.example", "-servername", "a.example")
    shown = await subject(*named, "-verify_return_error")
    assert "Verification: OK" in shown, shown
    assert "Verified peername: a.example" in shown
    shown = await subject("-noservername", "-verify_hostname", "default.example")
    assert "Verified peername: default.example" in shown, shown


async def test_bytes_go_both_ways_and_the_log_tells_of_it(site: Site) -> None:
    async with shaken(
        site.port(), "other.example", context=client_context(alpn=("smtp", "imap"))
    ) as tls:
        client = tls.wire.local_port
        for data in (b"x", b"y" * 10_000):
            assert (await tls.exchange(data))[:1] == data[:1]
    entry = await site.weirgate.access.wait_for(lambda e: e["client"].endswith(f":{client}"))
    assert (entry["sni"], entry["alpn"]) == ("other.example", "smtp,imap")
    assert (entry["listener"], entry["pool"]) == ("mixed", "python")
    assert entry["bytes_in"] > 10_000 < entry["bytes_out"]
    assert 0 < entry["connect_us"] <= entry["total_us"]


@pytest.mark.parametrize("name", ["a.example", "other.example", "here.example"])
@pytest.mark.parametrize("record", [0, 1, 100])
@pytest.mark.parametrize("pieces", [whole, byte_by_byte])
async def test_a_hello_may_come_in_any_number_of_segments_and_records(
    site: Site, name: str, record: int, pieces: Send
) -> None:
    async def send(wire: Wire, hello: bytes) -> None:
        await pieces(wire, in_records(hello, record) if record else hello)

    async with shaken(site.port(), name, send=send) as tls:
        expected = "default.example" if name == "other.example" else name
        assert expected in tls.certificate_names()


@pytest.mark.parametrize("name", ["other.example", "here.example"])
@pytest.mark.parametrize("record", [0, 1400])
async def test_a_hello_of_15_kilobytes(site: Site, name: str, record: int) -> None:
    protocols = tuple(f"{number:03}".ljust(254, "x") for number in range(59))
    sizes = []

    async def send(wire: Wire, hello: bytes) -> None:
        sizes.append(len(hello))
        data = in_records(hello, record) if record else hello
        for at in range(0, len(data), 1000):
            await wire.send(data[at : at + 1000])

    context = client_context(alpn=("http/1.1", *protocols))
    async with shaken(site.port(), name, send=send, context=context) as tls:
        assert tls.certificate_names() & {"default.example", "here.example"}
    assert 15_000 < sizes[0] < 16_384


async def _answer(port: int, data: bytes, *, end: bool = False) -> bytes:
    async with connect(port) as wire:
        with contextlib.suppress(ConnectionError):
            await wire.send(data)
            if end:
                wire.half_close()
        return await wire.rest()


async def test_an_unknown_name_is_refused_with_an_alert(site: Site) -> None:
    port = site.port("strict")
    assert await _answer(port, client_hello("nobody.example")) == ALERT_UNRECOGNIZED_NAME
    assert await _answer(port, client_hello(None)) == ALERT_MISSING_EXTENSION
    with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized[ _]name"):
        async with shaken(port, "nobody.example"):
            pass
    with pytest.raises(ssl.SSLError, match=r"(?i)missing[ _]extension"):
        async with shaken(port, None, context=no_name_context()):
            pass
    entry = await site.weirgate.access.wait_for(
        lambda e: (e.get("sni"), e["reason"]) == ("nobody.example", "unknown_server_name")
    )
    assert (entry["pool"], entry["endpoint"]) == ("", "")
    assert (
        await site.weirgate.metric(
            "weirgate_edge_refused_total", listener="strict", reason="unknown_server_name"
        )
        >= 4
    )


async def test_a_refusal_is_no_reset(site: Site) -> None:
    """A reset would make other systems than Linux throw the alert away."""
    async with connect(site.port("strict")) as wire:
        await wire.send(client_hello("nobody.example") + b"more that nobody reads" * 10)
        assert await wire.exactly(7) == ALERT_UNRECOGNIZED_NAME
        await wire.send(b"and more")
        assert await wire.reader.read() == b""


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
        b"\x80\x2e\x01\x03\x01",
        b"\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",
        b"\x16\x03\x01\x00\x04\x01\xff\xff\xff",
        proxy_v1("192.0.2.7"),
    ],
    ids=["http", "ssl2", "empty-record", "server-hello", "16-megabytes", "proxy-header"],
)
async def test_what_is_not_a_client_hello_is_reset(site: Site, data: bytes) -> None:
    before = await site.weirgate.metric("weirgate_edge_refused_total", reason="bad_client_hello")
    async with connect(site.port("strict")) as wire:
        await wire.send(data)
        with pytest.raises(ConnectionResetError):
            await wire.exactly(1)
    assert await site.weirgate.counted("bad_client_hello") > before


async def test_a_hello_that_does_not_come_in_time(site: Site) -> None:
    hello = client_hello("a.example")
    loop = asyncio.get_running_loop()
    for part in (b"", hello[:1], hello[:-1]):
        began = loop.time()
        async with connect(site.port("strict")) as wire:
            if part:
                await wire.send(part)
            assert await wire.rest(within_s=5) == b""
        assert loop.time() - began >= HELLO_TIMEOUT_S
    assert await site.weirgate.counted("hello_timeout") >= 3


async def test_a_client_that_goes_before_its_hello_is_whole(site: Site) -> None:
    before = await site.weirgate.metric(
        "weirgate_edge_refused_total", listener="strict", reason="client_gone"
    )
    assert await _answer(site.port("strict"), client_hello("a.example")[:-1], end=True) == b""
    assert await _answer(site.port("strict"), b"", end=True) == b""

    async def counted() -> bool:
        now = await site.weirgate.metric(
            "weirgate_edge_refused_total", listener="strict", reason="client_gone"
        )
        return now >= before + 2

    await eventually(counted)


async def test_every_other_name_can_end_here(site: Site) -> None:
    for name in ("nobody.example", None):
        async with shaken(site.port("all"), name, context=no_name_context()) as tls:
            assert "here.example" in tls.certificate_names()
            answer = await tls.exchange(request("/all"))
            assert answer.startswith(b"HTTP/1.1 200 ")
    async with shaken(site.port("all"), "a.example") as tls:
        assert tls.certificate_names() == {"a.example"}


class Place:
    """A connection that holds a place of a listener until it is left."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.held = contextlib.AsyncExitStack()

    async def take(self) -> bool:
        """Try to get in; false = there is no place."""
        with contextlib.suppress(OSError):
            await self.held.enter_async_context(shaken(self.port, "here.example"))
            return True
        return False

    async def leave(self) -> None:
        await self.held.aclose()


async def test_limits_hold_for_what_was_handed_over_and_places_come_back(site: Site) -> None:
    first, second, third, *later = (Place(site.port("few")) for _ in range(5))
    for place in (first, second):
        await eventually(place.take, what="a place")
    assert not await third.take()
    assert await site.weirgate.counted("listener_full") >= 1
    await first.leave()
    await eventually(third.take, what="the place of one that has left")
    assert not await later[0].take()
    for gateway in site.weirgate.gateways():
        os.kill(gateway, signal.SIGKILL)
    for place in later:
        await eventually(place.take, what="the place of one whose gateway has ended")
    for place in (second, third, *later):
        await place.leave()


async def test_a_reload_moves_a_name(site: Site, tmp_path: Path) -> None:
    here = issue(tmp_path, "moved.example").yaml()
    async with python_tls("moved.example") as first, python_tls("second.example") as second:
        config = Configuration().listen("tls", protocol="tls", sni={"moved.example": "first"})
        config.pool("first", first).pool("second", second)
        config.route("pong", respond={"status": 200, "body": "pong"})
        async with running(config) as weirgate:
            port = weirgate.port("tls")
            async with shaken(port, "moved.example") as old:
                assert old.certificate_names() == {"moved.example"}
                config.data["listeners"]["tls"]["sni"] = {"moved.example": "second"}
                assert (await weirgate.reload(config)).status_code == 200
                async with shaken(port, "moved.example", context=no_name_context()) as tls:
                    assert tls.certificate_names() == {"second.example"}
                del config.data["listeners"]["tls"]["sni"]
                config.data["listeners"]["tls"] |= {
                    "terminate": ["moved.example"],
                    "tls": {"certificates": [here]},
                }
                assert (await weirgate.reload(config)).status_code == 200
                async with shaken(port, "moved.example") as tls:
                    assert b"pong" in await tls.exchange(request("/"))
                # what was open before has stayed where it was
                assert await old.exchange(b"still here") == b"still here"


@pytest.mark.parametrize("header", [proxy_v1("192.0.2.7"), proxy_v2("2001:db8::7")])
@pytest.mark.parametrize("send", [whole, byte_by_byte])
async def test_a_proxy_header_stands_in_front_of_the_hello(
    site: Site, header: bytes, send: Send
) -> None:
    source = "2001:db8::7" if b"QUIT" in header else "192.0.2.7"
    shown = f"[{source}]:4321" if ":" in source else f"{source}:4321"

    async def both(wire: Wire, hello: bytes) -> None:
        await send(wire, header + hello)

    async with shaken(site.port("proxied"), "a.example", send=both) as tls:
        client = f"127.0.0.1:{tls.wire.local_port}"
        assert tls.certificate_names() == {"a.example"}
    entry = await site.weirgate.access.wait_for(lambda e: e.get("peer") == client)
    assert (entry["client"], entry["sni"], entry["pool"]) == (shown, "a.example", "openssl")
    # handed over, the gateway must know the client, and whether the proxy is trusted
    async with shaken(site.port("proxied"), "here.example", send=both, local="127.0.0.2") as tls:
        await tls.exchange(request("/here", "X-Forwarded-For: 198.51.100.9"))
    assert "198.51.100.9" in str(site.origin.requests[-1].one("x-forwarded-for"))
    async with shaken(site.port("proxied"), "here.example", send=both) as tls:
        await tls.exchange(request("/here", "X-Forwarded-For: 198.51.100.9"))
    assert site.origin.requests[-1].one("x-forwarded-for") == source


async def test_a_trusted_peer_must_send_a_header(site: Site) -> None:
    async with connect(site.port("proxied")) as wire:
        await wire.send(client_hello("a.example"))
        with pytest.raises(ConnectionResetError):
            await wire.exactly(1)
    assert await site.weirgate.counted("bad_proxy_header") >= 1
    # from others it is not looked for: what it would be is no client hello
    async with connect(site.port("proxied"), local="127.0.1.1") as wire:
        await wire.send(proxy_v1("192.0.2.7") + client_hello("a.example"))
        with pytest.raises(ConnectionResetError):
            await wire.exactly(1)
    async with shaken(site.port("proxied"), "a.example", local="127.0.1.1") as tls:
        assert tls.certificate_names() == {"a.example"}
