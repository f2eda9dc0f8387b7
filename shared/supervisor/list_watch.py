"""Watches the lists of networks that the configuration names: a change of one is a reload.

The files are looked at, not subscribed to: that works on every file system, and a second of delay
is no harm.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path

from weirgate.shared.config.lists import Signature, signature
from weirgate.shared.observability.logs import fields

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.5

Lists = Mapping[Path, Signature]


class ListWatch:
    """Calls ``reload`` when a list has changed and then stayed the same for one more look.

    A writer that is half through is so mostly left to finish. What a refused reload has seen is
    not tried again until it changes again.
    """

    def __init__(
        self, in_force: Callable[[], Lists], reload: Callable[[], Awaitable[None]]
    ) -> None:
        self._in_force = in_force
        self._reload = reload
        self._pending: dict[Path, Signature] = {}
        self._tried: dict[Path, Signature] = {}

    async def watch(self) -> None:
        """Look again and again."""
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Look once."""
        known = dict(self._in_force())
        if not known:
            return
        now = await asyncio.to_thread(_signatures, known)
        self._tried = {path: seen for path, seen in self._tried.items() if path in known}
        changed = {
            path: seen
            for path, seen in now.items()
            if seen != known[path] and seen != self._tried.get(path)
        }
        settled = bool(changed) and changed == self._pending
        self._pending = {} if settled else changed
        if settled:
            self._tried |= changed
            log.info("a list has changed", extra=fields(files=",".join(map(str, changed))))
            await self._reload()


def _signatures(paths: Iterable[Path]) -> dict[Path, Signature]:
    return {path: signature(path) for path in paths}
