"""Changes from outside that want a reload, and want it again while it is refused."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS = 2.0, 30.0


class Changes:
    """Notes that something has changed, and has a reload take it in."""

    def __init__(self, settle_seconds: float = 0.0) -> None:
        """Wait ``settle_seconds`` after a change, so that those close to it are one reload."""
        self._settle_seconds = settle_seconds
        self._changed = asyncio.Event()

    def note(self) -> None:
        """Say that something has changed."""
        self._changed.set()

    def taken(self) -> None:
        """Say that what is known now is about to be read."""
        self._changed.clear()

    async def keep_telling(self, reload: Callable[[], Awaitable[bool]]) -> None:
        """Call ``reload`` after each change until it says that it was not refused."""
        while True:
            await self._changed.wait()
            pause = FIRST_RETRY_SECONDS
            while not await self._told(reload):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), pause)
                pause = min(pause * 2, LONGEST_RETRY_SECONDS)

    async def _told(self, reload: Callable[[], Awaitable[bool]]) -> bool:
        await asyncio.sleep(self._settle_seconds)
        self._changed.clear()
        return await reload()
