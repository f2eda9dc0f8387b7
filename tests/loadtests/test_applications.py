"""The applications of deploy/compose, each as a process, by a client of its protocol."""

import asyncio
import contextlib
import hashlib
import re
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import httpx
import pytest
from websockets.asyncio.client import connect as websocket

from tests.support.processes import end, process
from tests.support.wire import proxy_v2
from weirgate.shared.testing import eventually, free_port

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
APPLICATIONS = ROOT / "deploy" / "compose" / "applications"
HEALTH = "/grpc.health.v1.Health/"
UDP4 = 0x12


@dataclass(frozen=True)
class Application:
    port: int
    child: asyncio.subprocess.Process
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextlib.asynccontextmanager
async def application(
    name: str, directory: Path, *, grace: str = "0"
) -> AsyncIterator[Application]:
    port = free_port(socket.SOCK_DGRAM if name == "udp_echo" else socket.SOCK_STREAM)
    settings = {"HOST": "127.0.0.1", "PORT": str(port), "INSTANCE": "here"}
    command = (sys.executable, "-W", "error", APPLICATIONS / f"{name}.py")
    log = directory / f"{name}.log"
    async with process(*command, log=log, env={**settings, "GRACE_SECONDS": grace}) as child:
        if name != "udp_echo":
            await eventually(lambda: accepts(port), within_s=20, what=f"{name} accepts")
        yield Application(port, child, log)


async def accepts(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


async def test_the_api_answers_and_keeps_carts(tmp_path: Path) -> None:
    async with (
        application("api", tmp_path) as app,
        httpx.AsyncClient(base_url=app.url, trust_env=False) as client,
    ):
        added = await client.post("/api/items", json={"name": "lamp", "price_cents": 5})
        assert added.status_code == 201
        assert added.json()["item"] in (await client.get("/api/items")).json()["items"]

        for item in (3, 4):
            await client.post("/api/cart", json={"item": item})
        cart = (await client.get("/api/cart")).json()
        assert (cart["items"], cart["instance"]) == ([3, 4], "here")
        stranger = await client.get("/api/cart", headers={"Cookie": "session=other"})
        assert stranger.json()["items"] == []

        seen = await client.get("/api/whoami?headers=1", headers={"X-Forwarded-For": "192.0.2.7"})
        assert seen.json()["client"] == "192.0.2.7"
        assert ["x-forwarded-for", "192.0.2.7"] in seen.json()["headers"]
        assert (await client.get("/api/status/418")).status_code == 418
        assert (await client.get("/api/slow?ms=1")).json()["waited_ms"] == 1
        for wrong in ("/api/slow?ms=x", "/api/download?bytes=-1", "/api/status/99"):
            assert (await client.get(wrong)).status_code == 400, wrong
        assert (await client.post("/api/items", content=b"[1]")).status_code == 400
        assert (await client.post("/api/items", content=b"1" * 70_000)).status_code == 413

        body = bytes(range(256)) * 1000
        sent = (await client.post("/api/upload", content=body)).json()
        assert sent["bytes"] == len(body)
        assert sent["sha256"] == hashlib.sha256(body).hexdigest()
        assert (await client.get("/api/download?bytes=256000")).content == body
        assert (await client.get("/healthz")).status_code == 200


async def test_images_are_cached_and_cut(tmp_path: Path) -> None:
    async with (
        application("images", tmp_path) as app,
        httpx.AsyncClient(base_url=app.url, trust_env=False) as client,
    ):
        page = (await client.get("/")).text
        names = re.findall(r'src="(/images/[^"]+)"', page)
        assert len(names) == 7
        sizes = {}
        for name in names:
            whole = await client.get(name)
            sizes[name] = len(whole.content)
            assert "max-age" in whole.headers["cache-control"]
            for condition in (
                {"If-None-Match": f'"x", W/{whole.headers["etag"]}'},
                {"If-Modified-Since": whole.headers["last-modified"]},
            ):
                again = await client.get(name, headers=condition)
                assert (again.status_code, again.content) == (304, b"")
            other = {"If-None-Match": '"x"', "If-Modified-Since": whole.headers["last-modified"]}
            assert (await client.get(name, headers=other)).status_code == 200
        assert max(sizes.values()) > 150_000
        assert min(sizes.values()) < 2_000

        name = "/images/card.png"
        whole = await client.get(name)
        for wanted, part in {
            "bytes=0-9": whole.content[:10],
            "bytes=50000-": whole.content[50000:],
            "bytes=-7": whole.content[-7:],
        }.items():
            answer = await client.get(name, headers={"Range": wanted})
            assert (answer.status_code, answer.content) == (206, part)
        beyond = await client.get(name, headers={"Range": "bytes=999999-"})
        assert beyond.status_code == 416
        assert beyond.headers["content-range"] == f"bytes */{len(whole.content)}"
        old = {"Range": "bytes=0-9", "If-Range": '"old"'}
        assert (await client.get(name, headers=old)).status_code == 200


async def test_a_chat_room_hears_what_is_said_in_it(tmp_path: Path) -> None:
    async with application("chat", tmp_path) as app:
        rooms = f"ws://127.0.0.1:{app.port}/chat/rooms"
        async with (
            websocket(f"{rooms}/a", proxy=None) as one,
            websocket(f"{rooms}/a", proxy=None) as two,
            websocket(f"{rooms}/b", proxy=None) as apart,
            asyncio.timeout(10),
        ):
            await one.send("hello")
            assert [await one.recv(), await two.recv()] == ["hello", "hello"]
            await apart.send("only here")
            assert await apart.recv() == "only here"
        async with httpx.AsyncClient(trust_env=False) as client:
            assert "WebSocket" in (await client.get(f"{app.url}/chat/")).text


async def test_grpc_calls_streams_and_health(tmp_path: Path) -> None:
    async with (
        application("grpc_echo", tmp_path, grace="0.5") as app,
        grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel,
    ):
        one: Any = channel.unary_unary  # its types are those of serializers, and there are none
        stream: Any = channel.unary_stream
        both: Any = channel.stream_stream
        say = one("/weirgate.demo.Echo/Say")(b"hello", timeout=10)
        assert await say == b"hello"
        assert dict(await say.initial_metadata())["x-instance"] == "here"
        talk = both("/weirgate.demo.Echo/Talk")(timeout=10)
        for word in (b"one", b"two"):
            await talk.write(word)
            assert await talk.read() == word
        await talk.done_writing()
        watch = stream(HEALTH + "Watch")(b"", timeout=10)
        assert await watch.read() == b"\x08\x01"
        check = one(HEALTH + "Check")
        assert await check(b"\x0a\x12weirgate.demo.Echo", timeout=10) == b"\x08\x01"
        app.child.terminate()
        assert await watch.read() == b"\x08\x02"  # said before it ends
        assert await check(b"", timeout=10) == b"\x08\x02"


@pytest.mark.parametrize("name", ["tcp_echo", "udp_echo"])
async def test_echoes_name_the_client_of_a_proxy_header(tmp_path: Path, name: str) -> None:
    async with application(name, tmp_path) as app:
        ask = ask_by_tcp if name == "tcp_echo" else ask_by_udp
        if name == "udp_echo":
            await eventually(lambda: answers_datagrams(app.port), what="an answer")
        us, answer = await ask(app.port, b"hello\n")
        assert answer == f"here 127.0.0.1:{us}: hello\n".encode()
        header = proxy_v2("192.0.2.7", 4321, tlvs=b"\x04\x00\x02xx")
        if name == "udp_echo":
            header = header[:13] + bytes([UDP4]) + header[14:]
        assert (await ask(app.port, header + b"hello\n"))[1] == b"here 192.0.2.7:4321: hello\n"
        local = proxy_v2("192.0.2.7", 4321, command=0x20)
        us, answer = await ask(app.port, local + b"hello\n")
        assert answer == f"here 127.0.0.1:{us}: hello\n".encode()
        broken = header[:14] + b"\xff\xff" + header[16:]  # longer than any
        assert (await ask(app.port, broken + b"hello\n", within_s=0.3))[1] == b""


async def ask_by_tcp(port: int, data: bytes, *, within_s: float = 5.0) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    us = int(writer.get_extra_info("sockname")[1])
    try:
        writer.write(data)
        async with asyncio.timeout(within_s):
            return us, await reader.readline()
    except ConnectionResetError:
        return us, b""
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def ask_by_udp(port: int, data: bytes, *, within_s: float = 1.0) -> tuple[int, bytes]:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0)
        client.bind(("127.0.0.1", 0))
        client.connect(("127.0.0.1", port))
        us = int(client.getsockname()[1])
        try:
            async with asyncio.timeout(within_s):
                await loop.sock_sendall(client, data)
                return us, await loop.sock_recv(client, 4096)
        except (TimeoutError, ConnectionRefusedError):
            return us, b""


async def test_a_stop_is_announced_and_fails_no_request(tmp_path: Path) -> None:
    """Between SIGTERM and the end: not well, but every request is answered; then the exit is 0."""
    async with (
        application("api", tmp_path, grace="1") as app,
        httpx.AsyncClient(base_url=app.url, trust_env=False, timeout=10) as client,
        httpx.AsyncClient(base_url=app.url, trust_env=False, timeout=10) as patient,
    ):
        await client.get("/api/items")  # a kept connection
        slow = asyncio.create_task(patient.get("/api/slow?ms=1300"))  # longer than the grace
        await eventually(lambda: len(established(app.port)) == 2, what="both connections")
        app.child.terminate()

        async def announced() -> bool:
            return (await client.get("/healthz")).status_code == 503

        await eventually(announced, what="healthz = 503")
        late = await client.get("/api/items")
        assert (late.status_code, late.headers["connection"]) == (200, "close")
        assert (await slow).status_code == 200
        async with asyncio.timeout(5):
            assert await app.child.wait() == 0
        assert app.log.read_text() == ""


def established(port: int) -> list[str]:
    rows = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return [
        row for row in rows if row.split()[1].endswith(f":{port:04X}") and row.split()[3] == "01"
    ]


@pytest.mark.parametrize("name", ["images", "chat", "grpc_echo", "tcp_echo", "udp_echo"])
async def test_every_application_ends_quietly(tmp_path: Path, name: str) -> None:
    async with application(name, tmp_path) as app:
        if name == "udp_echo":
            await eventually(lambda: answers_datagrams(app.port), what="an answer")
        assert await end(app.child, within_s=5) == 0
        assert app.log.read_text() == ""


async def answers_datagrams(port: int) -> bool:
    return (await ask_by_udp(port, b"x", within_s=0.2))[1] != b""


def test_the_image_gets_what_the_lock_says() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    lines = (APPLICATIONS / "requirements.txt").read_text().splitlines()
    wanted = [line for line in lines if not line.startswith("#")]
    assert wanted
    assert [line for line in wanted if f"\n{line} \\\n" not in lock] == []


def test_the_applications_are_short() -> None:
    lengths = {f.name: len(f.read_text().splitlines()) for f in APPLICATIONS.glob("*.py")}
    assert len(lengths) == 8
    assert {name: length for name, length in lengths.items() if length > 150} == {}
