"""The application that hypercorn runs in the tests, by HTTP/2 and WebSocket, in bare ASGI."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]
ETAG = (b"etag", b'"a"')


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Serve what the scope is."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
    elif scope["type"] == "websocket":
        await _websocket(scope, receive, send)
    elif scope["type"] == "http":
        await _http(scope, receive, send)


async def _http(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    body = await _body(receive)
    match scope["path"]:
        case "/204":
            await _answer(send, 204, (), b"")
        case "/file" if (b"if-none-match", ETAG[1]) in scope["headers"]:
            await _answer(send, 304, (ETAG,), b"")
        case "/file":
            await _answer(send, 200, (ETAG,), b"hello")
        case "/trailers":
            await _with_trailers(send)
        case "/hello":
            await _answer(send, 200, (), b"" if scope["method"] == "HEAD" else b"hello", 5)
        case _:
            await _answer(send, 200, (), body)


async def _body(receive: Receive) -> bytes:
    parts = []
    while True:
        event = await receive()
        parts.append(event.get("body", b""))
        if not event.get("more_body"):
            return b"".join(parts)


async def _answer(
    send: Send, status: int, headers: Headers, body: bytes, size: int | None = None
) -> None:
    length = len(body) if size is None else size
    fields = [*headers] if status == 204 else [*headers, (b"content-length", b"%d" % length)]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


async def _with_trailers(send: Send) -> None:
    start = {"type": "http.response.start", "status": 200, "headers": [], "trailers": True}
    await send(start)
    await send({"type": "http.response.body", "body": b"hello"})
    fields = [(b"x-sum", b"2")]
    await send({"type": "http.response.trailers", "headers": fields, "more_trailers": False})


async def _websocket(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    await receive()
    if scope["path"] == "/refused":
        await send({"type": "websocket.close"})  # before it was accepted: 403
        return
    offered = scope["subprotocols"]
    await send({"type": "websocket.accept", "subprotocol": offered[0] if offered else None})
    while (event := await receive())["type"] == "websocket.receive":
        if event.get("text") == "close":
            await send({"type": "websocket.close", "code": 4001, "reason": "as asked"})
            return
        await send({**event, "type": "websocket.send"})


async def _lifespan(receive: Receive, send: Send) -> None:
    while (event := await receive())["type"] != "lifespan.shutdown":
        await send({"type": event["type"] + ".complete"})
    await send({"type": "lifespan.shutdown.complete"})
