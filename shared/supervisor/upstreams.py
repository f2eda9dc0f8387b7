"""Endpoint states and the two things that feed them: the prober and name resolution."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from weirgate.shared.discovery.dns import Resolver
from weirgate.shared.discovery.watch import NameWatch
from weirgate.shared.health.prober import Prober
from weirgate.shared.supervisor.endpoints import EndpointTable

_FIRST_ANSWERS_SECONDS = 2.0
#: Loads of gateway nodes go on together: each of many nodes answers once a second.
_LOADS_SECONDS = 0.1

Pools = Sequence[Mapping[str, Any]]


class Upstreams:
    """All endpoints, resolved and checked."""

    def __init__(self, resolver: Resolver, changed: Callable[[], None]) -> None:
        self.table = EndpointTable(changed, self._loads_changed)
        self._changed = changed
        self._telling: asyncio.TimerHandle | None = None
        self._prober = Prober(self.table.addresses, self.table.record)
        self._names = NameWatch(resolver, self.table.resolved)

    async def load(self, pools: Pools) -> None:
        """Take pools into force; returns when new names were tried once, at most 2 s later."""
        self.table.load(pools)
        self._names.update(self.table.names())
        await self._names.first_answers(_FIRST_ANSWERS_SECONDS)
        self._prober.update(self.table.targets())

    def _loads_changed(self) -> None:
        if self._telling is None:
            self._telling = asyncio.get_running_loop().call_later(_LOADS_SECONDS, self._tell)

    def _tell(self) -> None:
        self._telling = None
        self._changed()

    async def close(self) -> None:
        """Stop checking and resolving."""
        if self._telling is not None:
            self._telling.cancel()
        await self._prober.close()
        await self._names.close()
