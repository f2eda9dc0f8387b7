"""One child's process finishes and ends, by an operator's order."""

import asyncio
import logging

from weirgate.shared.control.client import ChildError
from weirgate.shared.observability.logs import fields
from weirgate.shared.supervisor.children import Child
from weirgate.shared.supervisor.orders import Order
from weirgate.shared.supervisor.tasks import Tasks

log = logging.getLogger(__name__)

#: A process that is there so long after its deadline hangs.
_HANGS_SECONDS = 5.0


async def finish(child: Child, order: Order, tasks: Tasks) -> None:
    """Tell the process that an order is meant for; one that starts is told when it is ready."""
    if child.state != "ready":
        return
    seconds = order.deadline_seconds or 0
    try:
        await child.client.drain(int(seconds * 1000))
    except ChildError as error:
        log.warning("child does not drain", extra=fields(process=child.name, error=error))
    child.finish()
    tasks.once(f"end {child.name}", _end_late(child, child.incarnation, seconds))


async def _end_late(child: Child, incarnation: int, seconds: float) -> None:
    await asyncio.sleep(seconds + _HANGS_SECONDS)
    if child.incarnation == incarnation and child.pid is not None:
        log.error("child does not end, killing it", extra=fields(process=child.name))
        child.kill()
