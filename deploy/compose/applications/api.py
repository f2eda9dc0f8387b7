"""The shop's API: items, carts, who answered, and answers of any status, size and delay."""

import asyncio
import hashlib
import json
import secrets
from collections import OrderedDict
from collections.abc import AsyncIterator

from common import INSTANCE, healthz, serve_http
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

ITEMS_LIMIT = 1000
CARTS_LIMIT = 20_000
CART_ITEMS_LIMIT = 100
JSON_LIMIT_BYTES = 64 << 10
SLOW_LIMIT_MS = 60_000
DOWNLOAD_LIMIT_BYTES = 256 << 20
#: What a download is made of, over and over.
BLOCK = bytes(range(256)) * 256

items: OrderedDict[int, dict[str, object]] = OrderedDict(
    (number, {"id": number, "name": f"item {number}", "price_cents": 100 + 37 * number})
    for number in range(1, 21)
)
#: By the cookie ``session``; in the memory of this process alone.
carts: OrderedDict[str, list[object]] = OrderedDict()


async def _list(_: Request) -> Response:
    return JSONResponse({"instance": INSTANCE, "items": list(items.values())[-20:]})


async def _add(request: Request) -> Response:
    sent = await _json(request)
    number = next(reversed(items)) + 1
    item = {"id": number, "name": sent.get("name"), "price_cents": sent.get("price_cents")}
    items[number] = item
    if len(items) > ITEMS_LIMIT:
        items.popitem(last=False)
    return JSONResponse({"instance": INSTANCE, "item": item}, 201)


async def _whoami(request: Request) -> Response:
    seen: dict[str, object] = {
        "instance": INSTANCE,
        "peer": request.client.host if request.client else None,
        "client": request.headers.get("x-forwarded-for"),
        "scheme": request.headers.get("x-forwarded-proto", request.url.scheme),
        "request_id": request.headers.get("x-request-id"),
        "path": request.url.path,
    }
    if request.query_params.get("headers") == "1":
        seen["headers"] = list(request.headers.items())
    return JSONResponse(seen)


async def _cart(request: Request) -> Response:
    session = request.cookies.get("session") or secrets.token_hex(8)
    cart = carts.setdefault(session, [])
    carts.move_to_end(session)
    if len(carts) > CARTS_LIMIT:
        carts.popitem(last=False)
    if request.method == "POST":
        if len(cart) >= CART_ITEMS_LIMIT:
            raise HTTPException(409, "the cart is full")
        cart.append((await _json(request)).get("item"))
    answer = JSONResponse({"instance": INSTANCE, "session": session, "items": cart})
    answer.set_cookie("session", session, path="/", httponly=True, samesite="lax")
    return answer


async def _slow(request: Request) -> Response:
    wait_ms = _number(request.query_params.get("ms", "100"), SLOW_LIMIT_MS)
    await asyncio.sleep(wait_ms / 1000)
    return JSONResponse({"instance": INSTANCE, "waited_ms": wait_ms})


async def _status(request: Request) -> Response:
    code = request.path_params["code"]
    if not 200 <= code <= 599:
        raise HTTPException(400, "a status from 200 to 599")
    return Response(status_code=code)


async def _upload(request: Request) -> Response:
    digest, size = hashlib.sha256(), 0
    async for part in request.stream():
        digest.update(part)
        size += len(part)
    return JSONResponse({"instance": INSTANCE, "bytes": size, "sha256": digest.hexdigest()})


async def _download(request: Request) -> Response:
    size = _number(request.query_params.get("bytes", "1000"), DOWNLOAD_LIMIT_BYTES)

    async def parts() -> AsyncIterator[bytes]:
        left = size
        while left > 0:
            yield BLOCK[:left]
            left -= len(BLOCK)

    return StreamingResponse(
        parts(), headers={"content-length": str(size)}, media_type="application/octet-stream"
    )


async def _json(request: Request) -> dict[str, object]:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > JSON_LIMIT_BYTES:
            raise HTTPException(413, "too long")
    try:
        sent = json.loads(body)
    except ValueError as error:
        raise HTTPException(400, "no JSON") from error
    if not isinstance(sent, dict):
        raise HTTPException(400, "a JSON object is wanted")
    return sent


def _number(text: str, limit: int) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 12 or int(text) > limit:
        raise HTTPException(400, f"a number up to {limit} is wanted")
    return int(text)


app = Starlette(
    routes=[
        Route("/healthz", healthz),
        Route("/api/items", _list),
        Route("/api/items", _add, methods=["POST"]),
        Route("/api/whoami", _whoami),
        Route("/api/cart", _cart, methods=["GET", "POST"]),
        Route("/api/slow", _slow),
        Route("/api/status/{code:int}", _status, methods=["GET", "POST"]),
        Route("/api/upload", _upload, methods=["POST"]),
        Route("/api/download", _download),
    ]
)

if __name__ == "__main__":
    serve_http(app)
