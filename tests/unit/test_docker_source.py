"""What a container engine says, and what is made of it; the engine here is a small HTTP server."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from weirgate.shared.config.discovery import DockerDiscovery
from weirgate.shared.discovery import docker_engine
from weirgate.shared.discovery.docker import DockerSource
from weirgate.shared.discovery.docker_containers import container_ids, found_containers
from weirgate.shared.discovery.docker_ending import LONGEST_SECONDS, Ending
from weirgate.shared.discovery.found import Found, FoundAddress
from weirgate.shared.testing import eventually, free_port

NETWORKS = {"front": {"IPAddress": "10.0.0.1", "GlobalIPv6Address": ""}}


def container(**changes: Any) -> dict[str, Any]:
    """A container as the engine lists it."""
    return {
        "Id": "0123456789abcdef",
        "Names": ["/shop_api_1"],
        "Created": 100,
        "State": "running",
        "Status": "Up 2 minutes",
        "Labels": {"weirgate.pool": "api", "other": "x"},
        "Ports": [{"PrivatePort": 8000, "Type": "tcp"}],
        "NetworkSettings": {"Networks": NETWORKS},
        **changes,
    }


def networks(**addresses: str) -> dict[str, Any]:
    return {"Networks": {name: {"IPAddress": each} for name, each in addresses.items()}}


def read(*containers: Any, **section: Any) -> tuple[Found, ...]:
    nobody = container_ids(containers) & {"another"}
    return found_containers(containers, DockerDiscovery.model_validate(section), nobody)


def test_a_container_is_an_object_with_its_labels_address_and_port() -> None:
    assert read(container()) == (
        Found("container shop_api_1", {"pool": "api"}, (FoundAddress("10.0.0.1"),), 8000),
    )


@pytest.mark.parametrize(
    ("state", "status", "expected"),
    [
        ("running", "Up 2 seconds", ("up", "")),
        ("running", "Up 2 seconds (healthy)", ("up", "")),
        ("running", "Up 2 seconds (unhealthy)", ("down", "unhealthy")),
        ("running", "Up 2 seconds (health: starting)", ("down", "starting")),
        ("paused", "Up 2 seconds (Paused)", ("down", "paused")),
        ("restarting", "Restarting (1) 1 second ago", ("down", "restarting")),
        (None, None, ("down", "None")),
    ],
)
def test_health(state: Any, status: Any, expected: tuple[str, str]) -> None:
    [found] = read(container(State=state, Status=status))
    assert (found.addresses[0].state, found.addresses[0].why) == expected


def test_the_network_is_the_label_s_or_the_section_s_or_the_only_one() -> None:
    two = networks(front="10.0.0.1", back="10.1.0.1")
    labelled = {"weirgate.pool": "api", "weirgate.network": "back"}
    [none] = read(container(NetworkSettings=two))
    assert none.addresses == ()
    assert none.trouble.startswith("several networks (back, front): choose by weirgate.network")
    [of_section] = read(container(NetworkSettings=two), network="front")
    assert of_section.addresses[0].host == "10.0.0.1"
    [of_label] = read(container(NetworkSettings=two, Labels=labelled), network="front")
    assert (of_label.addresses[0].host, of_label.trouble) == ("10.1.0.1", "")
    assert of_label.labels == {"pool": "api"}
    [other] = read(container(), network="back")
    assert other.trouble == "the network back, but it is in others: front"
    [host] = read(container(NetworkSettings=networks(host="")))
    assert host.trouble == "no address in the network host"
    six = {"Networks": {"front": {"IPAddress": "", "GlobalIPv6Address": "fd00::1"}}}
    [found] = read(container(NetworkSettings=six))
    assert found.addresses[0].host == "fd00::1"
    [alone] = read(container(NetworkSettings={"Networks": {}}))
    assert alone.trouble == "no network"


@pytest.mark.parametrize(
    ("ports", "port"),
    [
        ([], None),
        (None, None),
        ([{"PrivatePort": 53, "Type": "udp"}, {"PrivatePort": 80, "Type": "tcp"}], 80),
        ([{"PrivatePort": 80, "Type": "tcp"}, {"PrivatePort": 81, "Type": "tcp"}], None),
        ([{"PrivatePort": 80, "PublicPort": p, "Type": "tcp"} for p in (1, 2)], 80),
        ([{"PrivatePort": "80", "Type": "tcp"}], None),
    ],
)
def test_the_port_is_the_only_exposed_one(ports: Any, port: int | None) -> None:
    assert read(container(Ports=ports))[0].default_port == port


def test_the_oldest_come_first_and_names_are_their_own() -> None:
    links = ["/shop_web_1/api", "/b"]
    found = read(
        container(Names=["/c"], Created=200), container(Names=links), container(Names=["/a"]),
        container(Names=None, Created=300),
    )  # fmt: skip
    names = [each.name.removeprefix("container ") for each in found]
    assert names == ["a", "b", "c", "0123456789ab"]


@pytest.mark.parametrize(
    "item",
    [
        None, "x", 7, [], {}, {"Labels": None}, {"Labels": ["weirgate.pool"]},
        {"Labels": {"weirgate.pool": 7}}, {"Labels": {"weirgatepool": "api"}},
        container(NetworkSettings=None), container(NetworkSettings={"Networks": {"a": None}}),
        container(Names=[7, None], Created="yesterday", Ports=[None, 7]), container(Id=["x"]),
    ],
)  # fmt: skip
def test_whatever_has_another_form_harms_nobody(item: Any) -> None:
    assert container()["Names"][0][1:] in [f.name.split()[1] for f in read(item, container())]


class FakeEngine:
    """Answers like an engine, or badly; ``answers`` is what it lists."""

    def __init__(self) -> None:
        self.port = free_port()
        self.containers: Any = [container()]
        self.status = "200 OK"
        self.news = True
        self.version = {"ApiVersion": "1.41"}
        self.requests: list[str] = []
        self.streams: set[asyncio.StreamWriter] = set()
        self._connections: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                line = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0].decode()
                self.requests.append(line)
                path = line.split()[1].partition("?")[0]
                if path.endswith("/events") and self.status == "200 OK" and self.news:
                    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                    self.streams.add(writer)
                    continue
                answer = self.version if path == "/version" else self.containers
                body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                status = "200 OK" if path == "/version" else self.status
                if path.endswith("/events"):
                    status = "403 Forbidden"
                writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode())
                writer.write(body)
        self._connections.discard(writer)
        writer.close()

    def tell(self, line: bytes = b"{}\n") -> None:
        """Send an event."""
        for writer in self.streams:
            writer.write(b"%x\r\n%b\r\n" % (len(line), line))

    def end_streams(self) -> None:
        for writer in self.streams:
            writer.write(b"0\r\n\r\n")
        self.streams.clear()

    def close(self) -> None:
        for writer in self._connections:
            writer.transport.abort()


@contextlib.asynccontextmanager
async def watching(
    engine: FakeEngine, **section: Any
) -> AsyncIterator[tuple[list[tuple[Found, ...]], list[str]]]:
    """Watch a fake engine; give what was told of containers, and what was said of the engine."""
    told: list[tuple[Found, ...]] = []
    said: list[str] = []
    server = await asyncio.start_server(engine.serve, "127.0.0.1", engine.port)
    endpoint = f"tcp://127.0.0.1:{engine.port}"
    source = DockerSource(DockerDiscovery.model_validate({"endpoint": endpoint, **section}))
    watch = asyncio.create_task(source.watch(told.append, said.append))
    try:
        yield told, said
    finally:
        began = time.monotonic()
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        assert time.monotonic() - began < 1, "nobody waits for an engine in the end"
        server.close()
        engine.close()


@pytest.mark.anyio
async def test_news_and_resync_are_reasons_to_look_again() -> None:
    engine = FakeEngine()
    async with watching(engine, resync="1h", match={"a": "b"}) as (told, said):
        await eventually(lambda: told and engine.streams)
        engine.containers = [container(), container(Names=["/second"])]
        engine.tell()
        await eventually(lambda: len(told[-1]) == 2)
        assert set(said) == {""}
        engine.end_streams()
        await eventually(lambda: engine.streams, what="a new stream")
    lists = [line for line in engine.requests if "/containers/json" in line]
    assert all("filters=%7B%22label%22%3A+%5B%22a%3Db%22%5D%7D" in line for line in lists)
    events = next(line for line in engine.requests if "/events" in line)
    assert "health_status" in events
    assert "exec" not in events
    assert {line.split()[0] for line in engine.requests} == {"GET"}


def event(action: str, signal: str = "", name: str = "0123456789abcdef") -> bytes:
    """One of a container's events, as the engine writes it."""
    attributes = {"image": "x"} | ({"signal": signal} if signal else {})
    told = {"Type": "container", "Action": action, "Actor": {"ID": name, "Attributes": attributes}}
    return json.dumps(told).encode() + b"\n"


def states(told: list[tuple[Found, ...]]) -> dict[str, tuple[str, str]]:
    """What each container was last told to be."""
    return {f.name.split()[1]: (f.addresses[0].state, f.addresses[0].why) for f in told[-1]}


@pytest.mark.anyio
async def test_a_container_that_is_told_to_end_drains() -> None:
    engine = FakeEngine()
    other = container(Id="b" * 16, Names=["/other"])
    engine.containers = [container(), other]
    async with watching(engine, resync="1h") as (told, _):
        await eventually(lambda: told and engine.streams)
        first, rest = event("kill", "15")[:20], event("kill", "15")[20:]
        engine.tell(first)
        engine.tell(rest)
        await eventually(lambda: states(told)["shop_api_1"] == ("draining", "told to end"))
        assert states(told)["other"] == ("up", "")
        engine.tell(event("start"))  # docker restart
        await eventually(lambda: states(told)["shop_api_1"] == ("up", ""))
        engine.tell(event("kill", "SIGQUIT", "b" * 16))
        await eventually(lambda: states(told)["other"] == ("draining", "told to end"))
        engine.end_streams()  # a start may be missed while nobody listens
        await eventually(lambda: states(told)["other"] == ("up", ""))


@pytest.mark.parametrize(
    ("told", "ends"),
    [
        *((event("kill", number), True) for number in ("2", "3", "9", "15", "28", "37")),
        *((event("kill", text), False) for text in ("1", "10", "12", "", "999999", "-9", "\u0663")),
        *((event("kill", text), ends) for text, ends in {"SIGTERM": True, "TERM": False}.items()),
        (event("die", "15"), False),
        (event("kill", "15").replace(b'"container"', b'"network"'), False),
        (event("kill", "15").replace(b'"ID"', b'"id"'), False),
        *((text, False) for text in (b"7", b"[]", b'{"Type": "container", "Actor": [1]}')),
        (b'{"Type": "container", "Action": "kill", "Actor": {"ID": "%b"}}' % (b"0" * 16), False),
    ],
)  # fmt: skip
def test_what_tells_a_container_to_end(told: bytes, *, ends: bool) -> None:
    ending = Ending()
    ending.note(json.loads(told))
    assert bool(ending.among({"0123456789abcdef", "0" * 16})) is ends


def test_who_does_not_end_takes_work_again() -> None:
    now = 0.0
    ending = Ending(lambda: now)
    ending.note(json.loads(event("kill", "15")))
    now = LONGEST_SECONDS - 1
    ending.note(json.loads(event("kill", "15")))  # told again: that gives no more time
    assert ending.among({"0123456789abcdef"})
    now = LONGEST_SECONDS
    assert not ending.among({"0123456789abcdef"})


def test_who_has_ended_is_forgotten() -> None:
    ending = Ending()
    ending.note(json.loads(event("kill", "9")))
    assert not ending.among(set())
    assert not ending.among({"0123456789abcdef"})


@pytest.mark.anyio
@pytest.mark.parametrize("line", [b"not JSON\n", b"[" * 100_000 + b"\n", b"no end of line", b"\n"])
async def test_an_event_that_nobody_understands_is_a_reason_to_look(line: bytes) -> None:
    engine = FakeEngine()
    async with watching(engine, resync="1h") as (told, _):
        await eventually(lambda: told and engine.streams)
        engine.containers = []
        engine.tell(line)
        await eventually(lambda: told[-1] == ())


@pytest.mark.anyio
async def test_a_change_that_nobody_told_of_is_seen_at_the_next_resync() -> None:
    engine = FakeEngine()
    async with watching(engine, resync="100ms") as (told, _):
        await eventually(lambda: told)
        engine.containers = []
        await eventually(lambda: told[-1] == ())


@pytest.mark.anyio
async def test_without_events_it_looks_again_and_again_and_says_so() -> None:
    engine = FakeEngine()
    engine.news = False
    async with watching(engine) as (told, said):
        await eventually(lambda: len(told) > 2)
        assert "/events: status 403" in said[-1]
        engine.containers = []
        await eventually(lambda: told[-1] == ())
        assert "" not in said[1:], "it is not well in between"
        engine.news = True
        await eventually(lambda: said[-1] == "", within_s=15)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("status", "answer", "error"),
    [
        ("403 Forbidden", [], "/v1.41/containers/json: status 403"),
        ("302 Found\r\nLocation: http://127.0.0.1:1/", [], "status 302"),
        ("200 OK", {"no": "list"}, "not a list of containers"),
        ("200 OK", b"<html>", "Expecting value"),
        ("200 OK", b"[" + b" " * 2000 + b"]", "an answer beyond"),
    ],
)
async def test_a_bad_answer_is_said_and_the_next_good_one_taken(
    monkeypatch: pytest.MonkeyPatch, status: str, answer: Any, error: str
) -> None:
    monkeypatch.setattr(docker_engine, "MAX_ANSWER_BYTES", 1000)
    engine = FakeEngine()
    engine.status, engine.containers = status, answer
    async with watching(engine) as (told, said):
        await eventually(lambda: any(error in text for text in said), explain=lambda: str(said))
        assert told == []
        engine.status, engine.containers = "200 OK", [container()]
        await eventually(lambda: told)
        assert said[-1] == ""


@pytest.mark.anyio
async def test_what_is_no_engine_and_the_environment_s_proxy_are_not_asked_further(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    engine = FakeEngine()
    engine.version = {"version": "nginx"}
    async with watching(engine) as (told, said):
        await eventually(lambda: said)
        assert "/version: not an engine's answer" in said[0]
        assert told == []
        engine.version = {"ApiVersion": "1.41"}
        await eventually(lambda: told)


@pytest.mark.anyio
async def test_an_engine_that_is_not_there_is_said_in_the_system_s_words() -> None:
    said: list[str] = []
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    source = DockerSource(DockerDiscovery.model_validate({"endpoint": endpoint}))
    watch = asyncio.create_task(source.watch(lambda _: None, said.append))
    await eventually(lambda: said)
    assert said[0] == f"{endpoint}: connection refused"
    watch.cancel()
    await asyncio.gather(watch, return_exceptions=True)
