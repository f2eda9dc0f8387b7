"""Ends a process that hangs: it lives, but gives no sign of life. Its keeper starts another."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from weirgate.shared.control.client import ChildClient, ChildError
from weirgate.shared.observability.logs import fields
from weirgate.shared.supervisor.children import Child

log = logging.getLogger(__name__)

#: Silent for so long, a child hangs. Gateways beat every 100 ms.
SILENCE_SECONDS = 5.0
#: A look that comes so much too late says that the supervisor itself was stopped or starved.
LATE_SECONDS = 1.0
LOOK_SECONDS = 0.25
_ASK_SECONDS = 2.0
_READY_POLL_SECONDS = 0.01


class Watch:
    """Looks at every child that serves, be it ready or draining.

    A gateway's sign of life is its heartbeat in the load page; the edge's, that it answers. The
    silence of a child that is being given a snapshot does not count: ``put_snapshot`` has a
    deadline of its own. Neither does what the supervisor could not hear because it did not run:
    after that, the silence of all counts anew.
    """

    def __init__(
        self,
        children: Sequence[Child],
        load_page: Callable[[], Sequence[Mapping[str, Any]]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load_page = load_page
        self._clock = clock
        self._looked_at = clock()
        self._heard_at = dict.fromkeys(children, self._looked_at)

    def add(self, child: Child) -> None:
        """Look at one more."""
        self._heard_at[child] = self._clock()

    def forget(self, child: Child) -> None:
        """Look at it no more."""
        self._heard_at.pop(child, None)

    async def keep_looking(self) -> None:
        """Look until cancelled."""
        self._looked_at = self._clock()  # what came before, the start of the node, was no look
        while True:
            self.look()
            await asyncio.sleep(LOOK_SECONDS)

    async def keep_asking(self, child: Child) -> None:
        """Ask a child that has no heartbeat for its status, until cancelled.

        The connection is its own, opened as soon as the child is ready, and never idle for long:
        a child that has run out of descriptors could not accept another one, but is alive. A
        refusal is no sign of life: so answers a process whose data plane has stopped.
        """
        client = ChildClient(child.control_socket)
        try:
            while True:
                if child.state != "ready":
                    await asyncio.sleep(_READY_POLL_SECONDS)
                    continue
                with contextlib.suppress(ChildError):
                    # as long as a silence may last: a slow answer is a sign of life, too
                    await client.status(SILENCE_SECONDS)
                    self._heard_at[child] = self._clock()
                await asyncio.sleep(_ASK_SECONDS)
        finally:
            await client.close()

    def look(self) -> None:
        """Take in the heartbeats, and end every child that has been silent for too long."""
        now = self._clock()
        late = now - self._looked_at - LOOK_SECONDS
        self._looked_at = now
        if late > LATE_SECONDS:
            log.warning("the supervisor was held up itself", extra=fields(late=f"{late:.1f}s"))
            self._heard_at = dict.fromkeys(self._heard_at, now)
        beats = {slot["index"]: slot["heartbeat_ms"] / 1000 for slot in self._load_page()}
        for child, heard_at in self._heard_at.items():
            if child.state != "ready" or child.snapshots_coming:
                self._heard_at[child] = now
                continue
            if child.tier == "gateway":
                self._heard_at[child] = heard_at = max(heard_at, beats[child.index])
            if now - heard_at > SILENCE_SECONDS:
                child.kill_hung(now - heard_at)
                self._heard_at[child] = now
