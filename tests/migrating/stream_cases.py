"""TCP, TLS that stays closed, and UDP: what a client does, and what it saw."""

import asyncio
import contextlib
import re
import socket
import ssl
import struct
from pathlib import Path

from tests.migrating.site import Product, Site, started
from tests.migrating.visitor import Case, Seen
from tests.support.certs import client_context
from tests.support.proxied import SIGNATURE
from tests.support.tcp import Handler, tcp_server
from tests.support.tls_peers import python_tls
from tests.support.udp import UdpClient, udp_client, udp_server
from tests.support.wire import connect

#: So many that nobody is left out by chance.
MANY = 24


async def tcp(product: Product, directory: Path) -> Seen:
    """A database that is told who the client is; then one of two is dead."""
    async with tcp_server(_database("a")) as a, tcp_server(_database("b")) as b:
        site = Site("tcp", directory, listens=(5432,)).endpoints(
            a.port, b.port, first="10.0.0.1:5432"
        )
        async with started(product, site):
            port = site.port(5432)
            answers = [await _hello(port) for _ in range(MANY)]
            seen = {f"{MANY} connections": " and ".join(sorted({who for who, _ in answers}))}
            seen["the application is told"] = answers[0][1]
            a.close()
            late = [await _hello(port) for _ in range(MANY)]
            seen[f"a is dead, {MANY} connections"] = " and ".join(sorted({who for who, _ in late}))
            async with connect(port) as wire:
                await wire.exactly(len(_GREETING))
                await wire.send(b"last words")
                wire.half_close()
                seen["the client ends its side first"] = _all(await wire.rest())
    return seen


_GREETING = b"X v0 000.000.000.000:00000 "


def _database(name: str) -> Handler:
    """A server that wants a PROXY header, says who came, and repeats what it hears."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            version, address, port = await _read_header(reader)
            writer.write(f"{name} {version} {address:0>15}:{port:0>5} ".encode())
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()

    return serve


async def _read_header(reader: asyncio.StreamReader) -> tuple[str, str, int]:
    first = await reader.readexactly(len(SIGNATURE))
    if not first.startswith(b"PROXY"):
        assert first == SIGNATURE, first
        _, _, length = struct.unpack("!BBH", await reader.readexactly(4))
        rest = await reader.readexactly(length)
        if length < 12:  # a check of HAProxy's, which speaks for nobody
            return "v2", "", 0
        return "v2", socket.inet_ntoa(rest[:4]), struct.unpack_from("!H", rest, 8)[0]
    _, _, source, _, port, _ = (first + await reader.readline()).decode().split(" ")
    return "v1", source, int(port)


async def _hello(port: int) -> tuple[str, str]:
    """Return who answered, and what it was told of us."""
    async with connect(port) as wire:
        name, version, client, _ = (await wire.exactly(len(_GREETING))).decode().split(" ")
        host, _, source = client.partition(":")
        own = int(source) == wire.local_port and host.lstrip("0") == "127.0.0.1"
        return name, f"the client, by {version}" if own else f"{client}, by {version}"


def _all(rest: bytes) -> str:
    return "gets all of the answer" if rest == b"last words" else f"gets {rest!r}"


async def passthrough(product: Product, directory: Path) -> Seen:
    """TLS that ends in the applications, by the name that the client asks for."""
    async with python_tls("mail.example") as mail, python_tls("*.shop.example") as shop:
        site = Site("passthrough", directory, listens=(443,))
        async with started(product, site.endpoints(mail, shop, first="10.0.0.1:443")):
            asked = ("mail.example", "anna.shop.example", "other.example", None)
            return {
                f"TLS for {name}" if name else "TLS without a name": await _shown(
                    site.port(443), name
                )
                for name in asked
            }


async def _shown(port: int, name: str | None) -> str:
    """Say whose certificate came, or how the handshake ended."""
    context = client_context()
    context.check_hostname = False
    try:
        async with connect(port, tls=context, server_name=name or "") as wire:
            shown = wire.writer.get_extra_info("ssl_object").getpeercert()
            return f"certificate of {shown['subjectAltName'][0][1]}"
    except (ConnectionError, ssl.SSLEOFError):
        return "closed"
    except ssl.SSLError as error:
        reason = re.sub(r"^TLSV\d+_(ALERT_)?", "", error.reason or "")
        return f"alert: {reason.lower().replace('_', ' ')}"


async def udp(product: Product, directory: Path) -> Seen:
    """Questions of many clients; then one of two servers is dead."""
    async with udp_server() as a, udp_server() as b:
        site = Site("udp", directory, listens=(53,), kind=socket.SOCK_DGRAM)
        site.endpoints(a.port, b.port, first="10.0.0.1:53")
        known = {a.port: "a", b.port: "b"}
        async with started(product, site):

            async def asked() -> str:
                found = set()
                for _ in range(8):
                    async with udp_client(site.port(53)) as client:
                        found.add(known[int((await _answer(client)).partition(b":")[0])])
                return " and ".join(sorted(found))

            seen = {"8 clients ask": await asked()}
            a.transport.close()
            seen["a is dead, 8 clients ask until answered"] = await asked()
    return seen


async def _answer(client: UdpClient) -> bytes:
    while not (answer := await client.ask_until_answered(b"who?")):
        pass  # nginx's for a dead endpoint: an empty datagram
    return answer


CASES: dict[str, Case] = {"tcp": tcp, "passthrough": passthrough, "udp": udp}
