"""The control endpoint of an edge or gateway process, on its Unix socket in the run directory.

Plain asyncio, not uvloop: this loop sees a few requests a second, and uvloop would only add its
1.2 MB and its import to every child.
"""

import asyncio
import contextlib
import json
import signal
import socket
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from weirgate.shared.control.boot import SUCCESSION_KEY
from weirgate.shared.control.server import ControlServer
from weirgate.shared.polling import until

#: Used when a child is told to end by a signal alone; the supervisor names its own deadline.
DRAIN_DEADLINE_MS = 30_000
#: Answers on the descriptor channel: one byte, then the error's text where there is one.
TAKEN, REFUSED = b"+", b"-"
_CHANNEL_BYTES = 4096
_DRAINED_POLL_SECONDS = 0.02


class DataPlane(Protocol):
    """What this module needs of either data plane."""

    def start(self) -> None:
        """Start the thread."""

    def apply(self, snapshot: bytes, generation: int) -> None:
        """Put a snapshot in force, or raise ``ValueError``."""

    def set_endpoints(self, states: bytes) -> None:
        """Replace the endpoint states."""

    def metrics(self) -> bytes:
        """Return the metric families as JSON."""

    def status(self) -> bytes:
        """Return the state as JSON."""

    def snapshot(self) -> bytes:
        """Return the snapshot in force as JSON, secrets blanked."""

    def drain(self, deadline_ms: int) -> None:
        """Begin to drain."""

    def stop(self) -> None:
        """Stop and join the thread."""


class ListenerTaker(Protocol):
    """One of the edge's further verbs."""

    def add_listener(self, key: str, fd: int) -> None:
        """Take a listening socket over."""


class Predecessor(Protocol):
    """Another one: it takes up to 10 s."""

    def hand_over(self, fd: int) -> None:
        """Give way to the process at the other end, or raise ``ValueError`` and serve on."""


@runtime_checkable
class Shunner(Protocol):
    """Another verb of the edge."""

    def set_shuns(self, shuns: bytes) -> None:
        """Replace the list of shunned sources, or raise ``ValueError``."""


def serve(plane: DataPlane, bootstrap: Mapping[str, Any]) -> None:
    """Serve the control API for a started data plane, until it is told to end."""
    asyncio.run(Child(plane, bootstrap).run())


class Child:
    """One data plane and its control endpoint."""

    def __init__(self, plane: DataPlane, bootstrap: Mapping[str, Any]) -> None:
        self._plane = plane
        self._bootstrap = bootstrap
        # One thread: calls reach the data plane in order, and a slow one never blocks the loop.
        self._calls = ThreadPoolExecutor(1, thread_name_prefix="control")
        self._ended = asyncio.Event()
        self._draining = False
        self._terminated = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until drained after SIGTERM, or until a second SIGTERM."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._on_terminate)
        server = ControlServer(self.application(), _bind(Path(self._bootstrap["control_socket"])))
        serving = asyncio.create_task(server.run_on_socket())
        serving.add_done_callback(lambda _: self._ended.set())
        channel = self._open_channel()
        await self._ended.wait()
        if channel is not None:
            loop.remove_reader(channel)
            channel.close()
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving
        for task in self._tasks:
            task.cancel()
        self._plane.stop()
        self._calls.shutdown(wait=False, cancel_futures=True)

    def application(self) -> Starlette:
        """The verbs of docs/contracts.md, section 5."""
        own = []
        if isinstance(self._plane, Shunner):
            own.append(Route("/shuns", self._putting(self._plane.set_shuns), methods=["PUT"]))
        return Starlette(
            routes=[
                Route("/health", self._health),
                Route("/metrics", self._document(self._plane.metrics)),
                Route("/status", self._document(self._plane.status)),
                Route("/snapshot", self._document(self._plane.snapshot), methods=["GET"]),
                Route("/snapshot", self._put_snapshot, methods=["PUT"]),
                Route("/endpoints", self._putting(self._plane.set_endpoints), methods=["PUT"]),
                Route("/drain", self._drain, methods=["POST"]),
                *own,
            ]
        )

    async def _call(self, verb: Callable[..., Any], *arguments: object) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._calls, verb, *arguments)

    def _document(self, read: Callable[[], bytes]) -> Callable[[Request], Any]:
        async def answer(_: Request) -> Response:
            return Response(await self._call(read), media_type="application/json")

        return answer

    async def _health(self, _: Request) -> Response:
        status = json.loads(await self._call(self._plane.status))
        return JSONResponse({"ready": status["ready"], "draining": status["draining"]})

    async def _put_snapshot(self, request: Request) -> Response:
        generation = _whole_number(request, "generation")
        if generation is None:
            return _refused("generation must be a whole number")
        return await self._change(self._plane.apply, await request.body(), generation)

    def _putting(self, take: Callable[[bytes], None]) -> Callable[[Request], Any]:
        async def put(request: Request) -> Response:
            return await self._change(take, await request.body())

        return put

    async def _change(self, verb: Callable[..., Any], *arguments: object) -> Response:
        try:
            await self._call(verb, *arguments)
        except ValueError as error:
            return _refused(str(error))
        return Response(status_code=204)

    async def _drain(self, request: Request) -> Response:
        deadline_ms = _whole_number(request, "deadline_ms", DRAIN_DEADLINE_MS)
        if deadline_ms is None:
            return _refused("deadline_ms must be a whole number")
        self._draining = True
        await self._call(self._plane.drain, deadline_ms)
        return Response(status_code=202)

    def _on_terminate(self) -> None:
        if self._terminated:
            self._ended.set()
            return
        self._terminated = True
        self._spawn(self._finish())

    async def _finish(self) -> None:
        """Drain, unless the supervisor already asked for it, then end."""
        try:
            if not self._draining:
                await self._call(self._plane.drain, DRAIN_DEADLINE_MS)
            await until(self._is_drained, _DRAINED_POLL_SECONDS)
        finally:
            self._ended.set()

    async def _is_drained(self) -> bool:
        return bool(json.loads(await self._call(self._plane.status))["drained"])

    def _open_channel(self) -> socket.socket | None:
        fd = self._bootstrap.get("fd_channel")
        if fd is None:
            return None
        channel = socket.socket(fileno=fd)
        channel.settimeout(0)
        asyncio.get_running_loop().add_reader(channel, self._on_descriptor, channel)
        return channel

    def _on_descriptor(self, channel: socket.socket) -> None:
        try:
            key, fds, _, _ = socket.recv_fds(channel, _CHANNEL_BYTES, 1)
        except (BlockingIOError, InterruptedError):
            return
        if not key:  # the supervisor closed its end
            asyncio.get_running_loop().remove_reader(channel)
        elif fds:
            self._spawn(self._take_listener(channel, key.decode(), fds[0]))
        else:
            channel.send(REFUSED + b"no descriptor came with the key")

    async def _take_listener(self, channel: socket.socket, key: str, fd: int) -> None:
        plane: Any = self._plane
        try:
            if key == SUCCESSION_KEY:
                await self._call(plane.hand_over, fd)
            else:
                await self._call(plane.add_listener, key, fd)
        except ValueError as error:
            channel.send(REFUSED + str(error).encode()[: _CHANNEL_BYTES - 1])
        else:
            channel.send(TAKEN)

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _bind(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)  # left by the predecessor in the same run directory
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    path.chmod(0o600)
    listener.settimeout(0)
    return listener


def _whole_number(request: Request, name: str, default: int | None = None) -> int | None:
    text = request.query_params.get(name)
    if text is None:
        return default
    return int(text) if text.isascii() and text.isdigit() else None


def _refused(error: str) -> Response:
    return JSONResponse({"error": error}, status_code=422)
