"""Waiting for what announces itself to nobody: another process's state."""

import asyncio
from collections.abc import Awaitable, Callable


async def until(condition: Callable[[], Awaitable[bool]], every_seconds: float) -> None:
    """Ask again and again until the answer is yes; the caller sets the deadline."""
    while True:
        if await condition():
            return
        await asyncio.sleep(every_seconds)
