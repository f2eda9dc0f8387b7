"""Gateways in processes of their own keepers, as containers have them: they come, go and stay."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.load import load
from tests.support.origin import held, one_origin
from tests.support.processes import children, end
from tests.support.weirgate import GATEWAY, Running, running, start
from tests.support.wire import connect, request
from weirgate.shared.testing import Configuration, eventually, free_port

pytestmark = [pytest.mark.anyio, pytest.mark.chaos]

Process = asyncio.subprocess.Process
#: Takes a seat before the others, and fails at every start.
BROKEN_HOST = """
import json, os, socket, time
while True:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as node:
        try:
            node.connect({socket!r})
            node.send(json.dumps({{"hello": {{"protocol": 1, "name": "broken"}}}}).encode())
            while data := node.recv(65536):
                if b"start" in data:
                    node.send(json.dumps({{"failed": "on purpose"}}).encode())
        except OSError:
            time.sleep(0.05)
"""


class Hosts:
    """Containers' keepers of gateways, by name."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / "attach.sock"
        self.processes: list[Process] = []

    async def add(self) -> Process:
        place = self.directory / f"host-{len(self.processes)}"
        place.mkdir()
        process = await start("attach", self.socket, "--health", "off", directory=place)
        self.processes.append(process)
        return process

    async def close(self) -> None:
        for process in self.processes:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGCONT)
                await end(process, signal.SIGTERM, within_s=10)


@pytest.fixture
async def hosts() -> AsyncIterator[Hosts]:
    with tempfile.TemporaryDirectory(prefix="weirgate-attach-") as directory:
        found = Hosts(Path(directory))
        try:
            yield found
        finally:
            await found.close()


def configuration(hosts: Hosts, endpoint: int) -> Configuration:
    config = Configuration().listen("web").pool("all", endpoint).route("all", pool="all")
    config.data["gateway"] = {
        "attach": {"socket": str(hosts.socket), "seats": 4},
        "cookie_secret": "ab" * 32,
    }
    return config


@pytest.fixture
async def weirgate(hosts: Hosts) -> AsyncIterator[Running]:
    """A node with two gateways attached."""
    async with one_origin() as origin:
        await hosts.add()
        await hosts.add()
        async with running(
            configuration(hosts, origin.port), directory=hosts.directory
        ) as instance:
            await gateways(instance, 2)
            yield instance


async def gateways(weirgate: Running, count: int) -> list[dict[str, Any]]:
    async def ready() -> list[dict[str, Any]] | None:
        found = [p for p in (await weirgate.status())["processes"] if p["tier"] == "gateway"]
        return found if [p["state"] for p in found] == ["ready"] * count else None

    return await eventually(ready, what=f"{count} ready gateways")


async def test_gateways_come_and_go_without_a_failed_request(
    weirgate: Running, hosts: Hosts
) -> None:
    async with (
        load(weirgate.port(), connections=8) as kept,
        load(weirgate.port(), connections=8, requests_per_connection=1) as fresh,
    ):
        await eventually(lambda: kept.ok > 100 and fresh.ok > 20)
        third = await hosts.add()
        rows = await gateways(weirgate, 3)
        assert all(row["host"] and row["pid"] for row in rows)
        assert await end(hosts.processes[0], signal.SIGTERM, within_s=15) == 0
        await gateways(weirgate, 2)
        assert await end(third, signal.SIGTERM, within_s=15) == 0
        await gateways(weirgate, 1)
        later = kept.ok + 100, fresh.ok + 50
        await eventually(lambda: kept.ok > later[0] and fresh.ok > later[1])
    assert kept.kinds() == fresh.kinds() == {}


async def test_a_killed_container_fails_only_its_own(weirgate: Running, hosts: Hosts) -> None:
    async with load(weirgate.port(), connections=8, requests_per_connection=1) as fresh:
        await eventually(lambda: fresh.ok > 50)
        hosts.processes[0].kill()
        await gateways(weirgate, 1)
        later = fresh.ok + 200
        await eventually(lambda: fresh.ok > later)
    assert len(fresh.failures) <= 8
    assert "has gone with its container" in weirgate.log()


async def test_a_container_that_is_held_up_loses_its_seat_and_attaches_anew(
    weirgate: Running, hosts: Hosts
) -> None:
    stopped = hosts.processes[0]
    (process,) = children(stopped.pid, GATEWAY)
    for pid in (stopped.pid, process):
        os.kill(pid, signal.SIGSTOP)
    await eventually(lambda: "the host of a gateway does not answer" in weirgate.log(), within_s=15)
    await gateways(weirgate, 1)
    for pid in (process, stopped.pid):
        os.kill(pid, signal.SIGCONT)
    await gateways(weirgate, 2)
    assert process not in children(stopped.pid, GATEWAY)


async def test_a_killed_node_leaves_open_connections_alone(hosts: Hosts) -> None:
    async with one_origin() as origin:
        config = configuration(hosts, origin.port)
        await hosts.add()
        async with (
            running(config, directory=hosts.directory) as first,
            connect(first.port()) as wire,
        ):
            assert (await wire.exchange(request("/one"))).status == 200
            (old,) = children(hosts.processes[0].pid, GATEWAY)
            edges = first.edges()
            first.process.kill()
            await first.process.wait()
            await eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in edges))
            # the node is gone; its gateway is not
            assert (await wire.exchange(request("/two"))).status == 200
            async with running(config, directory=hosts.directory) as second:
                await gateways(second, 1)
                (new,) = set(children(hosts.processes[0].pid, GATEWAY)) - {old}
                assert new != old
                async with connect(second.port()) as fresh:
                    assert (await fresh.exchange(request("/three"))).status == 200
                # the old process finishes
                await eventually(
                    lambda: children(hosts.processes[0].pid, GATEWAY) == [new], within_s=15
                )


async def test_what_is_queued_without_any_gateway_is_served_by_the_next_one(
    weirgate: Running, hosts: Hosts
) -> None:
    for process in hosts.processes:
        assert await end(process, signal.SIGTERM, within_s=15) == 0
    assert not await weirgate.ready()
    async with contextlib.AsyncExitStack() as stack:
        # more than there are seats: whichever they were queued for
        wires = [await stack.enter_async_context(connect(weirgate.port())) for _ in range(12)]
        for wire in wires:
            await wire.send(request("/queued"))
        await hosts.add()
        for wire in wires:
            assert (await wire.response()).status == 200


async def test_only_the_seats_that_there_are(weirgate: Running, hosts: Hosts) -> None:
    for _ in range(2):
        await hosts.add()
    await gateways(weirgate, 4)
    fifth = await hosts.add()
    assert await asyncio.wait_for(fifth.wait(), 15) == 3
    assert "every seat is taken" in (hosts.directory / "host-4" / "weirgate.log").read_text()
    await gateways(weirgate, 4)


async def test_a_reload_reaches_attached_gateways(weirgate: Running, hosts: Hosts) -> None:
    config = weirgate.config
    config.data["routes"] = [{"name": "new", "respond": {"body": "new"}}]
    assert (await weirgate.reload(config)).json()["result"] == "applied"
    for _ in range(4):
        async with connect(weirgate.port()) as wire:
            assert (await wire.exchange(request("/"))).body == b"new"


async def test_probes_are_answered(hosts: Hosts) -> None:
    port = free_port()
    place = hosts.directory / "probed"
    place.mkdir()
    process = await start("attach", hosts.socket, "--health", f"127.0.0.1:{port}", directory=place)
    hosts.processes.append(process)

    async def state() -> dict[str, bool] | None:
        with contextlib.suppress(OSError):
            async with connect(port) as wire:
                return dict(json.loads((await wire.exchange(request("/health"))).body))
        return None

    assert await eventually(state) == {"ready": False, "draining": False}
    async with one_origin() as origin:
        config = configuration(hosts, origin.port)
        async with running(config, directory=hosts.directory):
            assert await state() == {"ready": True, "draining": False}


async def test_a_leaving_gateway_finishes_what_it_has(hosts: Hosts) -> None:
    """A container that is stopped has its own grace period, and an older process has it, too."""
    done = asyncio.Event()
    async with one_origin() as origin:
        origin.on("/held", held(done))
        config = configuration(hosts, origin.port)
        await hosts.add()
        async with contextlib.AsyncExitStack() as stack:
            first = await stack.enter_async_context(running(config, directory=hosts.directory))
            await gateways(first, 1)
            old = await stack.enter_async_context(connect(first.port()))
            await old.send(request("/held"))
            await eventually(lambda: len(origin.requests) == 1)
            first.process.kill()
            await first.process.wait()
            second = await stack.enter_async_context(running(config, directory=hosts.directory))
            await gateways(second, 1)
            new = await stack.enter_async_context(connect(second.port()))
            await new.send(request("/held"))
            await eventually(lambda: len(origin.requests) == 2)
            leaving = asyncio.create_task(end(hosts.processes[0], signal.SIGTERM, within_s=15))
            await eventually(lambda: "a gateway leaves" in second.log())
            for wire in (old, new):
                with pytest.raises(TimeoutError):  # not cut off: there is no answer yet
                    await wire.response(within_s=0.7)
            # nor is the node's end one for it
            second.process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(second.process.wait(), 15)
            done.set()
            for wire in (old, new):
                assert (await wire.response()).status == 200
            assert await leaving == 0


async def test_a_broken_gateway_does_not_keep_the_node_from_starting(hosts: Hosts) -> None:
    broken = hosts.directory / "broken.py"
    broken.write_text(BROKEN_HOST.format(socket=str(hosts.socket)))
    async with one_origin() as origin:
        config = configuration(hosts, origin.port)
        process = await asyncio.create_subprocess_exec(sys.executable, str(broken))
        hosts.processes.append(process)
        await hosts.add()
        async with running(config, directory=hosts.directory) as weirgate:
            await eventually(lambda: weirgate.log().count("cannot be started") >= 3)
            async with connect(weirgate.port()) as wire:
                assert (await wire.exchange(request("/"))).status == 200


async def test_a_peer_that_says_nothing_or_nonsense_is_let_go(
    weirgate: Running, hosts: Hosts
) -> None:
    for words in (b"", b"nonsense", b'{"hello":7}', b'{"hello":{"protocol":99}}'):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
            peer.connect(str(hosts.socket))
            if words:
                peer.send(words)
            peer.settimeout(10)
            answer = await asyncio.to_thread(peer.recv, 4096)
            assert answer == b"" or b"refused" in answer
    await gateways(weirgate, 2)


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
async def test_another_user_is_refused(weirgate: Running, hosts: Hosts) -> None:
    assert b"refused" in await said_to_another_user(hosts.socket, b'{"hello":{"protocol":1}}')
    await gateways(weirgate, 2)


async def said_to_another_user(path: Path, words: bytes) -> bytes:
    """Open the way to a socket for everybody, and return what its owner says to one of them."""
    for place, mode in ((path, 0o666), (path.parent, 0o755)):
        place.chmod(mode)
    program = (
        "import os, socket, sys; os.setgid(65534); os.setuid(65534)\n"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.settimeout(10)\n"
        f"s.connect({str(path)!r})\n"
        f"try: s.send({words!r})\n"
        "except OSError: pass\n"
        "try: said = s.recv(4096)\n"
        "except ConnectionResetError: said = b'refused: reset'\n"
        "sys.stdout.buffer.write(said)"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    return output
