"""The demo's web applications: a shop, its API and its images, each saying who answered."""

import os
from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

LOGO = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 8">'
    '<path d="M0 6h24M4 6V2m4 4V2m4 4V2m4 4V2m4 4V2" stroke="teal" fill="none"/></svg>\n'
)


def _who() -> str:
    return os.environ.get("DEMO_NAME", "app")


def _answered() -> dict[str, str]:
    return {"x-app": _who(), "x-app-pid": str(os.getpid())}


async def _health(_: Request) -> Response:
    return PlainTextResponse("ok\n", headers=_answered())


async def _shop(request: Request) -> Response:
    text = f"Welcome. {_who()} (process {os.getpid()}) answered {request.url.path}\n"
    return PlainTextResponse(text, headers=_answered())


async def _api(request: Request) -> Response:
    seen = {
        "app": _who(),
        "pid": os.getpid(),
        "path": request.url.path,
        "client": request.headers.get("x-forwarded-for"),
        "scheme": request.headers.get("x-forwarded-proto"),
        "request_id": request.headers.get("x-request-id"),
    }
    return JSONResponse(seen, headers=_answered())


async def _image(_: Request) -> Response:
    return Response(LOGO, media_type="image/svg+xml", headers=_answered())


def _application(path: str, handler: Callable[[Request], Awaitable[Response]]) -> Starlette:
    methods = ["GET", "POST", "PUT", "DELETE"]
    return Starlette(routes=[Route("/healthz", _health), Route(path, handler, methods=methods)])


shop = _application("/{path:path}", _shop)
api = _application("/{path:path}", _api)
images = _application("/images/{name}", _image)
