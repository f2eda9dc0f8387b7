"""Chromium in front: a page with 200 resources, and a WebSocket, on one HTTP/2 connection."""

import asyncio
import shutil
from pathlib import Path

import pytest
from websockets.asyncio.server import ServerConnection, serve

from tests.support import certs
from tests.support.origin import Behaviour, Exchange, one_origin
from tests.support.weirgate import running
from weirgate.shared.testing import Configuration, eventually

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed"),
]

RESOURCES = 200
PAGE = """<!doctype html><title>page</title><script>
async function load(number) {
  const answer = await fetch(`/resource/${number}`);
  return (await answer.text()) === `resource ${number}` ? 1 : 0;
}
function talk() {
  return new Promise((done) => {
    const socket = new WebSocket(`wss://${location.host}/ws`);
    socket.onopen = () => socket.send("hello");
    socket.onmessage = (event) => { socket.close(4001); done(event.data); };
    socket.onerror = () => done("error");
  });
}
(async () => {
  const loaded = await Promise.all([...Array(RESOURCES).keys()].map(load));
  const sum = loaded.reduce((one, other) => one + other, 0);
  await fetch(`/result?loaded=${sum}&said=${await talk()}`);
})();
</script>""".replace("RESOURCES", str(RESOURCES))


def answering(kind: str, body: str) -> Behaviour:
    async def answer(exchange: Exchange) -> None:
        await exchange.read()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        await exchange.send(head.encode() + body.encode())

    return answer


async def talk(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


@pytest.fixture
def chromium(tmp_path: Path) -> list[str]:
    return [
        *("chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"),
        *("--disable-dev-shm-usage", "--ignore-certificate-errors", "--disable-extensions"),
        *("--disable-background-networking", "--disable-component-update"),
        *("--host-resolver-rules=MAP * 127.0.0.1", f"--user-data-dir={tmp_path / 'profile'}"),
    ]


async def test_a_page_with_200_resources_and_a_websocket(
    tmp_path: Path, chromium: list[str]
) -> None:
    tls = {"certificates": [certs.issue(tmp_path, "weirgate.test").yaml()]}
    async with one_origin() as origin, serve(talk, "127.0.0.1", 0) as websockets:
        origin.on("/", answering("text/html", PAGE))
        for number in range(RESOURCES):
            origin.on(f"/resource/{number}", answering("text/plain", f"resource {number}"))
        config = Configuration().listen("web", tls=tls)
        config.route("ws", match={"path": "/ws"}, pool="ws").route("all", pool="app")
        config.pool("app", origin.port)
        config.pool("ws", next(iter(websockets.sockets)).getsockname()[1])
        async with running(config) as weirgate:
            url = f"https://weirgate.test:{weirgate.port()}/"
            browser = await asyncio.create_subprocess_exec(
                *chromium,
                "--remote-debugging-port=0",
                url,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            try:
                entry = await weirgate.access.wait_for(
                    lambda e: e.get("path") == "/result", within_s=60
                )
            finally:
                browser.terminate()
                await browser.wait()
            assert entry["query"] == f"loaded={RESOURCES}&said=hello"
            entries = weirgate.access.entries()
            pages = [e for e in entries if str(e.get("path", "")).startswith("/resource/")]
            assert {(e["protocol"], e["status"], e["reason"]) for e in pages} == {
                ("HTTP/2", 200, "")
            }
            assert len({e["connection_id"] for e in pages}) == 1
            # The same connection carries the WebSocket (RFC 8441).
            socket = await weirgate.access.of("/ws")
            await eventually(lambda: socket["bytes_in"] > 0, what="bytes of the WebSocket")
            assert (socket["protocol"], socket["status"]) == ("HTTP/2", 200)
            assert socket["connection_id"] == pages[0]["connection_id"]
