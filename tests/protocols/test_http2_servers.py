"""HTTP/2 to other people's servers: in cleartext, over TLS, and as ALPN decides."""

import asyncio
import contextlib
import hashlib
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import certs, http2_servers
from tests.support.http2_client import Reply, http2_client
from tests.support.http2_origin import Http2Origin, Request, http2_origin, reply, trailing
from tests.support.http2_streams import Fields
from tests.support.load import load
from tests.support.origin import one_origin
from tests.support.peers import Peer
from tests.support.weirgate import Running, running
from tests.support.wire import connect, request
from weirgate.shared.testing import Configuration, eventually, free_port

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

NAME = "app.test"
MEGABYTE = bytes(range(256)) * 4096
#: The server, and how the pool speaks to it.
SERVERS = [
    *(("nginx", "h2"), ("nginx", "auto"), ("nginx", "http1")),
    *(("hypercorn", "h2c"), ("hypercorn", "h2"), ("hypercorn", "auto")),
    *(("nghttpd", "h2c"), ("nghttpd", "h2"), ("nghttpd", "auto")),
    *(("envoy", "h2c"), ("envoy", "h2"), ("envoy", "auto")),
]


@dataclass(frozen=True)
class Site:
    server: str
    protocol: str
    weirgate: Running

    async def ask(self, version: str, path: str, *more: tuple[str, str], **settings: Any) -> Reply:
        if version == "HTTP/2":
            async with http2_client(self.weirgate.port()) as client:
                return await client.ask(path, *more, **settings)
        return await _ask_http1(self.weirgate.port(), path, more, **settings)


async def _ask_http1(
    port: int, path: str, more: Fields, *, method: str = "GET", body: bytes = b""
) -> Reply:
    fields = [f"{name}: {value}" for name, value in more]
    async with connect(port) as wire:
        await wire.send(request(path, *fields, method=method, body=body))
        answer = await wire.response(method)
    headers = tuple((name.lower(), value) for name, value in answer.headers)
    trailers = tuple((name.lower(), value) for name, value in answer.trailers)
    return Reply(answer.status, headers, answer.body, trailers, None)


@contextlib.asynccontextmanager
async def served(server: str, protocol: str, directory: Path) -> AsyncIterator[Peer]:
    """Run the server as the protocol needs it."""
    tls = certs.issue(directory, NAME) if protocol in {"h2", "auto", "http1"} else None
    async with contextlib.AsyncExitStack() as stack:
        if server == "nginx":
            assert tls is not None
            echo = await stack.enter_async_context(one_origin())
            run = http2_servers.nginx(directory, tls, echo=echo.port)
        elif server == "hypercorn":
            run = http2_servers.hypercorn(directory, tls)
        elif server == "nghttpd":
            run = http2_servers.nghttpd(directory, tls)
        else:
            origin = await stack.enter_async_context(http2_origin())
            run = http2_servers.envoy(directory, _scripted(origin).port, tls)
        yield await stack.enter_async_context(run)


def _scripted(origin: Http2Origin) -> Http2Origin:
    async def file(request: Request) -> None:
        fresh = request.one("if-none-match") == '"a"'
        await reply(304 if fresh else 200, b"" if fresh else b"hello", ("etag", '"a"'))(request)

    async def hello(request: Request) -> None:
        head = request.one(":method") == "HEAD"
        await reply(200, b"" if head else b"hello", ("content-length", "5"))(request)

    origin.on("/hello", hello).on("/file", file).on("/204", reply(204))
    return origin.on("/trailers", trailing(b"hello", ("x-sum", "2")))


def pool_settings(protocol: str, directory: Path) -> dict[str, Any]:
    """Return what a pool needs for a protocol."""
    if protocol == "h2c":
        return {"protocol": protocol}
    authority = str(certs.authority_file(directory))
    return {"protocol": protocol, "tls": {"ca": authority, "server_name": NAME}}


@pytest.fixture(scope="module", params=SERVERS, ids="-".join)
async def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Site]:
    server, protocol = request.param
    directory = tmp_path_factory.mktemp(f"{server}-{protocol}")
    async with served(server, protocol, directory) as peer:
        config = Configuration().listen("web").route("all", pool="app")
        config.pool("app", peer.port, **pool_settings(protocol, directory))
        async with running(config) as weirgate:
            yield Site(server, protocol, weirgate)


VERSIONS = pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/2"])


@VERSIONS
async def test_get_and_head(site: Site, version: str) -> None:
    got = await site.ask(version, "/hello")
    assert (got.status, got.body) == (200, b"hello")
    head = await site.ask(version, "/hello", method="HEAD")
    assert (head.status, head.body) == (200, b"")


@VERSIONS
async def test_a_megabyte_comes_back(site: Site, version: str) -> None:
    got = await site.ask(version, "/echo", method="POST", body=MEGABYTE)
    assert got.status == 200
    digest = hashlib.sha256(MEGABYTE).hexdigest().encode()
    assert got.body == MEGABYTE or digest in got.body


@VERSIONS
async def test_trailers_pass(site: Site, version: str) -> None:
    if site.protocol == "http1":
        pytest.skip("nginx sends none over HTTP/1.1 with a Content-Length")
    wants = [("te", "trailers")] + [("connection", "te")] * (version == "HTTP/1.1")
    got = await site.ask(version, "/trailers", *wants)
    # HTTP/1.1 has no place for trailers behind a body of a known length
    possible = version == "HTTP/2" or not got.one("content-length")
    assert (got.status, got.body) == (200, b"hello")
    assert dict(got.trailers).get("x-sum") == ("2" if possible else None)


@VERSIONS
async def test_answers_without_a_body(site: Site, version: str) -> None:
    if site.server != "nghttpd":  # has none of this kind
        got = await site.ask(version, "/204")
        assert (got.status, got.body) == (204, b"")
    file = await site.ask(version, "/file")
    assert file.status == 200
    name, value = ("if-none-match", file.one("etag"))
    if not value:
        name, value = ("if-modified-since", file.one("last-modified"))
    got = await site.ask(version, "/file", (name, value))
    assert (got.status, got.body) == (304, b"")


async def test_many_at_once_keep_apart(site: Site) -> None:
    bodies = [b"%d " % number * 500 for number in range(300)]
    async with http2_client(site.weirgate.port()) as client:
        streams = asyncio.Semaphore(90)

        async def one(body: bytes) -> None:
            async with streams:
                got = await client.ask("/echo", method="POST", body=body)
            assert got.status == 200
            assert got.body == body or hashlib.sha256(body).hexdigest().encode() in got.body

        async with asyncio.timeout(60):
            await asyncio.gather(*[one(body) for body in bodies])


async def test_a_server_that_is_restarted_twice_under_load_fails_no_get(tmp_path: Path) -> None:
    """It says GOAWAY; what it never began is sent to the other one."""
    port, files = free_port(), certs.issue(tmp_path, NAME)
    config = Configuration().listen("web").route("all", pool="app")
    async with http2_servers.nginx(tmp_path, files) as stays:
        config.pool("app", stays.port, port, **pool_settings("h2", tmp_path))
        async with running(config) as weirgate, load(weirgate.port(), "/hello") as counts:
            for _ in range(2):
                async with http2_servers.nginx(tmp_path, files, port=port):
                    await more(counts, 300)
                await more(counts, 100)
        assert not counts.failures, counts.kinds()


async def test_nginx_is_reloaded_and_ends_connections_under_load(tmp_path: Path) -> None:
    """Its workers say GOAWAY when they are replaced, and every 50 requests on their own."""
    files = certs.issue(tmp_path, NAME)
    config = Configuration().listen("web").route("all", pool="app")
    async with http2_servers.nginx(tmp_path, files, requests=50) as peer:
        config.pool("app", peer.port, **pool_settings("h2", tmp_path))
        async with running(config) as weirgate, load(weirgate.port(), "/hello") as counts:
            for _ in range(3):
                await more(counts, 500)
                os.kill(peer.pid, signal.SIGHUP)
            await more(counts, 500)
        assert not counts.failures, counts.kinds()


async def more(counts: Any, number: int) -> None:
    """Wait for so many further answers."""
    wanted = counts.ok + number
    await eventually(
        lambda: counts.ok >= wanted,
        within_s=30,
        what="further answers",
        explain=lambda: str(counts.kinds()),
    )


async def test_what_a_goaway_says_was_never_begun_is_sent_again_a_post_too() -> None:
    """The server takes the first request, says GOAWAY for it, and forgets the second one."""
    both = asyncio.Event()

    async def first(request: Request) -> None:
        await request.body()
        await both.wait()
        request.head(200)
        await request.send(b"first", ends=True)

    async with http2_origin() as origin:
        origin.on("/first", first)
        config = Configuration().listen("web").route("all", pool="app")
        config.pool("app", origin.port, protocol="h2c")
        async with running(config) as weirgate, http2_client(weirgate.port()) as client:
            slow = asyncio.create_task(client.ask("/first", method="POST", body=b"1"))
            await eventually(lambda: origin.asked("/first"), what="the first request")
            (connection,) = origin.connections
            connection.hold_back()
            lost = asyncio.create_task(client.ask("/second", method="POST", body=b"2"))
            await eventually(lambda: connection.forgotten, what="a request that is not begun")
            connection.goodbye()
            assert (await lost).body == b"2"
            both.set()
            assert (await slow).body == b"first"
    assert len(origin.connections) == 2


async def test_a_pool_that_wants_h2_refuses_a_server_without_it(tmp_path: Path) -> None:
    context = certs.server_context(NAME)
    context.set_alpn_protocols(["http/1.1"])
    async with one_origin(context) as origin:
        for protocol, status, reason in [("h2", 502, "upstream_"), ("auto", 200, "")]:
            config = Configuration().listen("web").route("all", pool="app")
            config.pool("app", origin.port, **pool_settings(protocol, tmp_path))
            async with running(config) as weirgate, http2_client(weirgate.port()) as client:
                got = await client.ask("/x")
                assert got.status == status
                assert got.one("weirgate-reason").startswith(reason)
