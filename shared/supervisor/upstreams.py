"""Endpoint states and the two things that feed them: the prober and name resolution."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from weirgate.shared.discovery.dns import Resolver
from weirgate.shared.discovery.watch import NameWatch
from weirgate.shared.health.prober import Prober
from weirgate.shared.supervisor.endpoints import EndpointTable

_FIRST_ANSWERS_SECONDS = 2.0

Pools = Sequence[Mapping[str, Any]]


class Upstreams:
    """All endpoints, resolved and checked."""

    def __init__(self, resolver: Resolver, changed: Callable[[], None]) -> None:
        self.table = EndpointTable(changed)
        self._prober = Prober(self.table.addresses, self.table.record)
        self._names = NameWatch(resolver, self.table.resolved)

    async def load(self, pools: Pools) -> None:
        """Take pools into force; returns when new names were tried once, at most 2 s later."""
        self.table.load(pools)
        self._names.update(self.table.names())
        await self._names.first_answers(_FIRST_ANSWERS_SECONDS)
        self._prober.update(self.table.targets())

    async def close(self) -> None:
        """Stop checking and resolving."""
        await self._prober.close()
        await self._names.close()
