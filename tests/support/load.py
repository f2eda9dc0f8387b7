"""A load of keep-alive clients that counts successes, and failures by kind and by time."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from tests.support.strict import MalformedError, TruncatedError
from tests.support.wire import Wire, connect, request

REQUEST_DEADLINE_S = 10.0


@dataclass(frozen=True)
class Failure:
    """One request that got no good answer; times are of the monotonic clock."""

    kind: str
    opened_at: float
    failed_at: float


@dataclass
class Load:
    """The running counts; ``connections`` clients, each with one request in flight at a time."""

    port: int
    target: str
    requests_per_connection: int | None
    host: str = "127.0.0.1"
    ok: int = 0
    opened: int = 0
    failures: list[Failure] = field(default_factory=list)
    slowest_s: float = 0.0
    running: bool = True

    def kinds(self) -> Counter[str]:
        return Counter(failure.kind for failure in self.failures)

    def opened_after(self, moment: float) -> list[Failure]:
        """Return the failures on connections that were opened after a moment."""
        return [failure for failure in self.failures if failure.opened_at > moment]

    async def client(self) -> None:
        """Send requests, one after another, on one connection after another."""
        while self.running:
            opened_at = time.monotonic()
            try:
                async with connect(self.port, host=self.host) as wire:
                    self.opened += 1
                    await self._requests(wire)
            except (OSError, MalformedError, AssertionError, TimeoutError) as error:
                self.failures.append(Failure(_kind(error), opened_at, time.monotonic()))

    async def _requests(self, wire: Wire) -> None:
        data = request(self.target)
        sent = 0
        while self.running and sent != self.requests_per_connection:
            began = time.monotonic()
            await wire.send(data)
            response = await wire.response(within_s=REQUEST_DEADLINE_S)
            assert response.status == 200, f"status_{response.status}_{response.reason}"
            self.ok += 1
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)
            sent += 1
            if response.one("connection") == "close":
                return


@contextlib.asynccontextmanager
async def load(
    port: int,
    target: str = "/",
    *,
    connections: int = 16,
    requests_per_connection: int | None = None,
    host: str = "127.0.0.1",
) -> AsyncIterator[Load]:
    """Keep a load running inside the ``with``; at its end the last answers are awaited."""
    counts = Load(port, target, requests_per_connection, host)
    async with asyncio.TaskGroup() as clients:
        for _ in range(connections):
            clients.create_task(counts.client())
        try:
            yield counts
        finally:
            counts.running = False


def _kind(error: BaseException) -> str:
    match error:
        case ConnectionRefusedError():
            return "connect_refused"
        case ConnectionError():
            return "reset"
        case TimeoutError():
            return "timeout"
        case TruncatedError():
            return "truncated"
        case AssertionError():
            return str(error)
        case _:
            return type(error).__name__
