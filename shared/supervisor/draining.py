"""Children take no new connections and finish the open ones, as the whole node ends."""

import asyncio
import logging
from collections.abc import Iterable, Sequence

from weirgate.shared.control.client import ChildError
from weirgate.shared.observability.logs import fields
from weirgate.shared.supervisor.children import Child

log = logging.getLogger(__name__)


async def say_drain(children: Sequence[Child], deadline_ms: int) -> None:
    """Tell children that are ready to drain; none gets a successor."""
    for child in children:
        child.retire()
    results = await asyncio.gather(
        *(child.client.drain(deadline_ms) for child in children if child.state == "ready"),
        return_exceptions=True,
    )
    for error in results:
        if isinstance(error, BaseException):
            log.warning("child does not drain", extra=fields(error=error))


async def all_drained(children: Iterable[Child]) -> bool:
    """Say whether all have finished what they had open, but for those of other containers."""
    own = [child for child in children if not child.is_seat]
    return all(await asyncio.gather(*(drained(child) for child in own)))


async def drained(child: Child) -> bool:
    """Say whether a child has finished what it had open, or has ended."""
    if child.pid is None:
        return True
    try:
        return bool((await child.client.status())["drained"])
    except ChildError:
        return False
