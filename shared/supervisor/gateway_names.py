"""The names that an edge finds gateway nodes by: each address is a node, a change is a reload."""

import logging
from collections.abc import Awaitable, Callable, Iterable

from weirgate.shared.discovery.dns import Resolver
from weirgate.shared.discovery.watch import NameWatch
from weirgate.shared.observability.logs import fields
from weirgate.shared.supervisor.changes import Changes

log = logging.getLogger(__name__)

_FIRST_ANSWERS_SECONDS = 2.0


class GatewayNames:
    """Keeps the addresses in ``known``, which the planner reads. A failure takes none away."""

    def __init__(self, resolver: Resolver, known: dict[str, tuple[str, ...]]) -> None:
        self._known = known
        self._watch = NameWatch(resolver, self._resolved)
        self._changes = Changes()

    async def watch(self, names: Iterable[str]) -> None:
        """Watch these names from now on; returns when each was tried once, at most 2 s later."""
        self._watch.update(names)
        await self._watch.first_answers(_FIRST_ANSWERS_SECONDS)

    async def keep_telling(self, reload: Callable[[], Awaitable[bool]]) -> None:
        """Call ``reload`` after each change, and again while it is refused, until cancelled."""
        await self._changes.keep_telling(reload)

    def taken(self) -> None:
        """Say that what is known now is about to be read."""
        self._changes.taken()

    async def close(self) -> None:
        """Stop watching."""
        await self._watch.close()

    def _resolved(self, name: str, found: tuple[str, ...] | None, _: str) -> None:
        addresses = tuple(sorted(found or ()))
        if addresses and addresses != self._known.get(name):
            log.info("gateway nodes found", extra=fields(name=name, addresses=",".join(addresses)))
            self._known[name] = addresses
            self._changes.note()
