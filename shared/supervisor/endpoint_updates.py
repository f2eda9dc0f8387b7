"""Tells children what state endpoints are in, whenever it changes."""

import asyncio
import logging
from collections.abc import Iterable

from weirgate.shared.control.client import ChildError
from weirgate.shared.observability.logs import fields
from weirgate.shared.supervisor.children import Child
from weirgate.shared.supervisor.endpoints import EndpointTable

log = logging.getLogger(__name__)

_PUSH_PAUSE_SECONDS = 0.01
_PUSH_RETRY_SECONDS = 0.5


class EndpointUpdates:
    """Which children are to be told of endpoint states, and the telling."""

    def __init__(self, endpoints: EndpointTable) -> None:
        self._endpoints = endpoints
        self._due: dict[Child, asyncio.Event] = {}

    def add(self, child: Child) -> None:
        """Tell one more."""
        self._due[child] = asyncio.Event()

    def forget(self, child: Child) -> None:
        """Tell it no more."""
        del self._due[child]

    def tell_soon(self, child: Child) -> None:
        """Have the states sent to a child, soon and once."""
        self._due[child].set()

    def tell_all_soon(self) -> None:
        """Have the states sent to every child, soon and once."""
        for due in self._due.values():
            due.set()

    async def tell_now(self, children: Iterable[Child]) -> None:
        """Send the states to children that are ready; one that does not take them has to wait."""
        states = self._endpoints.encoded()
        running = [child for child in children if child.state == "ready"]
        await asyncio.gather(
            *(child.client.put_endpoints(states) for child in running), return_exceptions=True
        )

    async def keep_telling(self, child: Child) -> None:
        """Send the latest states until cancelled; changes that come close together go as one."""
        due = self._due[child]
        while True:
            await due.wait()
            await asyncio.sleep(_PUSH_PAUSE_SECONDS)
            due.clear()
            if child.state != "ready":  # its bootstrap, or becoming ready, will tell it
                continue
            try:
                await child.client.put_endpoints(self._endpoints.encoded())
            except ChildError as error:
                log.warning(
                    "child was not told of endpoint states",
                    extra=fields(process=child.name, error=error),
                )
                due.set()
                await asyncio.sleep(_PUSH_RETRY_SECONDS)
