"""One request by a client of either version, and what every test wants to know of its answer."""

from collections.abc import Awaitable, Callable

from tests.support.http2 import DATA, END_STREAM, fields_of, frame, headers, http2
from tests.support.wire import connect, request

Told = tuple[int, str, bytes]  # status, reason, body; 0 = broken off
Ask = Callable[..., Awaitable[Told]]


async def ask_1(port: int, path: str, method: str = "GET", body: bytes = b"") -> Told:
    """Ask in HTTP/1.1."""
    async with connect(port) as wire:
        found = await wire.exchange(request(path, method=method, body=body), method)
        return found.status, found.reason, found.body


async def ask_2(port: int, path: str, method: str = "GET", body: bytes = b"") -> Told:
    """Ask in HTTP/2."""
    async with http2(port) as client:
        frames = [headers(1, fields_of(path, method=method), ends=not body)]
        if body:
            frames.append(frame(DATA, END_STREAM, 1, body))
        await client.send(*frames)
        found = await client.answer(1)
        return found.status, found.one("weirgate-reason") or "", found.body
