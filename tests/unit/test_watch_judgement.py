"""Who hangs and who does not, by an injected clock; the edge's answers over a real Unix socket."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from weirgate.shared import native
from weirgate.shared.supervisor import watch
from weirgate.shared.supervisor.children import Child
from weirgate.shared.supervisor.endpoints import EndpointTable
from weirgate.shared.supervisor.fleet import Fleet
from weirgate.shared.supervisor.listeners import Listeners
from weirgate.shared.supervisor.shuns import ShunTable
from weirgate.shared.supervisor.snapshots import InForce
from weirgate.shared.supervisor.tasks import Tasks
from weirgate.shared.supervisor.watch import LATE_SECONDS, LOOK_SECONDS, SILENCE_SECONDS, Watch
from weirgate.shared.testing import eventually

STATUS = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
STOPPED = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n"


class Watched(Child):
    """A child that serves, and notes for how long it had been silent when it was killed."""

    def __init__(self, directory: Path, tier: str, index: int) -> None:
        name = f"{tier}-{index}"
        unused: object = None
        super().__init__(name, tier, index, directory / f"{name}.sock", unused, unused)  # type: ignore[arg-type]
        self.state = "ready"
        self.killed_after: list[float] = []

    def kill_hung(self, silent_seconds: float) -> None:
        self.killed_after.append(silent_seconds)


class Node:
    """An edge and two gateways that beat and answer, until they are told to be silent."""

    def __init__(self, directory: Path) -> None:
        self.now = 1000.0
        self.edge = Watched(directory, "edge", 0)
        self.gateways = [Watched(directory, "gateway", index) for index in range(2)]
        self.children = [self.edge, *self.gateways]
        self.silent: set[Child] = set()
        self.beats = [self.now, self.now]
        self.watch = Watch(self.children, self.load_page, lambda: self.now)

    def load_page(self) -> list[dict[str, object]]:
        return [
            {"index": index, "state": "draining", "heartbeat_ms": int(beat * 1000)}
            for index, beat in enumerate(self.beats)
        ]

    def live(self, seconds: float, looking_every: float = LOOK_SECONDS) -> None:
        """Let so much time pass, with looks in between."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + looking_every)
            for gateway in self.gateways:
                if gateway not in self.silent:
                    self.beats[gateway.index] = self.now - 0.1
            if self.edge not in self.silent:
                self.watch._heard_at[self.edge] = self.now
            self.watch.look()

    def killed(self) -> list[str]:
        return [child.name for child in self.children for _ in child.killed_after]


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.setattr(watch, "_ASK_SECONDS", 0.0)
    monkeypatch.setattr(watch, "_READY_POLL_SECONDS", 0.0)
    return Node(tmp_path)


def test_children_that_give_signs_of_life_are_left_alone(node: Node) -> None:
    node.live(60)
    assert node.killed() == []


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_silent_child_is_killed_once_it_was_silent_for_long_enough(
    node: Node, which: int
) -> None:
    node.live(60)
    child = node.children[which]
    node.silent.add(child)
    node.live(SILENCE_SECONDS - 2 * LOOK_SECONDS)
    assert node.killed() == []
    node.live(4 * LOOK_SECONDS)
    assert node.killed() == [child.name]
    assert SILENCE_SECONDS < child.killed_after[0] < SILENCE_SECONDS + 2 * LOOK_SECONDS


def test_one_that_survives_its_kill_is_killed_again_but_not_at_every_look(node: Node) -> None:
    node.silent.add(node.edge)
    node.live(3.5 * SILENCE_SECONDS)
    assert node.killed() == ["edge-0"] * 3


def test_a_beat_in_time_starts_the_silence_anew(node: Node) -> None:
    node.silent.add(node.gateways[0])
    for _ in range(5):
        node.live(SILENCE_SECONDS - 1)
        node.beats[0] = node.now
    assert node.killed() == []


@pytest.mark.parametrize("state", ["starting", "down", "ended"])
def test_only_children_that_serve_are_judged(node: Node, state: str) -> None:
    node.silent.update(node.children)
    for child in node.children:
        child.state = state
    node.live(60)
    assert node.killed() == []


def test_the_heartbeat_of_a_predecessor_does_not_count_against_a_successor(node: Node) -> None:
    gateway = node.gateways[1]
    node.silent.add(gateway)
    gateway.state = "starting"
    node.live(20)
    gateway.state = "ready"
    node.live(SILENCE_SECONDS - 1)
    assert node.killed() == []


@pytest.mark.parametrize("which", [0, 1])
def test_a_child_that_takes_a_snapshot_may_be_silent(node: Node, which: int) -> None:
    child = node.children[which]
    node.silent.add(child)
    child.snapshots_coming += 1
    node.live(10)
    child.snapshots_coming -= 1
    node.live(SILENCE_SECONDS - 1)
    assert node.killed() == []
    node.live(2)
    assert node.killed() == [child.name]


def test_a_supervisor_that_was_stopped_judges_anew(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    node.silent.update(node.children)  # nobody has beaten when it looks for the first time again
    node.live(1)
    node.live(7, looking_every=7)
    assert node.killed() == []
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    node.silent.clear()
    node.live(60)
    assert node.killed() == []


def test_a_child_that_hangs_when_the_supervisor_runs_again_is_killed(node: Node) -> None:
    node.silent.add(node.gateways[0])
    node.live(7, looking_every=7)
    node.live(SILENCE_SECONDS - 2 * LOOK_SECONDS)
    assert node.killed() == []
    node.live(4 * LOOK_SECONDS)
    assert node.killed() == ["gateway-0"]


def test_a_supervisor_that_is_only_a_little_late_goes_on_judging(node: Node) -> None:
    node.silent.add(node.gateways[0])
    node.live(SILENCE_SECONDS + 2, looking_every=LOOK_SECONDS + LATE_SECONDS)
    assert node.killed() == ["gateway-0"]


@pytest.mark.anyio
async def test_the_fleet_says_when_a_child_is_given_a_snapshot(tmp_path: Path) -> None:
    seen: list[int] = []

    class Client:
        async def put_snapshot(self, *_: object) -> None:
            seen.append(gateway.snapshots_coming)

    force = InForce(b"{}", "hash", {}, 2)
    fleet = Fleet(
        tmp_path,
        native.LoadPage.create(1),
        native.create_rate_table(),
        gateways=1,
        listeners=Listeners(),
        endpoints=EndpointTable(lambda: None),
        shuns=ShunTable(),
        in_force=lambda: force,
        tasks=Tasks(),
    )
    (gateway,) = fleet.gateways
    gateway.state, gateway.client = "ready", Client()  # type: ignore[assignment]
    assert await fleet.put_snapshot(force) == {}
    assert (seen, gateway.snapshots_coming) == ([1], 0)
    fleet.close()


class Answerer:
    """An edge's control socket: every question gets ``answer``, as soon as ``may_answer``."""

    def __init__(self) -> None:
        self.answer = STATUS
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.connections: list[asyncio.StreamWriter] = []
        self.questions = 0
        self.holds_one = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                assert head.startswith(b"GET /status ")
                self.questions += 1
                self.holds_one = not self.may_answer.is_set()
                await self.may_answer.wait()
                writer.write(self.answer)
        writer.close()


@contextlib.asynccontextmanager
async def answering(node: Node) -> AsyncIterator[Answerer]:
    """Run an edge that answers; at its end it owes an answer, as one that is killed while asked."""
    answerer = Answerer()
    node.edge.control_socket.unlink(missing_ok=True)
    server = await asyncio.start_unix_server(answerer.serve, node.edge.control_socket)
    try:
        yield answerer
        answerer.may_answer.clear()
        await eventually(lambda: answerer.holds_one)
    finally:
        server.close()
        for writer in answerer.connections:
            writer.close()
        answerer.may_answer.set()


@contextlib.asynccontextmanager
async def asking(node: Node) -> AsyncIterator[None]:
    """Ask the edge all the time, on the real clock."""
    task = asyncio.create_task(node.watch.keep_asking(node.edge))
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def heard(node: Node) -> Callable[[], bool]:
    """Move the clock; the edge is heard when it has answered since."""
    node.now += 1
    return lambda: node.watch._heard_at[node.edge] == node.now


@pytest.mark.anyio
async def test_an_answer_is_a_sign_of_life_and_one_connection_is_enough(node: Node) -> None:
    async with asking(node), answering(node) as answerer:
        for _ in range(3):
            await eventually(heard(node))
        assert answerer.questions >= 3
        assert len(answerer.connections) == 1


@pytest.mark.anyio
async def test_a_refusal_is_no_sign_of_life(node: Node) -> None:
    async with asking(node), answering(node) as answerer:
        await eventually(heard(node))
        answerer.answer = STOPPED
        last_good = answerer.questions
        await eventually(lambda: answerer.questions > last_good + 1)
        is_heard = heard(node)
        more = answerer.questions + 3
        await eventually(lambda: answerer.questions > more)
        assert not is_heard()
        answerer.answer = STATUS
        await eventually(is_heard)


@pytest.mark.anyio
@pytest.mark.slow
async def test_a_slow_answer_is_a_sign_of_life(node: Node) -> None:
    async with asking(node), answering(node) as answerer:
        await eventually(heard(node))
        answerer.may_answer.clear()
        asked_at = time.monotonic()
        await eventually(lambda: time.monotonic() - asked_at > 1.5)  # other calls give up after 1 s
        is_heard = heard(node)
        asked = answerer.questions
        answerer.may_answer.set()
        await eventually(is_heard)
        assert len(answerer.connections) == 1
        assert answerer.questions >= asked


@pytest.mark.anyio
async def test_an_edge_that_is_not_ready_is_not_asked(node: Node) -> None:
    node.edge.state = "starting"
    async with asking(node), answering(node) as answerer:
        is_heard = heard(node)
        for _ in range(100):
            await asyncio.sleep(0)
        assert answerer.questions == 0
        node.edge.state = "ready"
        await eventually(is_heard)


@pytest.mark.anyio
async def test_a_successor_at_the_same_socket_is_heard(node: Node) -> None:
    async with asking(node):
        for _ in range(3):
            async with answering(node):
                await eventually(heard(node))
