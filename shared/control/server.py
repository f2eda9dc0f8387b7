"""A uvicorn server that lives inside somebody else's loop and leaves signals alone."""

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from socket import socket
from typing import Any

import uvicorn


class ControlServer(uvicorn.Server):
    """Serve one ASGI application on one bound socket; the socket is closed at the end."""

    def __init__(self, application: Any, listener: socket) -> None:
        # uvicorn's own life story is noise in a load balancer's log
        logging.getLogger("uvicorn").setLevel(logging.WARNING)
        super().__init__(
            uvicorn.Config(
                application,
                loop="none",
                http="h11",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=1,
            )
        )
        self._listener = listener

    async def run_on_socket(self) -> None:
        """Serve until cancelled."""
        try:
            await self.serve(sockets=[self._listener])
        finally:
            # a cancelled server cleans nothing up; one that ended has nothing left to clean
            for server in getattr(self, "servers", []):
                server.close()
            for connection in list(self.server_state.connections):
                connection.shutdown()
            self._listener.close()

    async def main_loop(self) -> None:
        """Serve until cancelled: uvicorn's own loop wakes ten times a second to look at flags."""
        await asyncio.Event().wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signal handlers as they are: the process that embeds this has its own."""
        yield
