"""Keeps the addresses of every named endpoint fresh; a failure never takes good ones away."""

import asyncio
import logging
from collections.abc import Callable, Iterable

from weirgate.shared.discovery.dns import Answer, ResolutionError, Resolver, completed
from weirgate.shared.observability.logs import fields

log = logging.getLogger(__name__)

_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 1.0, 30.0

Resolved = Callable[[str, tuple[str, ...] | None, str], None]


class NameWatch:
    """Resolves each name again when its answer expires.

    ``resolved(name, addresses, error)`` is called after each try; ``addresses`` is None when the
    try failed, and the last good ones stay in force.
    """

    def __init__(self, resolver: Resolver, resolved: Resolved) -> None:
        self._resolver = resolver
        self._resolved = resolved
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._tried: dict[str, asyncio.Event] = {}
        self._last: dict[str, tuple[str, ...]] = {}

    def update(self, names: Iterable[str]) -> None:
        """Watch these names from now on."""
        wanted = set(names)
        for name in self._tasks.keys() - wanted:
            self._tasks.pop(name).cancel()
            del self._tried[name]
            self._last.pop(name, None)
        for name in wanted - self._tasks.keys():
            self._tried[name] = asyncio.Event()
            self._tasks[name] = asyncio.create_task(self._keep(name), name=f"resolve {name}")

    async def first_answers(self, seconds: float) -> None:
        """Wait until each name was tried once, but never longer than this."""
        waits = [asyncio.create_task(event.wait()) for event in self._tried.values()]
        if not waits:
            return
        _, late = await asyncio.wait(waits, timeout=seconds)
        for wait in late:
            wait.cancel()

    async def close(self) -> None:
        """Stop watching."""
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep(self, name: str) -> None:
        retry = _FIRST_RETRY_SECONDS
        failed = False
        while True:
            answer = await self._once(name, quiet=failed)
            self._tried[name].set()
            failed = answer is None
            if answer is None:
                pause, retry = retry, min(retry * 2, _LONGEST_RETRY_SECONDS)
            else:
                pause, retry = answer.ttl, _FIRST_RETRY_SECONDS
            await asyncio.sleep(pause)

    async def _once(self, name: str, *, quiet: bool) -> Answer | None:
        try:
            answer = await self._resolver.resolve(name)
        except ResolutionError as error:
            reason = str(error)
        except Exception as error:  # noqa: BLE001 - a bug met by one name must not stop its watch
            reason = f"{type(error).__name__}: {error}"
        else:
            # of a family that nobody answered for, the last addresses hold
            addresses = self._last[name] = completed(answer, self._last.get(name, ()))
            self._resolved(name, addresses, "")
            return answer
        if not quiet:  # once per outage
            log.warning("name not resolved", extra=fields(name=name, error=reason))
        self._resolved(name, None, reason)
        return None
