"""TLS, limits, addresses and WebSockets: what a client does, and what it saw."""

import asyncio
import contextlib
import time
from pathlib import Path

from websockets.asyncio.client import connect as websocket
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from tests.migrating.site import Product, Site, started
from tests.migrating.visitor import ELSEWHERE, Case, Seen, ask, two, who
from tests.support.certs import client_context, issue
from tests.support.origin import answer, echoed, held, one_origin, origins
from tests.support.wire import connect, get, request

CLIENT = "203.0.113.7"
#: What stands in the place of ten minutes and of thirty seconds while a test waits for them.
SOON = {"10m": "1s", "30s": "1s"}


async def tls(product: Product, directory: Path) -> Seen:
    """Certificates by name, and the plain port that only sends elsewhere."""
    for name in ("shop.example", "blog.example"):
        files = issue(directory, name)
        files.cert.rename(files.cert.with_suffix(".crt"))
    places = {"/etc/certs": str(directory)}
    async with origins("a", "b") as (a, b):
        site = Site("tls", directory, listens=(80, 443), places=places)
        async with started(product, site.endpoints(a.port, b.port)):
            moved = [
                await get(site.port(80), "/a?b=c", host=host)
                for host in ("shop.example", "shop.example:80")
            ]
            secure = site.port(443)
            return {
                "http://shop.example/a?b=c": f"{moved[0].status} {moved[0].one('location')}",
                "http://shop.example:80/a?b=c": f"{moved[1].status} {moved[1].one('location')}",
                "https://shop.example/": await _over_tls(secure, "shop.example"),
                "https://blog.example/": await _over_tls(secure, "blog.example"),
                "TLS for another name": await _over_tls(secure, "other.example"),
                "TLS without a name": await _over_tls(secure, None),
                "offered h2": await _chosen(secure),
            }


async def _over_tls(port: int, name: str | None) -> str:
    """Say for which names the certificate is, and who answered."""
    context = client_context(alpn=("http/1.1",))
    context.check_hostname = False  # a certificate for another name is an answer, too
    async with connect(port, tls=context, server_name=name or "") as wire:
        shown = wire.writer.get_extra_info("ssl_object").getpeercert()
        subject = ", ".join(value for _, value in shown["subjectAltName"])
        response = await wire.exchange(request(host=name or "shop.example"))
        return f"certificate of {subject}; {who(response)}"


async def _chosen(port: int) -> str:
    context = client_context(alpn=("h2", "http/1.1"))
    async with connect(port, tls=context, server_name="shop.example") as wire:
        return str(wire.writer.get_extra_info("ssl_object").selected_alpn_protocol())


async def rate_limit(product: Product, directory: Path) -> Seen:
    """Too many logins from one address, and what else it and others may do meanwhile."""
    async with one_origin() as origin:
        site = Site("rate-limit", directory).endpoints(origin.port)
        async with started(product, site):
            answers = [await get(site.port(), "/login") for _ in range(8)]
            other = await get(site.port(), "/")
            elsewhere = await ask(site.port(), "/login", local=ELSEWHERE)
            return {
                "8 GETs of /login": _counted([one.status for one in answers]),
                "it is told when to come back": "yes" if answers[-1].one("retry-after") else "no",
                "GET / by the same client": str(other.status),
                "GET /login by another one": str(elsewhere.status),
            }


def _counted(statuses: list[int]) -> str:
    return ", ".join(f"{statuses.count(status)} of {status}" for status in sorted(set(statuses)))


async def client_address(product: Product, directory: Path) -> Seen:
    """Who the client is, by its own word, by a known proxy's, and by both."""
    proxy = {"10.9.0.0/16": f"{ELSEWHERE}/32"}
    async with two("client-address", product, directory, **proxy) as (port, (a, _)):
        a.on("/edited", answer(200, b"", "X-Powered-By: PHP"))
        said = f"X-Forwarded-For: {CLIENT}"

        async def told(*fields: str, local: str | None = None) -> str:
            seen = echoed(await ask(port, "/", *fields, local=local))
            return f"{', '.join(seen.all('x-forwarded-for'))}; {seen.one('x-forwarded-proto')}"

        seen = {
            "a stranger": await told(),
            "a stranger who claims to be another": await told(said, "X-Forwarded-Proto: https"),
            "the proxy, for a client": await told(
                said, "X-Forwarded-Proto: https", local=ELSEWHERE
            ),
            "the proxy, for a client that claims to be another": await told(
                f"X-Forwarded-For: 192.0.2.99, {CLIENT}",
                "X-Forwarded-Proto: http",
                local=ELSEWHERE,
            ),
        }
        seen["X-Shop, as the application sees it"] = echoed(await get(port)).one("x-shop")
        edited = await get(port, "/edited")
        seen["X-Frame-Options of the answer"] = edited.one("x-frame-options") or "none"
        seen["X-Powered-By of the answer"] = edited.one("x-powered-by") or "none"
    return seen


async def web_socket(product: Product, directory: Path) -> Seen:
    """Messages both ways, then silence; and an answer that does not come."""
    never = asyncio.Event()
    async with serve(_repeat, "127.0.0.1", 0, ping_interval=None) as server, one_origin() as app:
        chat = next(iter(server.sockets)).getsockname()[1]
        site = Site("websocket", directory, places=SOON)
        app.on("/slow", held(never))
        async with started(product, site.endpoints(chat, app.port)):
            port = site.port()
            seen = {"three messages on /chat": await _messages(port)}
            seen["GET /, an application that does not answer"] = str(
                (await get(port, "/slow")).status
            )
            never.set()
    return seen


async def _repeat(connection: ServerConnection) -> None:
    with contextlib.suppress(ConnectionClosed):
        async for text in connection:
            await connection.send(text)


async def _messages(port: int) -> str:
    url = f"ws://127.0.0.1:{port}/chat"
    async with websocket(url, proxy=None, ping_interval=None, open_timeout=10) as connection:
        for text in ("one", "two", "three"):
            await connection.send(text)
            assert await connection.recv() == text
        began = time.monotonic()
        with contextlib.suppress(ConnectionClosed):
            async with asyncio.timeout(10):
                await connection.recv()
        assert time.monotonic() - began > 0.9, "closed too early"
    return "come back; closed after the silence"


CASES: dict[str, Case] = {
    "tls": tls,
    "rate-limit": rate_limit,
    "client-address": client_address,
    "websocket": web_socket,
}
