"""Background work whose failure is never silent and never the end of the node."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from weirgate.shared.observability.logs import fields
from weirgate.shared.polling import until

log = logging.getLogger(__name__)

_PAUSE_SECONDS = 1.0


class Tasks:
    """The node's background tasks."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def keep(self, name: str, work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """Run ``work`` until it returns or is cancelled; after a crash, log it and run it again."""
        return self._start(name, self._restarting(name, work))

    def once(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run ``work`` once; a crash is logged."""
        return self._start(name, self._logged(name, work))

    async def cancel(self) -> None:
        """Cancel everything and wait for it to end."""
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _restarting(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        await until(lambda: self._survived(name, work()), _PAUSE_SECONDS)

    async def _logged(self, name: str, work: Awaitable[None]) -> None:
        await self._survived(name, work)

    async def _survived(self, name: str, work: Awaitable[None]) -> bool:
        try:
            await work
        except Exception:  # the last line of defence; it is logged whole
            log.exception("an internal task failed", extra=fields(task=name))
            return False
        return True
