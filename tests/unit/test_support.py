"""The tests' own tools: a judge that accepts everything or counts nothing would prove nothing."""

import asyncio
import hashlib
import json
import os
import time
from pathlib import Path

import pytest

from tests.support import certs, peers
from tests.support.endings import to_the_end
from tests.support.load import load
from tests.support.origin import (
    Exchange,
    answer,
    chunked,
    early,
    held,
    message,
    one_origin,
    reset_midway,
    upgrade_echo,
    verbatim,
)
from tests.support.processes import (
    children,
    descriptor_limit,
    descriptors,
    established,
    process,
    resident_kib,
)
from tests.support.strict import MalformedError, TruncatedError, parse_requests
from tests.support.tcp import tcp_server
from tests.support.weirgate import samples
from tests.support.wire import connect, get, request
from weirgate.shared.testing import Configuration, eventually, free_port

pytestmark = pytest.mark.anyio

GOOD = request("/a", body=b"hello")


async def test_strict_parser_reads_pipelined_requests_and_their_bodies() -> None:
    chunky = request("/b", "Transfer-Encoding: chunked") + b"2\r\nhi\r\n0\r\nX-T: 1\r\n\r\n"
    first, second = await parse_requests(GOOD + chunky)
    assert (first.target, first.body) == ("/a", b"hello")
    assert (second.target, second.body, second.trailers) == ("/b", b"hi", (("X-T", "1"),))


@pytest.mark.parametrize(
    "raw",
    [
        GOOD.replace(b"\r\n", b"\n"),
        GOOD.replace(b"Host:", b"Host :"),
        GOOD.replace(b"Host: ", b"X-A: 1\r\n 2\r\nHost: "),
        GOOD.replace(b"weirgate", b"weir\rgate"),
        GOOD.replace(b"weirgate", b"weir\0gate"),
        GOOD.replace(b"Host", b"X-Host"),
        GOOD.replace(b"Length: 5", b"Length: +5"),
        GOOD.replace(b"Content-Length: 5", b"Content-Length: 5\r\nContent-Length: 5"),
        GOOD.replace(b"Content-Length: 5", b"Content-Length: 5\r\nTransfer-Encoding: chunked"),
        GOOD.replace(b"Content-Length: 5", b"Transfer-Encoding: x"),
        GOOD.replace(b"1.1", b"1.0"),
        GOOD.replace(b"/a", b"/a#b"),
        GOOD + b"\r\n",
        request("/", "Transfer-Encoding: chunked") + b"2;a\r\nhi\r\n0\r\n\r\n",
    ],
)
async def test_strict_parser_refuses(raw: bytes) -> None:
    with pytest.raises(MalformedError):
        await parse_requests(raw)


async def test_strict_parser_says_where_a_message_was_cut() -> None:
    for cut in range(1, len(GOOD)):
        with pytest.raises(TruncatedError):
            await parse_requests(GOOD[:cut])


async def test_origin_echoes_what_it_received() -> None:
    body = b"x" * 100_000
    async with one_origin() as origin, connect(origin.port) as wire:
        response = await wire.exchange(request("/p?q", "X-A: 1", method="PUT", body=body))
        seen = json.loads(response.body)
        assert (seen["method"], seen["target"], seen["length"]) == ("PUT", "/p?q", len(body))
        assert seen["sha256"] == hashlib.sha256(body).hexdigest()
        assert ["X-A", "1"] in seen["headers"]
        assert origin.connections[0].received.startswith(b"PUT /p?q HTTP/1.1\r\n")
        expecting = request("/e", "Expect: 100-continue", method="POST", body=b"12345")
        await wire.send(expecting[:-5])
        interim = await wire.maybe_response()
        assert interim is not None
        assert interim.status == 100
        assert (await wire.exchange(expecting[-5:])).status == 200
        assert (await wire.exchange(request("/h", method="HEAD"), "HEAD")).body == b""


async def test_origin_behaves_as_scripted() -> None:
    gate = asyncio.Event()
    async with one_origin() as origin:
        origin.on("/a", answer(404, b"no", "X-B: 2")).on("/early", early(413, b"big"))
        origin.on("/chunks", chunked([b"a", b"bc"], "X-T: 1", gates=[gate]))
        origin.on("/held", held(gate)).on("/cut", reset_midway(b"abc", 10))
        origin.on("/odd", verbatim(b"HTTP/1.1 200 OK\n\n", close=True)).on("/up", upgrade_echo)
        missing = await get(origin.port, "/a")
        assert (missing.status, missing.one("x-b"), missing.body) == (404, "2", b"no")
        async with connect(origin.port) as wire:
            await wire.send(request("/early", "Content-Length: 1000", method="POST"))
            assert (await wire.response()).status == 413
            assert await wire.rest() == b""
        async with connect(origin.port) as first, connect(origin.port) as second:
            await first.send(request("/chunks"))
            await second.send(request("/held"))
            await eventually(lambda: {"/chunks", "/held"} <= {r.target for r in origin.requests})
            gate.set()
            response = await first.response()
            assert (response.body, response.trailers) == (b"abc", (("X-T", "1"),))
            assert (await second.response()).body == b"held"
        for path, fault in (
            ("/cut", (TruncatedError, ConnectionResetError)),
            ("/odd", (MalformedError,)),
        ):
            with pytest.raises(fault):
                await get(origin.port, path)
        async with connect(origin.port) as wire:
            await wire.send(request("/up", "Connection: Upgrade", "Upgrade: echo"))
            assert (await wire.response()).status == 101
            await wire.send(b"\0\xffraw")
            assert await wire.exactly(5) == b"\0\xffraw"
            wire.half_close()
            assert await wire.rest() == b""
        assert origin.malformed == []


async def test_origin_records_malformed_requests() -> None:
    async with one_origin() as origin, connect(origin.port) as wire:
        await wire.send(b"GET / HTTP/1.1\nHost: a\n\n")
        await wire.rest()
        assert len(origin.malformed) == 1
        assert origin.requests == []


async def test_origin_by_tls() -> None:
    async with one_origin(tls=certs.server_context("weirgate.test")) as origin:
        context = certs.client_context()
        async with connect(origin.port, tls=context, server_name="weirgate.test") as wire:
            assert (await wire.exchange(request("/"))).status == 200


async def test_load_counts_successes_and_failures_by_kind() -> None:
    async with one_origin() as origin:
        origin.on("/bad", verbatim(message(503), close=True))
        async with load(origin.port, "/", connections=4) as good:
            await eventually(lambda: good.ok >= 50)
        assert good.failures == []
        assert good.opened == 4
        async with load(origin.port, "/bad", connections=2) as bad:
            await eventually(lambda: len(bad.failures) >= 4)
        assert set(bad.kinds()) == {"status_503_"}
        async with load(origin.port, "/", connections=4) as cut:
            await eventually(lambda: cut.ok >= 20)
            stopped = time.monotonic()
            await origin.stop()
            await eventually(lambda: cut.kinds()["connect_refused"] >= 4)
        assert cut.opened_after(stopped)
        assert sum(cut.kinds().values()) > cut.kinds()["connect_refused"]


async def test_tcp_server_echoes_and_sees_a_reset() -> None:
    async with tcp_server() as server:
        async with connect(server.port) as wire:
            await wire.send(b"abc")
            wire.half_close()
            assert await wire.rest() == b"abc"
        async with connect(server.port) as wire:
            await wire.send(b"abc")
            assert await wire.exactly(3) == b"abc"
            wire.reset()
            await eventually(lambda: server.endings == ["end", "reset"])
        assert server.accepted == 2


async def test_processes_are_seen_by_their_parent_and_their_sockets(tmp_path: Path) -> None:
    code = (
        "import socket\n"
        "s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True)\n"
        "c, _ = s.accept(); c.recv(1); s.accept()"
    )
    log = tmp_path / "log"
    async with process("python3", "-c", code, log=log) as child:
        port = int(await eventually(log.read_text))
        assert child.pid in await eventually(lambda: children(os.getpid(), "create_server"))
        assert established(child.pid, port) == 0
        async with connect(port):
            assert await eventually(lambda: established(child.pid, port)) == 1
        assert resident_kib(child.pid) > 1000
    assert child.returncode is not None


@pytest.mark.parametrize("name", ["nginx", "redis", "uvicorn", "gunicorn", "node"])
async def test_peers_start_and_stop(tmp_path: Path, name: str) -> None:
    async with getattr(peers, name)(tmp_path) as peer, connect(peer.port) as wire:
        if name == "redis":
            await wire.send(b"PING\r\n")
            assert await wire.exactly(7) == b"+PONG\r\n"
        else:
            response = await wire.exchange(request("/x", method="POST", body=b"12345"))
            assert response.status == 200
            assert b"nginx" in response.body or response.body == b"POST /x 5"


async def test_haproxy_sends_a_proxy_header(tmp_path: Path) -> None:
    async def first_line(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\n"))
        await reader.readuntil(b"\r\n\r\n")
        writer.write(message(200, b"", "Connection: close"))
        await writer.drain()

    seen: list[bytes] = []
    async with (
        tcp_server(first_line) as server,
        peers.haproxy(tmp_path, server.port, send_proxy="send-proxy") as peer,
    ):
        assert (await get(peer.port)).status == 200
    assert seen[-1].startswith(b"PROXY TCP4 127.0.0.1 127.0.0.1 ")


def test_configuration_is_written_as_yaml(tmp_path: Path) -> None:
    config = Configuration(workers=2).listen("web").pool("api", 8000, "[::1]:8001", retries=1)
    config.route("api", match={"path": "/api/*"}, pool="api").write(tmp_path / "a.yaml")
    text = (tmp_path / "a.yaml").read_text()
    assert "- 127.0.0.1:8000\n" in text
    assert f"127.0.0.1:{config.port('web')}" in text
    assert config.port("web") != config.admin_port != free_port()


def test_prometheus_text_is_parsed() -> None:
    text = '# HELP a b\na_total{route="x",status="200"} 3\na_total 1e3\n'
    assert samples(text) == [
        ("a_total", {"route": "x", "status": "200"}, 3.0),
        ("a_total", {}, 1000.0),
    ]


async def test_eventually_names_what_it_waited_for() -> None:
    with pytest.raises(TimeoutError, match="the moon"):
        await eventually(lambda: None, within_s=0.02, what="the moon")


@pytest.mark.parametrize(
    ("how", "tls"), [("close", False), ("reset", False), ("close", True), ("cut", True)]
)
async def test_endings_of_a_stream_are_told_apart(how: str, *, tls: bool) -> None:
    async def behave(exchange: Exchange) -> None:
        await exchange.read()
        await exchange.send(b"hello")
        if how == "reset":
            await seen.wait()
            exchange.connection.reset()
        elif how == "cut":
            exchange.connection.writer.transport.abort()
        else:
            exchange.close()

    seen = asyncio.Event()
    async with one_origin(tls=certs.server_context("a.test") if tls else None) as origin:
        stream = await to_the_end(
            origin.on("/", behave).port,
            GOOD.replace(b"/a", b"/"),
            tls=certs.client_context() if tls else None,
            server_name="a.test",
            seen=lambda _: seen.set(),
        )
    assert (stream.data, stream.ending) == (b"hello", how)


def test_process_at_its_limit_gets_no_descriptor_and_keeps_those_it_has() -> None:
    with Path(os.devnull).open() as kept:
        assert kept.fileno() in descriptors(os.getpid(), os.devnull)
        with descriptor_limit(os.getpid(), 3), pytest.raises(OSError, match="Too many open files"):
            os.open(os.devnull, os.O_RDONLY)
        assert kept.read() == ""
        os.close(os.open(os.devnull, os.O_RDONLY))
