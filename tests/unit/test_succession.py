"""An edge whose successor is no good serves on as if nothing was; a good one serves everything."""

import asyncio
import contextlib
import json
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.support.tcp import tcp_server
from tests.support.udp import LOCAL, udp_client, udp_server
from weirgate.shared import native
from weirgate.shared.config import compile_snapshot, load
from weirgate.shared.testing import Configuration, eventually

pytestmark = pytest.mark.anyio

Peer = Callable[[socket.socket], None]


class Plane:
    """An edge data plane in this process, with one tcp and one udp listener."""

    def __init__(self, config: Configuration, directory: Path) -> None:
        file = directory / "weirgate.yaml"
        config.write(file)
        snapshot = compile_snapshot(load(file, {}), cookie_secret="0" * 64)
        self.tcp = socket.create_server((LOCAL, config.port("stream")))
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind((LOCAL, config.port("voice")))
        self.page = native.LoadPage.create(1)
        self.board = native.PlaceBoard.create(2)
        self.ports = {name: config.port(name) for name in ("stream", "voice")}
        self._snapshot = snapshot.data

    def start(self, region: int, succession: socket.socket | None = None) -> native.EdgeDataPlane:
        document = {
            "name": "edge-0",
            "index": 0,
            "generation": 1,
            "endpoints": [],
            "load_page_fd": os.dup(self.page.fd),
            "gateways": 1,
            "rate_table_fd": native.create_rate_table(),
            "byte_table_fd": native.create_rate_table(),
            "places_fd": os.dup(self.board.fd),
            "regions": 2,
            "region": region,
            "salt": 7,
            "handoff_fds": [],
            "listener_fds": {
                f"stream|{LOCAL}:{self.ports['stream']}": os.dup(self.tcp.fileno()),
                f"voice|udp:{LOCAL}:{self.ports['voice']}": os.dup(self.udp.fileno()),
            },
            "snapshot": json.loads(self._snapshot),
        }
        if succession is not None:
            document["succession_fd"] = succession.detach()
        edge = native.EdgeDataPlane(json.dumps(document).encode())
        edge.start()
        return edge

    def close(self) -> None:
        self.tcp.close()
        self.udp.close()


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[Plane]:
    config = Configuration().logs(access={"to": "off"})
    config.listen("stream", protocol="tcp", pool="stream", connections_per_source=2)
    config.listen("voice", protocol="udp", pool="voice")
    async with tcp_server() as server, udp_server() as udp:
        config.pool("stream", server.port).pool("voice", udp.port)
        made = Plane(config, tmp_path)
        yield made
        made.close()


def refuses(peer: socket.socket) -> None:
    while b'"end"' not in peer.recv(4096):
        pass
    peer.send(b"-no room")
    peer.close()


def ends_early(peer: socket.socket) -> None:
    peer.recv(4096)
    peer.close()


def ends_unanswered(peer: socket.socket) -> None:
    while b'"end"' not in peer.recv(4096):
        pass
    peer.close()


@contextlib.asynccontextmanager
async def stream(port: int) -> AsyncIterator[bytes]:
    """Open a stream and hold it; what it echoes of one byte, or nothing where it is refused."""
    answer = b""
    try:
        reader, writer = await asyncio.open_connection(LOCAL, port)
    except ConnectionError:  # the reset was faster
        yield answer
        return
    try:
        with contextlib.suppress(ConnectionError):
            writer.write(b"x")
            answer = await reader.read(1)
        yield answer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def echoes(port: int) -> bool:
    async with stream(port) as answer:
        return answer == b"x"


def pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


@pytest.mark.parametrize(
    ("peer", "why"),
    [
        (refuses, "the new process refused: no room"),
        (ends_early, "the new process( has ended| did not answer|: .*(reset|pipe))"),
        (ends_unanswered, "the new process did not answer"),
    ],
)
async def test_a_peer_that_does_not_take_over_changes_nothing(
    plane: Plane, peer: Peer, why: str
) -> None:
    edge = plane.start(0)
    try:
        async with udp_client(plane.ports["voice"]) as client:
            before = await client.ask(b"before")
            assert await echoes(plane.ports["stream"])
            ours, theirs = pair()
            thread = threading.Thread(target=peer, args=(theirs,))
            thread.start()
            with pytest.raises(ValueError, match=why):
                await asyncio.to_thread(edge.hand_over, ours.detach())
            await asyncio.to_thread(thread.join)
            assert await echoes(plane.ports["stream"])
            assert (await client.ask(b"after")).split(b":")[0] == before.split(b":")[0]
            assert json.loads(edge.status())["connections"] >= 1
    finally:
        edge.stop()


async def test_a_successor_serves_nothing_before_and_everything_after(plane: Plane) -> None:
    old = plane.start(0)
    ours, theirs = pair()
    new = plane.start(1, theirs)
    try:
        async with udp_client(plane.ports["voice"]) as client:
            await client.ask(b"one")
            assert json.loads(new.status())["standby"] is True
            assert json.loads(new.status())["connections"] == 0
            await asyncio.to_thread(old.hand_over, ours.detach())
            status = json.loads(new.status())
            assert (status["standby"], status["connections"]) == (False, 1)
            assert json.loads(old.status())["connections"] == 0
            await client.ask(b"two")
            assert await echoes(plane.ports["stream"])
            accepted = [entry["accepted_total"] for entry in json.loads(new.status())["listeners"]]
            assert sorted(accepted) == [0, 1], "the session is no new one"
    finally:
        old.stop()
        new.stop()


async def test_a_limit_counts_what_the_predecessor_still_has(plane: Plane) -> None:
    old = plane.start(0)
    ours, theirs = pair()
    new = plane.start(1, theirs)
    port = plane.ports["stream"]
    try:
        async with contextlib.AsyncExitStack() as held:
            async with stream(port) as first:
                await asyncio.to_thread(old.hand_over, ours.detach())
                assert (first, await held.enter_async_context(stream(port))) == (b"x", b"x")
                assert not await echoes(port)
            await eventually(lambda: echoes(port), what="the place of a stream of the old process")
    finally:
        old.stop()
        new.stop()


async def test_a_predecessor_of_a_version_that_is_not_known_is_refused(plane: Plane) -> None:
    ours, theirs = pair()
    new = plane.start(0, theirs)
    try:
        ours.send(b'{"kind":"begin","version":99}')
        ours.settimeout(5)
        assert await asyncio.to_thread(ours.recv, 4096) == b"-it speaks version 99, wanted 1"
        assert json.loads(new.status())["standby"] is True
    finally:
        ours.close()
        new.stop()
