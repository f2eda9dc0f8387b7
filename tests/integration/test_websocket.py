"""WebSockets and other upgrades: bytes both ways, closing from either side, idle ends."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as websocket
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, ConnectionClosedOK, InvalidStatus

from tests.support import certs
from tests.support.origin import Origin, one_origin, upgrade_echo
from tests.support.weirgate import Running, running
from tests.support.wire import connect, request
from weirgate.shared.testing import Configuration

pytestmark = pytest.mark.anyio

UPGRADE = ("Connection: Upgrade", "Upgrade: echo")


@dataclass(frozen=True)
class Site:
    origin: Origin
    weirgate: Running

    def url(self, path: str = "/ws") -> str:
        return f"ws://127.0.0.1:{self.weirgate.port()}{path}"


async def _talk(connection: ServerConnection) -> None:
    async for text in connection:
        if text == "close":
            await connection.close(4001, "as asked")
        await connection.send(text)


@pytest.fixture(scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    cert = certs.issue(tmp_path_factory.mktemp("certs"), "weirgate.test")
    config = Configuration(workers=2).listen("web")
    config.listen("secure", tls={"certificates": [cert.yaml()]})
    config.route("ws", match={"path": "/ws"}, pool="ws")
    config.route("idle", match={"path": "/idle"}, pool="raw", timeouts={"upgrade_idle": "300ms"})
    config.route("raw", pool="raw")
    async with (
        serve(_talk, "127.0.0.1", 0, max_size=1 << 24) as server,
        one_origin() as origin,
    ):
        config.pool("ws", next(iter(server.sockets)).getsockname()[1])
        config.pool("raw", origin.on("/raw", upgrade_echo).on("/idle", upgrade_echo).port)
        async with running(config) as weirgate:
            yield Site(origin, weirgate)


def client(url: str) -> websocket:
    return websocket(url, proxy=None, max_size=1 << 24, open_timeout=10)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_536, 2_000_000])
async def test_messages_of_every_frame_size_come_back(site: Site, size: int) -> None:
    async with client(site.url()) as connection:
        await connection.send("x" * size)
        assert await connection.recv() == "x" * size
        await connection.send(b"\xff" * size)
        assert await connection.recv() == b"\xff" * size


async def test_pings_pass(site: Site) -> None:
    async with client(site.url()) as connection, asyncio.timeout(10):
        assert await (await connection.ping()) >= 0


async def test_server_closes_with_its_code(site: Site) -> None:
    async with client(site.url()) as connection:
        await connection.send("close")
        with pytest.raises(ConnectionClosed) as closed:
            await connection.recv()
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "as asked")


async def test_client_closes_cleanly(site: Site) -> None:
    connection = await client(site.url())
    await connection.close()
    with pytest.raises(ConnectionClosedOK):
        await connection.recv()


async def test_many_at_once_do_not_mix(site: Site) -> None:
    async def talk(number: int) -> list[str | bytes]:
        async with client(site.url()) as connection:
            return [await _say(connection, f"{number}.{n}") for n in range(20)]

    async with asyncio.TaskGroup() as group:
        talks = [group.create_task(talk(number)) for number in range(50)]
    for number, finished in enumerate(talks):
        assert finished.result() == [f"{number}.{n}" for n in range(20)]


async def test_over_tls(site: Site) -> None:
    url = f"wss://127.0.0.1:{site.weirgate.port('secure')}/ws"
    context = certs.client_context()
    async with websocket(url, ssl=context, server_hostname="weirgate.test", proxy=None) as secure:
        assert await _say(secure, "hello") == "hello"


async def test_refused_upgrade_is_relayed_as_an_answer(site: Site) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with client(site.url("/nothing")):
            pass
    assert refused.value.response.status_code == 200


async def test_bytes_behind_the_handshake_are_not_lost(site: Site) -> None:
    async with connect(site.weirgate.port()) as wire:
        await wire.send(request("/raw", *UPGRADE) + b"early")
        response = await wire.response()
        assert (response.status, response.one("upgrade")) == (101, "echo")
        assert await wire.exactly(5) == b"early"
        wire.half_close()
        assert await wire.rest() == b""
    entry = await site.weirgate.access.of("/raw")
    assert (entry["status"], entry["reason"]) == (101, "")
    assert entry["bytes_out"] >= 5


async def test_idle_upgrade_is_ended(site: Site) -> None:
    async with connect(site.weirgate.port()) as wire:
        await wire.send(request("/idle", *UPGRADE))
        assert (await wire.response()).status == 101
        assert await wire.rest(within_s=5) == b""
    assert (await site.weirgate.access.of("/idle"))["reason"] == "idle_timeout"


async def _say(connection: ClientConnection, text: str) -> str | bytes:
    await connection.send(text)
    return await connection.recv()


async def test_large_messages_over_tls_do_not_stick_in_the_session(site: Site) -> None:
    """A TLS session takes more than its socket does; the rest must follow without further bytes."""
    port = site.weirgate.port("secure")
    context = certs.client_context()
    context.check_hostname = False
    message = "x" * (1 << 23)
    url = f"wss://127.0.0.1:{port}/ws"
    name = "weirgate.test"
    async with websocket(
        url, ssl=context, server_hostname=name, proxy=None, max_size=1 << 24
    ) as connection:
        for _ in range(3):
            await connection.send(message)
            async with asyncio.timeout(20):
                assert await connection.recv() == message
