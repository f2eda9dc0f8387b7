"""Without descriptors, disk or supervisor, the whole node serves on, says so, and recovers."""

import contextlib
import json
import os
import resource
import shutil
import signal
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.load import Load, load
from tests.support.origin import Origin, one_origin
from tests.support.processes import descriptor_limit, finished
from tests.support.tcp import TcpServer, tcp_server
from tests.support.udp import UdpClient, UdpServer, udp_client, udp_server
from tests.support.weirgate import COMMAND, AccessLog, Running, running
from tests.support.wire import Wire, connect, get, request
from weirgate.shared.testing import Configuration, eventually

pytestmark = [pytest.mark.anyio, pytest.mark.chaos, pytest.mark.slow]

#: Below every descriptor that a process could open: the first three are always taken.
NONE = 3
#: How long the supervisor stands still: longer than it takes to find out that a child hangs.
#: By hand a minute: WEIRGATE_TEST_SUPERVISOR_STOPPED_S=60.
SILENCE_S = float(os.environ.get("WEIRGATE_TEST_SUPERVISOR_STOPPED_S", "7"))
CHECK = {"tcp": True, "interval": "200ms", "fall": 1, "rise": 1}


@dataclass(frozen=True)
class Site:
    """A node with each kind of listener, and endpoints that are checked and fail closed."""

    origin: Origin
    server: TcpServer
    voice: UdpServer
    weirgate: Running

    @property
    def processes(self) -> list[int]:
        return [self.weirgate.pid, *self.weirgate.edges(), *self.weirgate.gateways()]

    async def restarts(self) -> list[int]:
        return [process["restarts"] for process in (await self.weirgate.status())["processes"]]


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    config = Configuration().listen("web").route("all", pool="all")
    config.listen("raw", protocol="tcp", pool="raw")
    config.listen("voice", protocol="udp", pool="voice")
    config.data["drain"] = {"timeout": "300ms"}  # ends the sessions, which are idle then
    async with one_origin() as origin, tcp_server() as server, udp_server() as voice:
        for name, port in (("all", origin.port), ("raw", server.port)):
            config.pool(name, port, health=CHECK, all_down="fail_closed")
        config.pool("voice", voice.port)
        async with running(config) as weirgate:
            yield Site(origin, server, voice, weirgate)


async def _goes_on(kept: Load, requests: int = 200) -> None:
    served = kept.ok
    await eventually(lambda: kept.ok > served + requests, what="requests that are answered")


async def _echo(wire: Wire) -> bool:
    await wire.send(b"x")
    return await wire.exactly(1) == b"x"


async def _answers(client: UdpClient) -> bool:
    return (await client.ask_until_answered(b"x")).endswith(b":x")


async def test_out_of_descriptors_everywhere(site: Site) -> None:
    """The supervisor, too: that it cannot check says nothing of the endpoints."""
    weirgate = site.weirgate
    port = weirgate.port()
    async with contextlib.AsyncExitStack() as stack:
        kept = await stack.enter_async_context(load(port, connections=4))
        stream = await stack.enter_async_context(connect(weirgate.port("raw")))
        call = await stack.enter_async_context(udp_client(weirgate.port("voice")))
        late = await stack.enter_async_context(udp_client(weirgate.port("voice")))
        assert await _echo(stream)
        assert await _answers(call)
        await _goes_on(kept)
        await weirgate.status()  # opens the control connections that are used below
        with contextlib.ExitStack() as limits:
            for pid in site.processes:
                limits.enter_context(descriptor_limit(pid, NONE))
            waiting = await stack.enter_async_context(connect(port))
            await waiting.send(request("/waited"))
            late.send(b"lost")
            await eventually(
                lambda: "endpoints cannot be checked" in weirgate.log(), what="word of it"
            )
            exhausted = "weirgate_edge_accept_exhausted_total"

            async def counted() -> bool:
                found = [
                    await weirgate.metric(exhausted, listener=name) for name in ("web", "voice")
                ]
                return all(found)

            await eventually(counted, what="a count of what could not be accepted")
            await _goes_on(kept)
            assert await _echo(stream)
            assert await _answers(call)
            for endpoint in (site.origin.port, site.server.port):
                assert (await weirgate.endpoint(endpoint))["state"] == "up"
        assert (await waiting.response()).status == 200
        assert await _answers(late)
        assert (await get(port)).status == 200
        await eventually(lambda: "endpoints are checked again" in weirgate.log())
    assert kept.failures == [], kept.kinds()
    assert await site.restarts() == [0, 0]


@contextlib.contextmanager
def full_disk(directory: Path, weirgate: Running) -> Iterator[None]:
    """A file system with room for no more than so many bytes of logs."""
    filler = directory / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"x" * 4096):
            pass
    del weirgate
    yield
    filler.unlink()


@contextlib.contextmanager
def file_limit(directory: Path, weirgate: Running) -> Iterator[None]:
    """Processes whose files may not grow: half a write succeeds, the next one fails."""
    del directory
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    pids = [*weirgate.edges(), *weirgate.gateways()]
    size = weirgate.access.path.stat().st_size + 1000
    for pid in pids:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    yield
    for pid in pids:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, unlimited)


@contextlib.asynccontextmanager
async def small_disk(directory: Path) -> AsyncIterator[Path]:
    """A file system of a megabyte; skips where nothing may be mounted."""
    place = directory / "disk"
    place.mkdir()
    program = shutil.which("mount")
    options = ("-t", "tmpfs", "-o", "size=1m", "weirgate-test", str(place))
    if program is None or os.geteuid() != 0 or (await finished(program, *options)).code != 0:
        pytest.skip("no file system can be mounted here")
    try:
        yield place
    finally:
        assert (await finished("umount", "--lazy", str(place))).code == 0


@pytest.mark.parametrize("how", [full_disk, file_limit], ids=lambda how: how.__name__)
async def test_disk_full_under_the_log(tmp_path: Path, how: object) -> None:
    async with contextlib.AsyncExitStack() as stack:
        place = tmp_path
        if how is full_disk:
            place = await stack.enter_async_context(small_disk(tmp_path))
        server = await stack.enter_async_context(tcp_server())
        config = Configuration().listen("web").route("all", respond={"body": "hello"})
        config.listen("raw", protocol="tcp", pool="raw").pool("raw", server.port)
        config.logs(access={"to": str(place / "access.log")})
        weirgate = await stack.enter_async_context(running(config, directory=tmp_path))
        weirgate.access.path = place / "access.log"
        # Its line comes at the end: just then the edge could write behind a gateway's torn line.
        stream = await stack.enter_async_context(connect(weirgate.port("raw")))
        assert await _echo(stream)
        kept = await stack.enter_async_context(load(weirgate.port(), connections=4))
        await weirgate.access.of("/")

        async def lost() -> float:
            return await weirgate.metric("weirgate_access_log_lost_total")

        assert callable(how)
        with how(place, weirgate):
            await eventually(lost, what="lost lines that are counted")
            await _goes_on(kept)
            assert await _echo(stream)
        await _written_again(weirgate)
        counted = await lost()
        await _goes_on(kept)
        assert await lost() == counted
        assert kept.failures == [], kept.kinds()
        _whole_but_for_the_torn(weirgate.access)
        assert [p["restarts"] for p in (await weirgate.status())["processes"]] == [0, 0]


async def _written_again(weirgate: Running) -> None:
    """Ask for new paths until one of them has its line."""
    number = 0

    async def written() -> bool:
        nonlocal number
        number += 1
        await get(weirgate.port(), f"/after-{number}")
        return "/after-" in weirgate.access.path.read_text()

    await eventually(written, what="a line that was written again")


def _whole_but_for_the_torn(log: AccessLog) -> None:
    """The disk may fill in the middle of a line, once for each process; the next begins anew."""
    torn = []
    for line in log.path.read_text().split("\n")[:-1]:
        try:
            json.loads(line)
        except ValueError:
            torn.append(line)
    assert len(torn) <= 2, torn
    for line in torn:
        assert line.count('"time"') <= 1, f"two lines run into each other: {line}"


async def test_stopped_supervisor(site: Site) -> None:
    """Traffic needs it for nothing, not even to get away from an endpoint that dies meanwhile."""
    weirgate = site.weirgate
    port = weirgate.port()
    config = weirgate.config
    async with contextlib.AsyncExitStack() as stack:
        spare = await stack.enter_async_context(udp_server())
        config.pool("voice", site.voice.port, spare.port, balance="round_robin")
        assert (await weirgate.reload(config)).json()["result"] == "applied"
        kept = await stack.enter_async_context(load(port, connections=4))
        fresh = await stack.enter_async_context(
            load(port, connections=2, requests_per_connection=1)
        )
        stream = await stack.enter_async_context(connect(weirgate.port("raw")))
        calls = [
            await stack.enter_async_context(udp_client(weirgate.port("voice"))) for _ in range(4)
        ]
        assert await _echo(stream)
        assert all([await _answers(call) for call in calls])
        os.kill(weirgate.pid, signal.SIGSTOP)
        began = time.monotonic()
        try:
            site.voice.transport.close()
            admin = ("--admin", f"http://127.0.0.1:{config.admin_port}")
            told = await finished(*COMMAND, "status", *admin, within_s=30)
            assert told.code != 0, "whoever asks is told that nobody answers"
            assert "Traceback" not in told.text
            assert all([await _answers(call) for call in calls])

            async def silent_for_long() -> bool:
                await _goes_on(kept, 20)
                await _goes_on(fresh, 5)
                async with connect(weirgate.port("raw")) as new:
                    assert await _echo(new)
                assert await _echo(stream)
                assert all([await _answers(call) for call in calls])
                return time.monotonic() - began > SILENCE_S

            await eventually(silent_for_long, within_s=SILENCE_S + 30)
        finally:
            os.kill(weirgate.pid, signal.SIGCONT)
        await eventually(lambda: "held up itself" in weirgate.log(), what="word of it")
        await eventually(weirgate.ready, what="a supervisor that answers")
        site.server.close()

        async def down() -> bool:
            return bool((await weirgate.endpoint(site.server.port))["state"] == "down")

        await eventually(down, what="checks that go on")
        await _goes_on(kept)
    assert kept.failures == fresh.failures == [], (kept.kinds(), fresh.kinds())
    assert await site.restarts() == [0, 0]
