"""``GET /health`` of processes without an admin API: ``status --ready`` asks them, too."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping

from weirgate.shared.supervisor.listeners import bind


@contextlib.asynccontextmanager
async def answering(address: str, state: Callable[[], Mapping[str, bool]]) -> AsyncIterator[None]:
    """Answer probes at ``IP:port`` meanwhile, ``off`` = nowhere, in the form of the admin API.

    Raises:
        OSError: the address cannot be listened on.
    """
    if address == "off":
        yield
        return

    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    from weirgate.shared.control.server import ControlServer

    async def answer(_: Request) -> Response:
        told = state()
        return JSONResponse(dict(told), status_code=200 if told["ready"] else 503)

    server = ControlServer(Starlette(routes=[Route("/health", answer)]), bind(address))
    serving = asyncio.create_task(server.run_on_socket())
    try:
        yield
    finally:
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving
