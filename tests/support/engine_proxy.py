"""A way to the Docker engine that a test can cut: a Unix socket that forwards, and counts."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

ENGINE = Path("/var/run/docker.sock")


class EngineProxy:
    """Forwards to the engine; ``requests`` are the first lines of all that was asked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.requests: list[str] = []
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        #: Take connections, and let nothing through.
        self.blocked = False

    async def restore(self) -> None:
        """Let connections through, from now on."""
        self._server = await asyncio.start_unix_server(self._forward, self.path)

    async def cut(self) -> None:
        """Break every connection, and take no more."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.path.unlink(missing_ok=True)
        for writer in list(self._open):
            writer.transport.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._open.add(writer)
        try:
            if self.blocked:
                await asyncio.Event().wait()
            engine_reader, engine_writer = await asyncio.open_unix_connection(ENGINE)
            self._open.add(engine_writer)
            try:
                await asyncio.gather(
                    self._pump(reader, engine_writer, asked=True),
                    self._pump(engine_reader, writer, asked=False),
                )
            finally:
                self._open.discard(engine_writer)
                engine_writer.transport.abort()
        except OSError:
            pass
        finally:
            self._tasks.discard(task)
            self._open.discard(writer)
            writer.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, asked: bool
    ) -> None:
        while data := await reader.read(1 << 16):
            if asked:  # what has no body begins anew with each piece
                self.requests.append(data.partition(b"\r\n")[0].decode("latin-1"))
            writer.write(data)
            await writer.drain()
        writer.transport.abort()


@contextlib.asynccontextmanager
async def engine_proxy(path: Path) -> AsyncIterator[EngineProxy]:
    """Forward on a path until the end."""
    proxy = EngineProxy(path)
    await proxy.restore()
    try:
        yield proxy
    finally:
        await proxy.cut()
