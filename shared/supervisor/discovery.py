"""Watches the sources of discovery, and has what they find put in force.

What a source has told last stays in force while it is not heard. A change is a reload of what was
discovered alone: the file is not read again by it.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from weirgate.shared.config import ConfigErrors, Problem
from weirgate.shared.config.discovered import MAX_OBJECTS
from weirgate.shared.discovery.found import Found
from weirgate.shared.discovery.sources import make_source, sections_of
from weirgate.shared.observability.logs import fields
from weirgate.shared.supervisor.changes import Changes
from weirgate.shared.supervisor.plan import Plan, Planner
from weirgate.shared.supervisor.tasks import Tasks

log = logging.getLogger(__name__)

_FIRST_ANSWERS_SECONDS = 2.0
#: Changes that come close together are one reload.
_SETTLE_SECONDS = 0.05
#: Objects that one message names.
_MOST_NAMED = 10


@dataclass(slots=True)
class _Watched:
    """One source."""

    section: Any
    task: asyncio.Task[None] | None = None
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    error: str = ""
    since: float = field(default_factory=time.time)
    #: Objects beyond the bound, which are left out.
    beyond: int = 0

    @property
    def state(self) -> str:
        """``ok``, ``error``, or ``starting`` before the source has told anything."""
        if self.error:
            return "error"
        return "ok" if self.heard.is_set() else "starting"


class Discoverer:
    """Keeps ``found`` of the planner, which makes configuration of it."""

    def __init__(self, planner: Planner, tasks: Tasks) -> None:
        self._planner = planner
        self._tasks = tasks
        self._sources: dict[str, _Watched] = {}
        self._changes = Changes(_SETTLE_SECONDS)
        self._plan: Plan | None = None
        self._wait = False
        self._all_heard = False

    @property
    def ready(self) -> bool:
        """Whether this node may be ready: not before each source was heard, where it is to wait."""
        return self._all_heard or not self._wait

    async def find(self, plan: Plan) -> Plan:
        """Return the plan with what the sources know at first, at most 2 s later."""
        self.follow(plan)
        if not self._sources:
            return plan
        waits = [asyncio.create_task(source.heard.wait()) for source in self._sources.values()]
        _, late = await asyncio.wait(waits, timeout=_FIRST_ANSWERS_SECONDS)
        for wait in late:
            wait.cancel()
        self._changes.taken()
        # as written when the sockets were bound: an edit since is for a reload
        try:
            plan = await asyncio.to_thread(self._planner.plan, plan.written)
        except ConfigErrors as error:
            log.warning("labels are left out: %s", error)
        except Exception:  # a label must not keep a node from starting
            log.exception("labels are left out")
        self.follow(plan)
        return plan

    def follow(self, plan: Plan) -> None:
        """Watch the sources of a plan that has come into force, and no others."""
        discovery = plan.written.config.discovery if plan.written else None
        sections = sections_of(discovery)
        for kind in list(self._sources):
            if self._sources[kind].section != sections.get(kind):
                self._stop(kind, forget=kind not in sections)
        for kind, section in sections.items():
            if kind not in self._sources:
                self._start(kind, section)
        self._say_problems(plan)
        self._wait = discovery is not None and discovery.wait
        # once is enough: a source that a reload adds takes no readiness away
        self._all_heard |= sections.keys() <= self._planner.found.keys()

    def keep_telling(self, reload: Callable[[], Awaitable[bool]]) -> None:
        """Call ``reload`` after each change, and again while it is refused."""
        self._tasks.keep("discovery", lambda: self._changes.keep_telling(reload))

    def status(self) -> list[dict[str, Any]]:
        """Describe each source, and what is wrong with its objects."""
        return [
            {
                "source": kind,
                "state": source.state,
                "error": source.error or None,
                "since": source.since,
                "objects": len(self._planner.found.get(kind, ())),
                "not_up": {
                    found.name: _state(found)
                    for found in self._planner.found.get(kind, ())
                    if _state(found) not in {"up", "unusable"}
                },
                "problems": {
                    name: [problem.render() for problem in problems]
                    for name, problems in self._problems(kind).items()
                },
            }
            for kind, source in self._sources.items()
        ]

    def figures(self) -> dict[str, tuple[bool, int, int]]:
        """Return of each source whether it is well, its objects, and those with errors."""
        return {
            kind: (
                source.state == "ok",
                len(self._planner.found.get(kind, ())),
                sum(
                    any(problem.severity == "error" for problem in problems)
                    for problems in self._problems(kind).values()
                ),
            )
            for kind, source in self._sources.items()
        }

    async def close(self) -> None:
        """Watch no more."""
        tasks = [source.task for source in self._sources.values() if source.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # One source.

    def _start(self, kind: str, section: Any) -> None:
        watched = self._sources[kind] = _Watched(section)

        async def watch() -> None:
            await make_source(kind, section).watch(
                lambda found: self._take(kind, watched, found),
                lambda error: self._hear(kind, watched, error),
            )

        watched.task = self._tasks.keep(f"discovery {kind}", watch)

    def _stop(self, kind: str, *, forget: bool) -> None:
        watched = self._sources.pop(kind)
        if watched.task is not None:
            watched.task.cancel()
        if forget:
            self._planner.found.pop(kind, None)

    def _take(self, kind: str, watched: _Watched, found: tuple[Found, ...]) -> None:
        if self._sources.get(kind) is not watched:
            return
        watched.heard.set()
        beyond, watched.beyond = watched.beyond, max(0, len(found) - MAX_OBJECTS)
        if watched.beyond and not beyond:
            log.warning(
                "more objects than can be taken in; the last ones are left out",
                extra=fields(source=kind, found=len(found), most=MAX_OBJECTS),
            )
        before, now = self._planner.found.get(kind, ()), found[:MAX_OBJECTS]
        if before == now and kind in self._planner.found:
            return
        _say_changes(kind, before, now)
        self._planner.found[kind] = now
        self._changes.note()

    def _hear(self, kind: str, watched: _Watched, error: str) -> None:
        if self._sources.get(kind) is not watched or error == watched.error:
            return
        if error:
            if not watched.error:
                log.warning(
                    "discovery is not heard, what it last said holds",
                    extra=fields(source=kind, error=error),
                )
                watched.since = time.time()
        else:
            log.info("discovery is heard again", extra=fields(source=kind))
            watched.since = time.time()
        watched.error = error

    # Changes.

    def _problems(self, kind: str) -> Mapping[str, tuple[Problem, ...]]:
        return self._plan.discovered.problems.get(kind, {}) if self._plan else {}

    def _say_problems(self, plan: Plan) -> None:
        before, self._plan = self._plan, plan
        for kind, objects in plan.discovered.problems.items():
            known = before.discovered.problems.get(kind, {}) if before else {}
            for name, problems in objects.items():
                for problem in problems:
                    if problem not in known.get(name, ()):
                        level = logging.ERROR if problem.severity == "error" else logging.WARNING
                        log.log(level, "%s", problem.render(), extra=fields(source=kind))


def _say_changes(kind: str, before: tuple[Found, ...], now: tuple[Found, ...]) -> None:
    old, new = {found.name: found for found in before}, {found.name: found for found in now}
    for word, names in (
        ("found", sorted(new.keys() - old.keys())),
        ("gone", sorted(old.keys() - new.keys())),
    ):
        if names:
            shown = ",".join(names[:_MOST_NAMED])
            log.info("objects %s", word, extra=fields(source=kind, objects=shown, count=len(names)))
    for name in sorted(old.keys() & new.keys()):
        states = [_state(found[name]) for found in (old, new)]
        if states[0] != states[1]:
            log.info("object is %s", states[1], extra=fields(source=kind, object=name))


def _state(found: Found) -> str:
    """Say in a word or two how an object is."""
    if found.trouble:
        return "unusable"
    states = {address.state for address in found.addresses}
    whys = sorted({address.why for address in found.addresses if address.why})
    state = next((state for state in ("up", "draining", "down") if state in states), "empty")
    return state if state == "up" or not whys else f"{state} ({', '.join(whys)})"
