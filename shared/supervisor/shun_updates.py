"""Tells edges whom to shun, whenever the list changes."""

import asyncio
import logging
from collections.abc import Sequence

from weirgate.shared.control.client import ChildError
from weirgate.shared.observability.logs import fields
from weirgate.shared.supervisor.children import Child
from weirgate.shared.supervisor.shuns import ShunTable

log = logging.getLogger(__name__)

_PUSH_RETRY_SECONDS = 0.5


class ShunUpdates:
    """Whether edges are to be told whom to shun, and the telling."""

    def __init__(self, shuns: ShunTable, edges: Sequence[Child]) -> None:
        self._shuns = shuns
        #: The fleet's own list: a process that has taken over stands in it.
        self._edges = edges
        self._due = asyncio.Event()
        #: One list at a time: an older one must not overtake a newer.
        self._telling = asyncio.Lock()

    def tell_soon(self) -> None:
        """Have the list sent to the edges, soon and once."""
        self._due.set()

    async def tell_now(self) -> bool:
        """Send the list; say whether all edges have it. Others are told later."""
        async with self._telling:
            encoded = self._shuns.encoded()
            # one that is not ready is told when it is
            told = [await self._tell(edge, encoded) for edge in self._edges]
        return all(told)

    async def keep_telling(self) -> None:
        """Send the list whenever it is due, until cancelled."""
        while True:
            await self._due.wait()
            self._due.clear()
            if not await self.tell_now() and self._due.is_set():
                await asyncio.sleep(_PUSH_RETRY_SECONDS)

    async def _tell(self, edge: Child, encoded: bytes) -> bool:
        if edge.state != "ready":
            return False
        try:
            await edge.client.put_shuns(encoded)
        except ChildError as error:
            log.warning(
                "the edge was not told whom to shun",
                extra=fields(process=edge.name, error=error),
            )
            self._due.set()
            return False
        return True
