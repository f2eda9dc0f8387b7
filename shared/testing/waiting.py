"""Waiting for a condition with a deadline, the only place where a test may pass time."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast, overload

T = TypeVar("T")

INTERVAL_S = 0.01


@overload
async def eventually(
    probe: Callable[[], Awaitable[T | None]],
    *,
    within_s: float = ...,
    what: str = ...,
    explain: Callable[[], str] | None = ...,
) -> T: ...


@overload
async def eventually(
    probe: Callable[[], T | None],
    *,
    within_s: float = ...,
    what: str = ...,
    explain: Callable[[], str] | None = ...,
) -> T: ...


async def eventually(
    probe: Callable[[], T | None] | Callable[[], Awaitable[T | None]],
    *,
    within_s: float = 10.0,
    what: str = "",
    explain: Callable[[], str] | None = None,
) -> T:
    """Call ``probe`` until it gives something true, and return that.

    Args:
        probe: A function or coroutine function; a false result means "not yet".
        within_s: The deadline in seconds.
        what: What is waited for, named in the failure.
        explain: Called at the deadline; its text is added to the failure.

    Returns:
        The first true result.

    Raises:
        TimeoutError: The deadline passed; the text says what was seen last.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within_s
    while True:
        seen = probe()
        if inspect.isawaitable(seen):
            seen = await seen
        if seen:
            return cast("T", seen)
        if loop.time() >= deadline:
            detail = explain() if explain else ""
            text = f"not within {within_s:g} s: {what or probe}; last seen: {seen!r} {detail}"
            raise TimeoutError(text)
        await asyncio.sleep(INTERVAL_S)
