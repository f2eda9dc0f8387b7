"""The end of a node: when it is asked for, how urgent it is, and the drain before it."""

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable

from weirgate.shared.observability.logs import fields
from weirgate.shared.supervisor.fleet import Fleet
from weirgate.shared.supervisor.hosts import OtherHosts
from weirgate.shared.supervisor.readiness import Notifier
from weirgate.shared.supervisor.settings import Settings

log = logging.getLogger(__name__)

_GRACE_SECONDS, _NO_GRACE_SECONDS = 2.0, 0.2
#: What the rest of an end takes at most on a busy host, after the drain and the grace.
_CLOSE_SECONDS = 5.0


class Shutdown:
    """Begins with a signal; a second one makes it hurry."""

    def __init__(self, notifier: Notifier, settings: Callable[[], Settings]) -> None:
        self._notifier = notifier
        self._settings = settings
        self._begun = asyncio.Event()
        self._hurried = asyncio.Event()

    @property
    def begun(self) -> bool:
        """Whether the node takes no more work."""
        return self._begun.is_set()

    @property
    def grace_seconds(self) -> float:
        """How long processes have to end by themselves."""
        return _NO_GRACE_SECONDS if self._hurried.is_set() else _GRACE_SECONDS

    def handle_signals(self) -> None:
        """Begin when told to, from now on; on the main thread only."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)

    async def wait(self) -> None:
        """Return when it has begun."""
        await self._begun.wait()

    async def interrupt(self, work: Awaitable[None]) -> None:
        """Do the work, but let a signal end it."""
        working = asyncio.ensure_future(work)
        stopping = asyncio.create_task(self._begun.wait())
        try:
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
        finally:
            for task in (working, stopping):
                task.cancel()
            await asyncio.gather(working, stopping, return_exceptions=True)

    async def drain(self, fleet: Fleet, hosts: OtherHosts) -> None:
        """Let other hosts know, and finish what is open until the deadline, or a second signal."""
        await hosts.give_notice(unless=self._hurried)
        hurry = asyncio.create_task(self._hurried.wait())
        seconds = self._settings().drain_seconds
        draining = asyncio.create_task(fleet.drain(seconds))
        # the data planes close what is left at the deadline; a second more to hear of it
        await asyncio.wait(
            {draining, hurry}, timeout=seconds + 1, return_when=asyncio.FIRST_COMPLETED
        )
        how = "drained" if draining.done() else "not drained, closing what is left"
        for task in (draining, hurry):
            task.cancel()
        await asyncio.gather(draining, hurry, return_exceptions=True)
        log.info(how)

    def _on_signal(self, number: signal.Signals) -> None:
        if self._begun.is_set():
            self._hurried.set()
            return
        log.info("draining", extra=fields(signal=number.name))
        settings = self._settings()
        self._notifier.stopping(
            settings.notice_seconds + settings.drain_seconds + _GRACE_SECONDS + _CLOSE_SECONDS
        )
        self._begun.set()
