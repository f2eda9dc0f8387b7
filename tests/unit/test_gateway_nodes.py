"""How an edge judges a gateway node, and how a gateway node answers it."""

import asyncio
import contextlib
import ipaddress
import json
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from weirgate.shared.cli.main import app
from weirgate.shared.config.compile_pools import endpoint_id
from weirgate.shared.discovery.dns import Answer, ResolutionError
from weirgate.shared.health.check import Target, from_pool
from weirgate.shared.health.probe import probe
from weirgate.shared.health.result import NodeLoad, Result
from weirgate.shared.supervisor.endpoints import EndpointTable
from weirgate.shared.supervisor.gateway_names import GatewayNames
from weirgate.shared.supervisor.node_load import MAX_CALLERS, REQUEST_BYTES, NodeLoadServer
from weirgate.shared.supervisor.orders import Order
from weirgate.shared.testing import eventually, free_port

ADDRESS = "10.0.0.11:9080"
ID = endpoint_id("gateways", ADDRESS)
SILENT, REFUSED = Result("no answer", unreachable=True), Result("connection refused")
BUSY = NodeLoad(connections=6, requests_in_flight=2, latency_us=900, workers=4)


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


def pool(*, kind: str = "gateway", port: int = 9081, timeout_ms: int = 300) -> dict[str, Any]:
    health = {"kind": kind, "interval_ms": 1, "timeout_ms": timeout_ms, "rise": 2, "fall": 2,
              "jitter_percent": 10, "port": port}  # fmt: skip
    endpoints = [{"id": ID, "address": ADDRESS, "weight": 1}]
    return {"name": "gateways", "on_down": "keep", "health": health, "endpoints": endpoints}


class Judged:
    """A table with one node, and what the data plane is told of it."""

    def __init__(self, kind: str = "gateway") -> None:
        self.states, self.loads = 0, 0
        self.table = EndpointTable(self._state, self._load)
        self.table.load([pool(kind=kind)])
        (self._target,) = self.table.targets()

    def _state(self) -> None:
        self.states += 1

    def _load(self) -> None:
        self.loads += 1

    def after(self, *results: Result) -> tuple[str, bool]:
        for result in results:
            self.table.record(self._target, result)
        return self.told["state"], self.told.get("closing", False)

    @property
    def told(self) -> dict[str, Any]:
        (state,) = json.loads(self.table.encoded())
        return dict(state)


def test_a_node_that_nothing_reaches_is_down_and_what_it_has_is_ended() -> None:
    node = Judged()
    assert node.after(Result(load=BUSY)) == ("up", False)
    assert node.after(SILENT) == ("up", False)
    before = node.states
    assert node.after(SILENT) == ("down", True)
    assert node.states == before + 1
    assert node.after(Result(load=BUSY)) == ("down", False), "somebody is there again"
    assert node.after(Result(load=BUSY)) == ("up", False)


def test_a_node_that_answers_nothing_but_is_there_keeps_what_it_has() -> None:
    node = Judged()
    assert node.after(Result(load=BUSY), REFUSED, REFUSED, REFUSED) == ("down", False)
    mixed = Judged()
    assert mixed.after(Result(load=BUSY), SILENT, REFUSED, SILENT) == ("down", False)
    before = mixed.states
    assert mixed.after(SILENT) == ("down", True)
    assert mixed.states == before + 1, "though the state is the same"
    other = Judged(kind="tcp")
    assert other.after(Result(), SILENT, SILENT, SILENT) == ("down", False), "endpoints of others"


def test_what_this_process_was_too_late_to_see_counts_for_nothing() -> None:
    node = Judged()
    late = replace(SILENT, inconclusive=True)
    assert node.after(Result(load=BUSY), *[late] * 9) == ("up", False)


def test_a_node_that_drains_is_told_at_once_and_so_is_its_return() -> None:
    node = Judged()
    node.after(Result(load=BUSY))
    before = node.states
    assert node.after(Result(load=BUSY, draining=True)) == ("draining", False)
    assert node.after(Result(load=BUSY)) == ("up", False)
    assert node.states == before + 2
    node.table.drain(ID, Order("alice"))
    assert node.after(Result(load=BUSY)) == ("draining", False)
    assert node.after(SILENT, SILENT) == ("draining", True), "drained by an operator, and cut off"


def test_each_answer_is_a_new_load_unless_nobody_is_there() -> None:
    node = Judged()
    node.after(Result(load=BUSY))
    first = node.told["load"]
    assert first == {"number": 1, "units": 2000, "per_connection": 250}
    node.after(Result(load=BUSY))
    assert (node.told["load"]["number"], node.loads) == (2, 2)
    idle = NodeLoad(0, 0, 0, 1)
    node.after(Result(load=idle), Result(load=idle), Result(load=idle))
    assert (node.told["load"]["number"], node.loads) == (3, 3)
    assert (idle.per_connection, NodeLoad(5, 0, 0, 0).units) == (1000, 5000)


# The check itself, against real sockets.


def target(port: int, timeout_ms: int = 300) -> Target:
    check = from_pool(pool(port=port, timeout_ms=timeout_ms))
    assert check is not None
    return Target(ID, ADDRESS, check)


@contextlib.asynccontextmanager
async def answering(data: bytes) -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(data)
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


def answer(document: object, status: str = "200 OK") -> bytes:
    body = json.dumps(document).encode()
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


FIGURES = {"connections": 6, "requests_in_flight": 2, "latency_us": 900, "workers": 4}


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("data", "passed", "error"),
    [
        (answer({"state": "ready", **FIGURES}), Result(load=BUSY), ""),
        (
            answer({"state": "draining", **FIGURES}, "503 No"),
            Result(load=BUSY, draining=True),
            "",
        ),
        (answer({"state": "starting", **FIGURES}, "503 No"), None, "state starting"),
        (answer({"state": "ready"}), None, "status 200"),
        (answer({"state": "ready", **FIGURES, "workers": -1}), None, "status 200"),
        (answer({"state": "ready", **FIGURES, "workers": 2**40}), None, "status 200"),
        (answer({"state": "ready", **FIGURES, "workers": True}), None, "status 200"),
        (answer(["ready"]), None, "state None"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", None, "no JSON"),
        (b"SSH-2.0-x\r\n\r\n", None, "not an HTTP/1 response"),
        (b"", None, "ended before"),
    ],
)
async def test_only_a_whole_word_of_a_gateway_counts(
    data: bytes, passed: Result | None, error: str
) -> None:
    async with answering(data) as port:
        result = await probe(target(port, 20_000), ["127.0.0.1:1"])
    if passed is None:
        assert error in result.error
        assert (result.load, result.unreachable) == (None, False)
    else:
        assert result == passed


@pytest.mark.anyio
async def test_a_refusal_a_silent_process_and_a_silent_host_are_told_apart() -> None:
    refused = await probe(target(free_port(), 20_000), ["127.0.0.1:1"])
    assert (refused.error, refused.unreachable) == ("connection refused", False)
    assert not (await probe(target(1), [])).unreachable
    with socket.create_server(("127.0.0.1", 0), backlog=8) as deaf:
        deaf_port = deaf.getsockname()[1]

        async def heard() -> Result | None:
            result = await probe(target(deaf_port), ["127.0.0.1:1"])
            return None if result.inconclusive else result  # this machine is busy

        silent_process = await eventually(heard, within_s=30)
        assert "no answer" in silent_process.error
        assert not silent_process.unreachable, "its kernel accepts"
    with contextlib.ExitStack() as stack:  # a full queue: the kernel drops what knocks
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            caller = stack.enter_context(
                socket.socket(type=socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            )
            caller.connect_ex(full.getsockname())
        port = full.getsockname()[1]

        async def dropped() -> Result | None:
            result = await probe(target(port), ["127.0.0.1:1"])
            return None if result.inconclusive else result

        assert (await eventually(dropped, within_s=30)).unreachable


# The other side.


class Transport(asyncio.Transport):
    """A connection whose other end may be anywhere."""

    def __init__(self, peer: str) -> None:
        super().__init__({"peername": (peer, 1)})
        self.sent, self.ended = b"", False

    def write(self, data: Any) -> None:
        self.sent += bytes(data)

    def is_closing(self) -> bool:
        return self.ended

    def close(self) -> None:
        self.ended = True

    abort = close


@pytest.fixture
async def knock() -> AsyncIterator[Callable[[str], Any]]:
    """Connect from an address."""
    server = NodeLoadServer([], lambda: {"state": "ready", **FIGURES})
    server.edges = (ipaddress.ip_network("10.0.0.0/30"), ipaddress.ip_network("2001:db8::/64"))
    from weirgate.shared.supervisor.node_load import _Caller

    callers = []

    def connect(peer: str) -> tuple[Any, Transport]:
        caller, transport = _Caller(server), Transport(peer)
        callers.append(caller)
        caller.connection_made(transport)
        return caller, transport

    yield connect
    for caller in callers:
        caller.connection_lost(None)


@pytest.mark.anyio
async def test_edges_and_this_host_are_heard_and_nobody_else(
    knock: Callable[[str], Any],
) -> None:
    for peer in ("10.0.0.1", "::ffff:10.0.0.2", "2001:db8::7", "127.0.0.1", "::1"):
        caller, transport = knock(peer)
        caller.data_received(b"GET /load HTTP/1.1\r\n")
        assert not transport.sent
        caller.data_received(b"\r\n")
        assert b'"state": "ready"' in transport.sent
        assert transport.ended
    for peer in ("10.0.0.4", "192.0.2.1", "2001:db8:1::1", "fe80::1%eth0", "nonsense"):
        caller, transport = knock(peer)
        assert transport.ended
        caller.data_received(b"GET /load HTTP/1.1\r\n\r\n")
        assert not transport.sent


@pytest.mark.anyio
async def test_callers_and_what_they_send_are_bounded(knock: Callable[[str], Any]) -> None:
    caller, transport = knock("10.0.0.1")
    caller.data_received(b"x" * REQUEST_BYTES)
    assert not transport.ended
    caller.data_received(b"x")
    assert transport.ended
    caller.connection_lost(None)
    transports = [knock("10.0.0.1")[1] for _ in range(MAX_CALLERS + 1)]
    assert [transport.ended for transport in transports] == [False] * MAX_CALLERS + [True]


# Names.


@pytest.mark.anyio
async def test_a_name_that_changes_is_a_reload_and_one_that_fails_is_not() -> None:
    answers: list[tuple[str, ...] | None] = [("10.0.0.2", "10.0.0.1"), ("10.0.0.1", "10.0.0.2"),
                                             None, ("10.0.0.1",)]  # fmt: skip
    known: dict[str, tuple[str, ...]] = {}
    seen: list[tuple[str, ...]] = []

    class Resolver:
        async def resolve(self, name: str) -> Answer:
            assert name == "gateways.example"
            found = answers.pop(0) if answers else ("10.0.0.1",)
            if found is None:
                raise ResolutionError("broken")
            return Answer(found, 0.01)

    async def reload() -> bool:
        seen.append(known["gateways.example"])
        return True

    names = GatewayNames(Resolver(), known)
    await names.watch({"gateways.example"})
    assert known == {"gateways.example": ("10.0.0.1", "10.0.0.2")}
    names.taken()
    telling = asyncio.create_task(names.keep_telling(reload))
    await eventually(lambda: seen, within_s=20)
    assert seen == [("10.0.0.1",)]
    telling.cancel()
    await asyncio.gather(telling, return_exceptions=True)
    await names.close()


@pytest.mark.anyio
async def test_a_reload_that_is_refused_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weirgate.shared.supervisor.changes.FIRST_RETRY_SECONDS", 0.05)
    answers = iter([True, False, False, True])
    seen: list[bool] = []

    class Resolver:
        async def resolve(self, name: str) -> Answer:
            return Answer(("10.0.0.1",), 300.0)

    async def reload() -> bool:
        seen.append(next(answers))
        return seen[-1]

    known: dict[str, tuple[str, ...]] = {}
    names = GatewayNames(Resolver(), known)
    await names.watch({"a.example"})
    telling = asyncio.create_task(names.keep_telling(reload))
    await eventually(lambda: seen == [True])
    await names.watch({"a.example", "b.example"})
    await eventually(lambda: seen == [True, False, False, True])
    telling.cancel()
    await asyncio.gather(telling, return_exceptions=True)
    await names.close()


# The command line.


def check(path: Path, *options: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["check", str(path), *options])
    return result.exit_code, result.output


def test_check_judges_every_role_that_the_file_has_or_the_one_that_is_asked_for(
    tmp_path: Path,
) -> None:
    example = Path(__file__).parents[2] / "examples/two-hosts.yaml"
    assert check(example) == (0, f"{example}: ok\n")
    lone = tmp_path / "lone.yaml"
    lone.write_text('listeners: {web: {bind: "127.0.0.1:8080"}}\nroutes: [{respond: {}}]\n')
    assert check(lone)[0] == 0
    for role in ("edge", "gateway"):
        code, output = check(lone, "--role", role)
        assert (code, "WG-C080" in output) == (1, True)
    code, output = check(lone, "--role", "middle")
    assert (code, 'got "middle", wanted up or edge or gateway' in output) == (2, True)
    keyless = tmp_path / "keyless.yaml"
    text = example.read_text(encoding="utf-8")
    assert '"0.0.0.0:8080"}' in text
    tls = '"0.0.0.0:8080", tls: {certificates: [{cert: no.pem, key: no.key}]}}'
    secret = f'cookie_secret: "{"ab" * 32}"\n  nodes:'
    text = text.replace('"0.0.0.0:8080"}', tls).replace("nodes:", secret, 1)
    keyless.write_text(text, encoding="utf-8")
    assert check(keyless, "--role", "edge")[0] == 0, "keys are on the gateways' hosts"
    code, output = check(keyless)
    assert (code, output.count("WG-C050")) == (1, 2), "each error once, though two roles have it"
