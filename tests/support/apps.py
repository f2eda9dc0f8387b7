"""The applications that uvicorn and gunicorn run in the tests, written to the bare protocols."""

import os
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


async def asgi(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Answer with the method, the path and the size of the body."""
    if scope["type"] != "http":
        return
    size, more = 0, True
    while more:
        event = await receive()
        size += len(event.get("body", b""))
        more = event.get("more_body", False)
    headers = [(b"x-origin", b"uvicorn"), (b"x-pid", str(os.getpid()).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    first = f"{scope['method']} {scope['path']} ".encode()
    await send({"type": "http.response.body", "body": first, "more_body": True})
    await send({"type": "http.response.body", "body": str(size).encode()})


def wsgi(
    environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], Any]
) -> Iterable[bytes]:
    """Answer with the method, the path and the size of the body."""
    size = 0
    while data := environ["wsgi.input"].read(1 << 16):
        size += len(data)
    start_response("200 OK", [("x-origin", "gunicorn")])
    return [f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']} ".encode(), str(size).encode()]
