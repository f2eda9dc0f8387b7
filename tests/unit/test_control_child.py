"""A child's control API over its Unix socket; its data plane notes what it is told."""

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from weirgate.shared.control.child import Child, DataPlane
from weirgate.shared.control.client import (
    ChildClient,
    ChildRefusedError,
    ChildUnreachableError,
)
from weirgate.shared.testing import eventually

pytestmark = pytest.mark.anyio


class Plane:
    """Notes every call; refuses what it is told to refuse."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.drained = False
        self.stopped = False

    def start(self) -> None:
        raise AssertionError("started before the control endpoint")

    def apply(self, snapshot: bytes, generation: int) -> None:
        self.calls.append(("apply", snapshot, generation))
        if snapshot == b"bad":
            raise ValueError("routes.0: no such pool")

    def set_endpoints(self, states: bytes) -> None:
        self.calls.append(("set_endpoints", states))

    def set_shuns(self, shuns: bytes) -> None:
        self.calls.append(("set_shuns", shuns))
        if shuns == b"bad":
            raise ValueError("not a list of shunned sources")

    def add_listener(self, key: str, fd: int) -> None:
        with socket.socket(fileno=fd) as listener:
            self.calls.append(("add_listener", key, listener.getsockname()))
        if key == "bad|key":
            raise ValueError("malformed key")

    def metrics(self) -> bytes:
        return b'[{"name": "weirgate_x", "kind": "counter", "help": "", "samples": []}]'

    def status(self) -> bytes:
        draining = any(call[0] == "drain" for call in self.calls)
        return json.dumps({"ready": True, "draining": draining, "drained": self.drained}).encode()

    def snapshot(self) -> bytes:
        return b'{"format": 1}'

    def drain(self, deadline_ms: int) -> None:
        self.calls.append(("drain", deadline_ms))

    def stop(self) -> None:
        self.stopped = True


class Served:
    """A child that serves in this process, and its supervisor's client."""

    def __init__(self, plane: Plane, client: ChildClient, channel: socket.socket) -> None:
        self.plane = plane
        self.client = client
        self.channel = channel
        self.running: asyncio.Task[None] | None = None


@contextlib.asynccontextmanager
async def serving(directory: Path, plane: Plane | None = None) -> AsyncIterator[Served]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(5)
    path = directory / "edge-0.sock"
    bootstrap = {"control_socket": str(path), "fd_channel": theirs.detach()}
    plane = plane or Plane()
    served = Served(plane, ChildClient(path), ours)
    real: DataPlane = plane
    served.running = asyncio.create_task(Child(real, bootstrap).run())
    try:
        await eventually(served.client.ready)
        yield served
    finally:
        await served.client.close()
        ours.close()
        plane.drained = True
        if not served.running.done():
            os.kill(os.getpid(), signal.SIGTERM)
        await served.running
        asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)


async def test_the_verbs_reach_the_data_plane(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        await served.client.put_snapshot(b"{}", 12)
        await served.client.put_endpoints(b"[]")
        await served.client.put_shuns(b"[]")
        await served.client.drain(1500)
        assert served.plane.calls == [
            ("apply", b"{}", 12),
            ("set_endpoints", b"[]"),
            ("set_shuns", b"[]"),
            ("drain", 1500),
        ]
        assert (await served.client.status())["draining"] is True
        assert [family["name"] for family in await served.client.metrics()] == ["weirgate_x"]


async def test_a_refused_snapshot_brings_the_reason_back(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        with pytest.raises(ChildRefusedError, match=r"routes\.0: no such pool"):
            await served.client.put_snapshot(b"bad", 2)


async def test_a_refused_shun_list_brings_the_reason_back(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        with pytest.raises(ChildRefusedError, match="not a list of shunned sources"):
            await served.client.put_shuns(b"bad")


async def test_a_data_plane_that_cannot_shun_has_no_such_call(tmp_path: Path) -> None:
    class Gateway(Plane):
        set_shuns = None  # type: ignore[assignment]

    async with serving(tmp_path, Gateway()) as served:
        with pytest.raises(ChildRefusedError, match="404"):
            await served.client.put_shuns(b"[]")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/snapshot"),
        ("PUT", "/snapshot?generation=-1"),
        ("PUT", "/snapshot?generation=x"),
        ("POST", "/drain?deadline_ms=1s"),
    ],
)
async def test_a_number_that_is_none_is_refused(tmp_path: Path, method: str, path: str) -> None:
    async with serving(tmp_path) as served:
        with pytest.raises(ChildRefusedError, match="must be a whole number"):
            await served.client._send(method, path)
        assert served.plane.calls == []


async def test_the_socket_is_for_this_user_only(tmp_path: Path) -> None:
    async with serving(tmp_path):
        assert (tmp_path / "edge-0.sock").stat().st_mode & 0o777 == 0o600


async def test_a_listener_arrives_and_is_acknowledged(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = listener.getsockname()
            socket.send_fds(served.channel, [b"web|x"], [listener.fileno()])
            assert await asyncio.to_thread(served.channel.recv, 4096) == b"+"
            assert served.plane.calls == [("add_listener", "web|x", address)]
            socket.send_fds(served.channel, [b"bad|key"], [listener.fileno()])
            assert await asyncio.to_thread(served.channel.recv, 4096) == b"-malformed key"
        served.channel.send(b"no fd")
        answer = await asyncio.to_thread(served.channel.recv, 4096)
        assert answer == b"-no descriptor came with the key"


async def test_sigterm_drains_and_ends_when_drained(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        assert served.running is not None
        os.kill(os.getpid(), signal.SIGTERM)
        await eventually(lambda: ("drain", 30_000) in served.plane.calls)
        assert not served.running.done()
        served.plane.drained = True
        await served.running
        assert served.plane.stopped


async def test_sigterm_after_a_drain_keeps_the_deadline_that_was_asked_for(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path) as served:
        await served.client.drain(700)
        served.plane.drained = True
        os.kill(os.getpid(), signal.SIGTERM)
        assert served.running is not None
        await served.running
        assert served.plane.calls == [("drain", 700)]


async def test_a_second_sigterm_ends_at_once(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        os.kill(os.getpid(), signal.SIGTERM)
        await eventually(lambda: served.plane.calls)
        os.kill(os.getpid(), signal.SIGTERM)
        assert served.running is not None
        await served.running
        assert served.plane.stopped
        assert not served.plane.drained


async def test_a_child_that_is_not_there_is_unreachable_and_not_ready(tmp_path: Path) -> None:
    client = ChildClient(tmp_path / "nobody.sock")
    assert not await client.ready()
    with pytest.raises(ChildUnreachableError):
        await client.status()
    await client.close()


async def test_a_stuck_child_is_given_up_after_a_second(tmp_path: Path) -> None:
    path = tmp_path / "stuck.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stuck:
        stuck.bind(str(path))
        stuck.listen()
        client = ChildClient(path)
        loop = asyncio.get_running_loop()
        before = loop.time()
        with pytest.raises(ChildUnreachableError, match="Timeout"):
            await client.status()
        assert loop.time() - before < 3
        await client.close()
