"""A chat over WebSocket: what one says in a room, all in the room get, the speaker too."""

import asyncio
import contextlib
from collections import defaultdict

from common import INSTANCE, STOPPING, healthz, serve_http
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

#: What may wait for a slow member; one that is further behind is shown the door.
BEHIND_LIMIT = 200
TEXT_LIMIT = 4096
TRY_AGAIN_LATER = 1013
TOO_SLOW = 1008

PAGE = """<!doctype html><html lang=en><meta charset=utf-8><title>Chat</title>
<style>body{font:16px sans-serif;max-width:40em;margin:2em auto}#said{height:20em;overflow:auto;
border:1px solid #888;padding:.5em;white-space:pre-wrap}input{width:70%}</style>
<h1>Chat</h1><div id=said></div><form id=say><input id=text autofocus><button>Say</button></form>
<script>
const room = new URLSearchParams(location.search).get("room") || "lobby";
const at = (location.protocol === "https:" ? "wss://" : "ws://") + location.host;
const show = text => { said.append(text + "\\n"); said.scrollTop = said.scrollHeight; };
let socket;
function enter() {
  socket = new WebSocket(at + "/chat/rooms/" + encodeURIComponent(room));
  socket.onmessage = event => show(event.data);
  socket.onclose = () => { show("(connection lost; again in a second)"); setTimeout(enter, 1000); };
}
enter();
say.onsubmit = event => { event.preventDefault(); socket.send(text.value); text.value = ""; };
</script></html>
"""

rooms: defaultdict[str, set[asyncio.Queue[str]]] = defaultdict(set)


async def _page(_: Request) -> Response:
    return HTMLResponse(PAGE)


async def _room(socket: WebSocket) -> None:
    await socket.accept(headers=[(b"x-instance", INSTANCE.encode())])
    if STOPPING.is_set():
        await socket.close(TRY_AGAIN_LATER)
        return
    name = socket.path_params["name"]
    box: asyncio.Queue[str] = asyncio.Queue(BEHIND_LIMIT)
    rooms[name].add(box)
    writer = asyncio.create_task(_write(socket, box))
    reader = asyncio.create_task(_read(socket, name))
    try:
        await asyncio.wait({writer, reader}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        rooms[name].discard(box)
        if not rooms[name]:
            del rooms[name]
        for task in (writer, reader):
            task.cancel()
        await asyncio.gather(writer, reader, return_exceptions=True)


async def _read(socket: WebSocket, room: str) -> None:
    with contextlib.suppress(WebSocketDisconnect):
        while True:
            text = (await socket.receive_text())[:TEXT_LIMIT]
            for box in list(rooms[room]):
                if box.full():
                    _show_out(box)
                else:
                    box.put_nowait(text)


def _show_out(box: asyncio.Queue[str]) -> None:
    """Replace all that waits for a member by the order to leave, an empty text."""
    while not box.empty():
        box.get_nowait()
    box.put_nowait("")


async def _write(socket: WebSocket, box: asyncio.Queue[str]) -> None:
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # the client has left
        while text := await box.get():
            await socket.send_text(text)
        await socket.close(TOO_SLOW)


app = Starlette(
    routes=[
        Route("/healthz", healthz),
        Route("/chat/", _page),
        WebSocketRoute("/chat/rooms/{name}", _room),
    ]
)

if __name__ == "__main__":
    serve_http(app)
