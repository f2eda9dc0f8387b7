"""One child's life with real processes: a small Python program stands in for a data plane."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from weirgate.shared.supervisor.backoff import Backoff
from weirgate.shared.supervisor.children import Child, Launch, end_all
from weirgate.shared.supervisor.process import Process, describe_exit
from weirgate.shared.testing import eventually

pytestmark = pytest.mark.anyio

# It serves GET /health as a child does, and obeys what the bootstrap says.
PROGRAM = """
import http.server, json, os, signal, socketserver, sys
with os.fdopen(int(sys.argv[1]), "rb") as file:
    bootstrap = json.load(file)
if bootstrap.get("deaf"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if "exit" in bootstrap:
    sys.exit(bootstrap["exit"])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"ready": True, "draining": False, "pid": os.getpid()}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def address_string(self):
        return "supervisor"
    def log_message(self, *arguments):
        pass
with socketserver.UnixStreamServer(bootstrap["control_socket"], Handler) as server:
    server.serve_forever()
"""


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


class Watcher:
    """Every turn that a child's life takes, in order."""

    def __init__(self) -> None:
        self.turns: list[str] = []

    def child_starting(self, _: Child) -> None:
        self.turns.append("starting")

    def child_ready(self, _: Child) -> None:
        self.turns.append("ready")

    def child_down(self, _: Child) -> None:
        self.turns.append("down")


class Nursery:
    """A child, the task that keeps it, and what it is started with."""

    def __init__(self, directory: Path) -> None:
        self.program = directory / "child.py"
        self.program.write_text(PROGRAM)
        self.orders: dict[str, object] = {}
        self.watcher = Watcher()
        self.command: tuple[str, ...] = (sys.executable, "-I", "-S", str(self.program))
        self.given: list[int] = []
        self.child = Child(
            "gateway-0", "gateway", 0, directory / "c.sock", self.launch, self.watcher
        )

    def launch(self, child: Child) -> Launch:
        bootstrap = json.dumps({"control_socket": str(child.control_socket), **self.orders})
        read, write = os.pipe()
        os.close(write)
        self.given.append(read)
        return Launch(self.command, bootstrap.encode(), 7, pass_fds=(read,), close_after=(read,))


@pytest.fixture
async def nursery(tmp_path: Path) -> Nursery:
    return Nursery(tmp_path)


@contextlib.asynccontextmanager
async def kept(nursery: Nursery) -> AsyncIterator["asyncio.Task[None]"]:
    keeper = asyncio.create_task(nursery.child.keep_alive())
    try:
        yield keeper
    finally:
        nursery.child.end()
        nursery.child.kill()
        await keeper


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def test_a_child_becomes_ready_and_ends_when_told(nursery: Nursery) -> None:
    async with kept(nursery) as keeper:
        await eventually(lambda: nursery.child.state == "ready")
        pid = nursery.child.pid
        assert pid is not None
        assert (nursery.child.generation, nursery.child.restarts) == (7, 0)
        await end_all([nursery.child], [keeper], 5.0)
        assert nursery.child.state == "ended"
        assert nursery.child.last_exit == "signal SIGTERM"
        assert not alive(pid)
    assert nursery.watcher.turns == ["starting", "ready", "down"]


async def test_a_killed_child_gets_a_successor(nursery: Nursery) -> None:
    async with kept(nursery):
        await eventually(lambda: nursery.child.state == "ready")
        first = nursery.child.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: nursery.child.restarts == 1 and nursery.child.state == "ready")
        assert nursery.child.pid != first
        assert (nursery.child.incarnation, nursery.child.last_exit) == (2, "signal SIGKILL")
    assert nursery.watcher.turns == ["starting", "ready", "down"] * 2


async def test_a_child_that_hangs_is_killed_and_gets_a_successor(
    nursery: Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    child = nursery.child
    async with kept(nursery):
        await eventually(lambda: child.state == "ready")
        first = child.pid
        assert first is not None
        os.kill(first, signal.SIGSTOP)
        child.kill_hung(5.25)
        await eventually(lambda: child.restarts == 1 and child.state == "ready")
        assert (child.hangs, child.last_exit) == (1, "signal SIGKILL, it hung")
        said = caplog.records[0]
        assert (said.levelno, said.message) == (logging.ERROR, "child hangs, killing it")
        child.kill()
        await eventually(lambda: child.restarts == 2 and child.state == "ready")
        assert (child.hangs, child.last_exit) == (1, "signal SIGKILL")
    assert nursery.watcher.turns == ["starting", "ready", "down"] * 3


async def test_a_retired_child_that_hangs_has_no_successor(nursery: Nursery) -> None:
    async with kept(nursery) as keeper:
        await eventually(lambda: nursery.child.state == "ready")
        nursery.child.retire()
        nursery.child.kill_hung(5.25)
        await keeper
        assert (nursery.child.restarts, nursery.child.hangs) == (0, 0)
    assert nursery.watcher.turns == ["starting", "ready", "down"]


async def test_failed_starts_are_counted_until_one_succeeds(nursery: Nursery) -> None:
    nursery.orders["exit"] = 3
    nursery.child.backoff = Backoff(first=0.001, limit=0.002)
    async with kept(nursery):
        await eventually(lambda: nursery.child.failed_starts >= 3)
        assert nursery.child.last_exit == "exit status 3"
        del nursery.orders["exit"]
        await eventually(lambda: nursery.child.state == "ready")
        assert nursery.child.failed_starts == 0


async def test_a_command_that_cannot_be_run_is_a_failed_start(nursery: Nursery) -> None:
    nursery.command = (str(nursery.program.with_name("missing")),)
    nursery.child.backoff = Backoff(first=0.001, limit=0.002)
    async with kept(nursery):
        await eventually(lambda: nursery.child.failed_starts >= 2)
        assert "No such file" in nursery.child.last_exit
    assert nursery.watcher.turns[:4] == ["starting", "down", "starting", "down"]


async def test_a_child_that_is_deaf_to_sigterm_is_killed(nursery: Nursery) -> None:
    nursery.orders["deaf"] = True
    async with kept(nursery) as keeper:
        await eventually(lambda: nursery.child.state == "ready")
        await end_all([nursery.child], [keeper], 0.05)
        assert nursery.child.last_exit == "signal SIGKILL"


async def test_a_retired_child_has_no_successor(nursery: Nursery) -> None:
    async with kept(nursery) as keeper:
        await eventually(lambda: nursery.child.state == "ready")
        nursery.child.retire()
        nursery.child.kill()
        await keeper
        assert nursery.watcher.turns == ["starting", "ready", "down"]


async def test_descriptors_for_the_child_are_closed_here_after_each_start(
    nursery: Nursery,
) -> None:
    before = open_descriptors()
    async with kept(nursery):
        await eventually(lambda: nursery.child.state == "ready")
        nursery.child.kill()
        await eventually(lambda: nursery.child.restarts == 1 and nursery.child.state == "ready")
        assert len(nursery.given) == 2
    after = open_descriptors()
    assert after <= before


async def test_a_process_inherits_only_what_it_is_given(tmp_path: Path) -> None:
    listing = tmp_path / "fds"
    program = (
        "import os, sys; names = [os.readlink(f'/proc/self/fd/{n}') for n in os.listdir("
        f"'/proc/self/fd') if os.path.exists(f'/proc/self/fd/{{n}}')]; open({str(listing)!r}, 'w')"
        ".write('\\n'.join(names))"
    )
    secret, given = os.memfd_create("secret", 0), os.memfd_create("given")
    os.set_inheritable(secret, True)  # noqa: FBT003 - the flag has no name
    command = (sys.executable, "-I", "-S", "-c", program)
    process = Process.start(command, b"boot", pass_fds=[given])
    assert await process.exited() == 0
    os.close(secret)
    os.close(given)
    names = listing.read_text()
    assert "given" in names
    assert "weirgate-bootstrap" in names
    assert "secret" not in names


def test_backoff_doubles_to_its_limit_and_forgets_after_a_stable_life() -> None:
    backoff = Backoff(first=0.05, limit=5.0, stable_after=10.0)
    waits = [backoff.failed(lived=0.1) for _ in range(9)]
    assert waits == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert backoff.failed(lived=10.0) == 0.05
    for _ in range(5000):
        assert backoff.failed(lived=0.0) <= 5.0


@pytest.mark.parametrize(
    ("status", "words"), [(0, "exit status 0"), (-9, "signal SIGKILL"), (-99, "signal 99")]
)
def test_an_exit_is_put_in_words(status: int, words: str) -> None:
    assert describe_exit(status) == words
