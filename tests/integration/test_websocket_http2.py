"""WebSocket over HTTP/2 (RFC 8441): every version of the client, every version of the endpoint."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from http import HTTPStatus

import pytest
from websockets.asyncio.client import connect as websocket
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Opcode
from websockets.http11 import Request as Asked
from websockets.http11 import Response as Answer

from tests.support import certs, http2_servers
from tests.support.http2_client import Call, http2_client
from tests.support.http2_origin import Http2Origin, http2_origin
from tests.support.origin import Exchange, one_origin
from tests.support.strict import Response
from tests.support.websocket_stream import (
    StreamPipe,
    WebSocket,
    WirePipe,
    echo_bytes,
    echo_frames,
    over_http1,
    over_http2,
    refusing,
)
from tests.support.weirgate import Running, running
from weirgate.shared.testing import Configuration, eventually

pytestmark = pytest.mark.anyio

MEGABYTE = bytes(range(256)) * 4096
#: The endpoints, each behind a host of its own: the websockets package by HTTP/1.1, the h2 library
#: and hypercorn by HTTP/2.
HOSTS = ("websockets.test", "h2.test", "hypercorn.test")
VERSIONS = ("HTTP/1.1", "HTTP/2")
BOTH = pytest.mark.parametrize("version", VERSIONS)
EVERY = pytest.mark.parametrize(
    ("version", "host"), [(version, host) for version in VERSIONS for host in HOSTS]
)
FORBIDDEN = {"connection", "upgrade", "sec-websocket-key", "sec-websocket-accept"}


@dataclass(frozen=True)
class Site:
    weirgate: Running
    origin: Http2Origin

    @contextlib.asynccontextmanager
    async def asked(
        self, version: str, host: str, path: str = "/ws", **headers: str
    ) -> AsyncIterator[tuple[int, Response | Call, WebSocket]]:
        """Ask for a WebSocket; yield the status, the answer's head and the WebSocket."""
        more = tuple((name.replace("_", "-"), value) for name, value in headers.items())
        port = self.weirgate.port()
        if version == "HTTP/1.1":
            fields = [f"{name}: {value}" for name, value in more]
            async with over_http1(port, path, host, *fields) as (answer, wire):
                yield answer.status, answer, WebSocket(WirePipe(wire))
        else:
            async with http2_client(port) as client:
                assert client.extended_connect
                call = over_http2(client, path, host, *more)
                yield await call.status(), call, WebSocket(StreamPipe(call))

    @contextlib.asynccontextmanager
    async def open(self, version: str, host: str, path: str = "/ws") -> AsyncIterator[WebSocket]:
        async with self.asked(version, host, path) as (status, _, socket):
            assert status == (101 if version == "HTTP/1.1" else 200)
            yield socket


async def _talk(connection: ServerConnection) -> None:
    async for message in connection:
        if message == "close":
            await connection.close(4001, "as asked")
        await connection.send(message)


def _refuse(connection: ServerConnection, asked: Asked) -> Answer | None:
    if asked.path != "/refused":
        return None
    return connection.respond(HTTPStatus.FORBIDDEN, "not you")


async def _upgrade_bytes(exchange: Exchange) -> None:
    """Switch protocols without a right Sec-WebSocket-Accept."""
    await exchange.read()
    await exchange.send(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Accept: wrong\r\n\r\n"
    )


@pytest.fixture(scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    directory = tmp_path_factory.mktemp("websocket")
    tls = {"certificates": [certs.issue(directory, "weirgate.test").yaml()]}
    config = Configuration().listen("web").listen("secure", tls=tls)
    idle = {"upgrade_idle": "300ms"}
    for host in HOSTS:
        pool = host.partition(".")[0]
        waits = {"host": host, "path": "/idle"}
        config.route(f"{pool}-idle", match=waits, pool=pool, timeouts=idle)
        config.route(pool, match={"host": host}, pool=pool)
    config.route("raw", match={"host": "raw.test"}, pool="raw")
    config.route("old", match={"host": "old.test"}, pool="old")
    async with (
        serve(_talk, "127.0.0.1", 0, max_size=1 << 24, process_request=_refuse) as server,
        http2_origin(extended_connect=True) as origin,
        http2_origin() as old,
        one_origin() as raw,
        http2_servers.hypercorn(directory) as hypercorn,
    ):
        for path in ("/ws", "/idle", "/logged"):
            origin.on(path, echo_frames)
        origin.on("/bytes", echo_bytes)
        origin.on("/refused", refusing(403, b"not you"))
        raw.on("/ws", _upgrade_bytes)
        config.pool("websockets", next(iter(server.sockets)).getsockname()[1])
        config.pool("h2", origin.port, protocol="h2c")
        config.pool("hypercorn", hypercorn.port, protocol="h2c")
        config.pool("raw", raw.port)
        config.pool("old", old.port, protocol="h2c")
        async with running(config) as weirgate:
            yield Site(weirgate, origin)


@pytest.fixture(autouse=True)
async def nothing_is_left_open(site: Site) -> AsyncIterator[None]:
    """Whatever a test did: what its client has left is left towards the endpoint, too.

    But for hypercorn, which takes no notice of a client that ends its side.
    """
    yield

    async def all_ended() -> bool:
        name = "weirgate_endpoint_requests_in_flight"
        return not any(
            [await site.weirgate.metric(name, pool=pool) for pool in ("h2", "websockets")]
        )

    await eventually(all_ended, within_s=5, what="no open WebSocket")


@EVERY
async def test_messages_of_every_frame_size_come_back(site: Site, version: str, host: str) -> None:
    async with site.open(version, host) as socket:
        for size in (0, 1, 125, 126, 65_535, 65_536):
            await socket.send("x" * size)
            assert await socket.message() == ("x" * size, 1)
            await socket.send(MEGABYTE[:size])
            assert await socket.message() == (MEGABYTE[:size], 1)


@EVERY
async def test_a_megabyte_comes_back(site: Site, version: str, host: str) -> None:
    async with site.open(version, host) as socket, asyncio.TaskGroup() as group:
        group.create_task(socket.send(MEGABYTE))
        message, _ = await socket.message()
        assert message == MEGABYTE


@EVERY
async def test_fragments_and_what_comes_between_them(site: Site, version: str, host: str) -> None:
    async with site.open(version, host) as socket:
        await socket.send("one, ", "two, ", "three")
        message, frames = await socket.message()
        assert message == "one, two, three"
        assert frames == (3 if host == "h2.test" else 1)  # the others put messages together
        await socket.ping(b"there?")
        pong = await socket.data_frame()
        assert (pong.opcode, bytes(pong.data)) == (Opcode.PONG, b"there?")


@EVERY
async def test_the_server_closes_with_its_code(site: Site, version: str, host: str) -> None:
    async with site.open(version, host) as socket:
        await socket.send("close")
        assert await socket.closed() == (4001, "as asked")


@EVERY
async def test_the_client_closes_with_its_code(site: Site, version: str, host: str) -> None:
    async with site.open(version, host) as socket:
        await socket.send("before")
        assert await socket.message() == ("before", 1)
        await socket.close(4002, "enough")
        code, _ = await socket.closed()
        assert code in {4002, 1000}  # hypercorn answers with a code of its own


@EVERY
async def test_a_refusal_is_relayed_as_an_answer(site: Site, version: str, host: str) -> None:
    async with site.asked(version, host, "/refused") as (status, answer, _):
        assert status == 403
        if isinstance(answer, Call):
            reply = await answer.reply()
            assert not {name for name, _ in reply.headers} & FORBIDDEN
            assert host == "hypercorn.test" or b"not you" in reply.body
    # a client that was refused can go on
    async with site.open(version, host) as socket:
        await socket.send("again")
        assert await socket.message() == ("again", 1)


@EVERY
async def test_the_log_says_what_the_client_saw(site: Site, version: str, host: str) -> None:
    async with site.open(version, host, "/logged") as socket:
        await socket.send("hello")
        await socket.message()
        await socket.close()
        await socket.closed()
    # hypercorn resets the stream of a WebSocket that was closed well
    reasons = {"", "upstream_reset"} if host == "hypercorn.test" else {""}
    wanted = ("/logged", host.partition(".")[0], version)
    entry = await site.weirgate.access.wait_for(
        lambda e: (e.get("path"), e.get("route"), e["protocol"]) == wanted
    )
    assert entry["status"] == (101 if version == "HTTP/1.1" else 200)
    assert entry["reason"] in reasons


@EVERY
async def test_an_idle_websocket_is_ended(site: Site, version: str, host: str) -> None:
    async with site.open(version, host, "/idle") as socket:
        await socket.send("hello")
        assert await socket.message() == ("hello", 1)
        assert await socket.frame() is None
    route = f"{host.partition('.')[0]}-idle"
    await site.weirgate.access.wait_for(
        lambda e: (e.get("route"), e["protocol"], e["reason"]) == (route, version, "idle_timeout")
    )


@BOTH
async def test_one_side_may_end_before_the_other(site: Site, version: str) -> None:
    async with site.open(version, "h2.test", "/bytes") as socket:
        await socket.pipe.send(b"x" * 100_000, ends=True)
        got = b""
        async with asyncio.timeout(10):
            while data := await socket.pipe.receive():
                got += data
        assert got == b"x" * 100_000 + b"bye"


async def test_a_client_that_resets_resets_the_endpoint_s_stream(site: Site) -> None:
    before = len(site.origin.requests)
    async with site.open("HTTP/2", "h2.test") as socket:
        await socket.send("hello")
        await socket.message()
        assert isinstance(socket.pipe, StreamPipe)
        socket.pipe.stream.reset(8)
        (request,) = site.origin.requests[before:]
        async with asyncio.timeout(10):
            await request.ended.wait()
    assert request.reset_code == 8, "CANCEL"


async def test_the_handshake_is_translated(site: Site) -> None:
    """Subprotocols and the rest pass; what belongs to one version stays there."""
    for version in VERSIONS:
        before = len(site.origin.requests)
        more = {"sec_websocket_protocol": "chat, other", "x_own": "1", "origin": "http://a.test"}
        async with site.asked(version, "h2.test", "/ws?q=1", **more) as (_, answer, socket):
            if isinstance(answer, Call):
                assert answer.one("sec-websocket-protocol") == "chat"
                assert not {name for name, _ in answer.headers} & FORBIDDEN
            else:
                assert answer.one("sec-websocket-protocol") == "chat"
            await socket.send("x")
            assert await socket.message() == ("x", 1)
        (request,) = site.origin.requests[before:]
        seen = dict(request.headers)
        assert (seen[":method"], seen[":protocol"], seen[":path"]) == (
            *("CONNECT", "websocket"),
            "/ws?q=1",
        )
        assert (seen["x-own"], seen["origin"]) == ("1", "http://a.test")
        assert seen["sec-websocket-protocol"].replace(" ", "") == "chat,other"
        assert not seen.keys() & (FORBIDDEN | {"content-length", "transfer-encoding"})


async def test_an_endpoint_that_does_not_prove_its_handshake_is_not_believed(site: Site) -> None:
    """A client of HTTP/2 has no key to check it with: Weirgate made it, and must look itself."""
    async with site.asked("HTTP/2", "raw.test") as (status, _, _):
        assert status == 502


@BOTH
async def test_an_endpoint_without_extended_connect_gets_none(site: Site, version: str) -> None:
    async with site.asked(version, "old.test") as (status, _, _):
        assert status in {501, 502, 503}


async def test_the_websockets_client_over_tls_to_an_endpoint_of_http2(site: Site) -> None:
    """It checks the handshake, which Weirgate alone can have answered."""
    port = site.weirgate.port("secure")
    for host in ("h2.test", "hypercorn.test"):
        async with websocket(
            f"wss://{host}/ws",
            host="127.0.0.1",
            port=port,
            ssl=certs.client_context(),
            server_hostname="weirgate.test",
            proxy=None,
            max_size=1 << 24,
            compression=None,
        ) as connection:
            await connection.send(MEGABYTE)
            assert await connection.recv() == MEGABYTE
            assert await (await connection.ping()) >= 0
            await connection.send(["in ", "pieces"])
            assert await connection.recv() == "in pieces"
            await connection.send("close")
            with pytest.raises(ConnectionClosed) as closed:
                await connection.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "as asked")


async def test_the_websockets_client_is_told_of_a_refusal(site: Site) -> None:
    port = site.weirgate.port()
    with pytest.raises(InvalidStatus) as refused:
        async with websocket("ws://h2.test/refused", host="127.0.0.1", port=port, proxy=None):
            pass
    assert refused.value.response.status_code == 403


async def test_many_websockets_and_requests_share_a_connection(site: Site) -> None:
    async with http2_client(site.weirgate.port()) as client:

        async def talk(number: int) -> None:
            # hypercorn ends a connection on which a stream gets a byte too many
            call = over_http2(client, "/ws", ("websockets.test", "h2.test")[number % 2])
            assert await call.status() == 200
            socket = WebSocket(StreamPipe(call))
            for turn in range(20):
                await socket.send(f"{number}.{turn}")
                assert await socket.message() == (f"{number}.{turn}", 1)
            reply = await client.ask("/x", method="POST", body=b"y", authority="h2.test")
            assert reply.body == b"y"
            await socket.close()
            await socket.closed()

        async with asyncio.timeout(30):
            await asyncio.gather(*[talk(number) for number in range(30)])
    assert not site.origin.malformed
