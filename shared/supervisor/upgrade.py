"""Replacing the edge's processes by fresh ones under load: ``weirgate upgrade edge``.

A fresh process is what is installed now. It starts beside the old one and serves nothing; when all
are ready, each takes over from its predecessor, which then finishes the streams that it relays.
Whatever fails before that leaves the old process as it was.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from weirgate.shared.control.client import ChildError
from weirgate.shared.control.operate import Answer, UpgradeRequest
from weirgate.shared.observability.logs import fields
from weirgate.shared.polling import until
from weirgate.shared.supervisor.children import Child
from weirgate.shared.supervisor.draining import drained
from weirgate.shared.supervisor.fleet import Fleet
from weirgate.shared.supervisor.orders import Order
from weirgate.shared.supervisor.tasks import Tasks

log = logging.getLogger(__name__)

TARGET = "edge"
_POLL_SECONDS = 0.01
#: A process that is not ready after 30 s is killed.
_START_SECONDS = 40.0
_DRAINED_POLL_SECONDS = 0.1
#: A process that is there so long after its deadline hangs.
_HANGS_SECONDS = 5.0


class Counts(Protocol):
    """Where the counters of a process outlive it."""

    async def collect(self, child: Child) -> bool:
        """Take in what it has counted so far."""

    def ended(self, child: Child) -> None:
        """It will count no more."""


class EdgeUpgrade:
    """One upgrade at a time: until the last old process has ended, another is refused."""

    def __init__(
        self,
        fleet: Fleet,
        tasks: Tasks,
        counts: Counts,
        *,
        configuration: asyncio.Lock,
        drain_seconds: Callable[[], float],
    ) -> None:
        self._fleet = fleet
        self._tasks = tasks
        self._counts = counts
        #: Held while no reload may change what the fresh processes have been started with.
        self._configuration = configuration
        self._drain_seconds = drain_seconds
        self._under_way = False

    async def run(self, request: UpgradeRequest) -> Answer:
        """Replace every edge process, or say why not."""
        if busy := self._busy():
            return _answer(409, "refused", busy)
        self._under_way = True
        try:
            async with self._configuration:
                return await self._replace_all(request)
        finally:
            self._under_way = False

    def _busy(self) -> str:
        if self._under_way:
            return "an upgrade is under way"
        old = ", ".join(f"{child.name} (pid {child.pid})" for child in self._fleet.passing)
        if old:
            return f"the last upgrade is not over: {old} still finishes its streams"
        absent = ", ".join(child.name for child in self._fleet.edges if child.state != "ready")
        return f"{absent} is not ready: there is nothing to take over from" if absent else ""

    async def _replace_all(self, request: UpgradeRequest) -> Answer:
        seconds = request.deadline_seconds
        seconds = self._drain_seconds() if seconds is None else seconds
        log.warning("upgrading the edge", extra=fields(by=request.by, deadline=seconds))
        pairs: list[tuple[Child, Child]] = []
        fresh: list[Child] = []
        try:
            for old in self._fleet.edges:
                fresh.append(self._fleet.start_successor(old))
                pairs.append((old, fresh[-1]))
            if why := await _not_ready(fresh):
                return self._failed(f"the new process does not get ready: {why}; {_UNCHANGED}")
            for old, new in pairs:
                try:
                    await self._fleet.hand_over(old, new)
                except ChildError as error:
                    return self._failed(f"{old.name} did not hand over: {error}; {_UNCHANGED}")
                self._fleet.promote(old, new)
                old.order = Order(request.by, seconds, incarnation=old.incarnation)
                self._tasks.once(f"finish {old.name}", self._finish(old, seconds))
        except OSError as error:  # out of descriptors, most of all
            return self._failed(f"the new process cannot be started: {error}; {_UNCHANGED}")
        finally:
            for new in fresh:
                if new.trial:  # it did not take over
                    self._tasks.once(f"dismiss {new.name}", self._dismiss(new))
        processes = [
            {"name": new.name, "pid": new.pid, "old_pid": old.pid, "old_name": old.name}
            for old, new in pairs
        ]
        log.warning(
            "the edge is upgraded, the old process finishes",
            extra=fields(pids=", ".join(str(new.pid) for new in fresh), deadline=seconds),
        )
        done = {"deadline_seconds": seconds, "processes": processes}
        return Answer(200, {"result": "upgraded", "target": TARGET, **done})

    async def _finish(self, old: Child, seconds: float) -> None:
        """Let an old process finish its streams and end; keep what it has counted."""
        try:
            await old.client.drain(int(seconds * 1000))
        except ChildError as error:
            log.warning("child does not drain", extra=fields(process=old.name, error=error))
        try:
            async with asyncio.timeout(seconds + _HANGS_SECONDS):
                await until(lambda: drained(old), _DRAINED_POLL_SECONDS)
                if old.state == "ready":
                    await self._counts.collect(old)
                old.finish()
                await until(lambda: _ended(old), _POLL_SECONDS)
        except TimeoutError:
            log.error("child does not end, killing it", extra=fields(process=old.name))  # noqa: TRY400
            await self._dismiss(old)
        else:
            log.info(
                "the old edge process has ended",
                extra=fields(process=old.name, how=old.last_exit),
            )
            self._let_go(old)

    async def _dismiss(self, child: Child) -> None:
        child.retire()
        child.kill()
        await until(lambda: _ended(child), _POLL_SECONDS)
        self._let_go(child)

    def _let_go(self, child: Child) -> None:
        self._counts.ended(child)
        self._fleet.let_go(child)

    def _failed(self, why: str) -> Answer:
        log.error("the edge is not upgraded", extra=fields(error=why))
        return _answer(500, "failed", why)


_UNCHANGED = "the old one serves on"


def _answer(status: int, result: str, error: str) -> Answer:
    return Answer(status, {"result": result, "target": TARGET, "error": error})


async def _not_ready(children: list[Child]) -> str:
    """Wait until all are ready; return why one is not."""
    try:
        async with asyncio.timeout(_START_SECONDS):
            await until(lambda: _settled(children), _POLL_SECONDS)
    except TimeoutError:
        return f"not within {_START_SECONDS:g} s"
    return next((child.last_exit for child in children if child.state != "ready"), "")


async def _settled(children: list[Child]) -> bool:
    states = [child.state for child in children]
    return "ended" in states or all(state == "ready" for state in states)


async def _ended(child: Child) -> bool:
    return child.state == "ended"
