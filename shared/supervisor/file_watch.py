"""Watches the files that the configuration names: a change of one is a reload.

Those are lists of networks, certificates with their keys and OCSP responses, authorities,
revocation lists, and directories of certificates.

The files are looked at, not subscribed to: that works on every file system, and a second of delay
is no harm.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path

from weirgate.shared.config.watched import Signature, signature
from weirgate.shared.observability.logs import fields

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.5
#: A look is followed by so many times its own length of rest: it costs 2 % of a processor at most,
#: also with tens of thousands of files.
_REST = 50
#: Looks in a row with yet another change, after which there is a reload all the same.
_MOST_UNSETTLED = 6
#: Changed files that a message names.
_MOST_NAMED = 10

Watched = Mapping[Path, Signature]


class FileWatch:
    """Calls ``reload`` when a file has changed and then all stayed the same for one more look.

    A writer that is half through is so mostly left to finish, and a thousand certificates that are
    replaced one by one are one reload, or one every few seconds. What a refused reload has seen is
    not tried again until something changes again.
    """

    def __init__(
        self, in_force: Callable[[], Watched], reload: Callable[[], Awaitable[object]]
    ) -> None:
        self._in_force = in_force
        self._reload = reload
        self._pending: dict[Path, Signature] = {}
        self._tried: dict[Path, Signature] = {}
        self._unsettled = 0
        self._look_seconds = 0.0

    async def watch(self) -> None:
        """Look again and again."""
        while True:
            await asyncio.sleep(max(_POLL_SECONDS, _REST * self._look_seconds))
            await self.look()

    async def look(self) -> None:
        """Look once."""
        known = dict(self._in_force())
        if not known:
            return
        now, self._look_seconds = await asyncio.to_thread(_signatures, known)
        # What is in force now may be what was tried before: then it can be tried again.
        tried = self._tried.items()
        self._tried = {path: seen for path, seen in tried if known.get(path, seen) != seen}
        changed = {
            path: seen
            for path, seen in now.items()
            if seen != known[path] and seen != self._tried.get(path)
        }
        settled = changed == self._pending or self._unsettled >= _MOST_UNSETTLED
        if not changed or not settled:
            self._unsettled = self._unsettled + 1 if changed else 0
            self._pending = changed
            return
        self._pending, self._unsettled = {}, 0
        self._tried |= changed
        log.info("files have changed", extra=fields(files=_named(changed), count=len(changed)))
        await self._reload()


def _named(paths: Iterable[Path]) -> str:
    return ",".join(str(path) for path in list(paths)[:_MOST_NAMED])


def _signatures(paths: Iterable[Path]) -> tuple[dict[Path, Signature], float]:
    """Return the signatures, and how long it took to get them."""
    began = time.thread_time()
    return {path: signature(path) for path in paths}, time.thread_time() - began
