"""Replacing the configuration in force: everywhere or nowhere."""

import asyncio
import logging
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from weirgate.shared.config import ConfigErrors
from weirgate.shared.config.watched import Signature
from weirgate.shared.control.client import ChildError
from weirgate.shared.errors import WeirgateError
from weirgate.shared.observability.logs import fields, set_level
from weirgate.shared.supervisor.fleet import Fleet
from weirgate.shared.supervisor.listeners import Key, Listeners
from weirgate.shared.supervisor.plan import Plan, Planner
from weirgate.shared.supervisor.settings import Settings
from weirgate.shared.supervisor.snapshots import InForce
from weirgate.shared.supervisor.upstreams import Upstreams

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a reload went: ``applied``, ``unchanged`` or ``refused``."""

    result: str
    generation: int
    hash: str
    warnings: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    #: The findings as data, where the file itself is wrong.
    problems: tuple[dict[str, Any], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the outcome for JSON."""
        return asdict(self)


class _RefusedError(WeirgateError):
    """Some data plane did not take the snapshot."""


class Reloader:
    """Owns the plan in force, and changes it one reload at a time."""

    def __init__(
        self,
        planner: Planner,
        plan: Plan,
        listeners: Listeners,
        upstreams: Upstreams,
    ) -> None:
        self._planner = planner
        self.plan = plan
        self.in_force = plan.in_force(generation=1)
        self._listeners = listeners
        self._upstreams = upstreams
        self._last_generation = 1
        self._started_with = plan.settings
        self._attempted: Mapping[Path, Signature] = {}
        #: Held by whoever changes what is in force, or needs it to stay.
        self.one_at_a_time = asyncio.Lock()

    def begin_with(self, plan: Plan) -> None:
        """Take another plan before anything runs."""
        self.plan, self.in_force = plan, plan.in_force(generation=1)

    @property
    def files(self) -> Mapping[Path, Signature]:
        """The files that the configuration is made of, in force or as refused last."""
        return {**self._attempted, **self.plan.files}

    async def reload(self, fleet: Fleet, *, discovered: bool = False) -> Outcome:
        """Read the file again and put it in force, or say why the old one stays.

        With ``discovered`` the file stays as it was read last: only what was discovered has
        changed, and warnings that were given before are not given again.
        """
        async with self.one_at_a_time:
            known = self.plan.warnings if discovered else ()
            written = self.plan.written if discovered else None
            try:
                plan = await asyncio.to_thread(self._planner.plan, written)
            except ConfigErrors as error:
                self._attempted = error.files
                problems = tuple(problem.as_dict() for problem in error.problems)
                return self._refused([p.render() for p in error.problems], problems)
            except WeirgateError as error:
                return self._refused([str(error)])
            except Exception as error:  # a fault of our own changes nothing that runs
                log.exception("the configuration cannot be read")
                return self._refused([f"{type(error).__name__}: {error}"])
            self._attempted = plan.files
            warnings = plan.warnings + self._needs_restart(plan.settings)
            if discovered:
                warnings = tuple(warning for warning in plan.warnings if warning not in known)
            set_level(plan.settings.log_level)
            if plan.hash == self.in_force.hash:
                self.plan = plan
                return self._said("unchanged", warnings)
            try:
                await self._replace(plan, fleet)
            except WeirgateError as error:
                return self._refused(str(error).splitlines())
            return self._said("applied", warnings)

    async def _replace(self, plan: Plan, fleet: Fleet) -> None:
        """Bind first, tell of new endpoints, apply, and only then let go of the old."""
        old = self.in_force
        opened = self._listeners.open(plan.keys(), plan.options())
        self._listeners.add(opened)
        new = plan.in_force(self._next_generation())
        try:
            self._listeners.tune(plan.options())
            await fleet.pass_listeners(opened)
            # for a moment both sets: no request meets an endpoint without an address
            await self._upstreams.load([*old.value["pools"], *plan.value["pools"]])
            await fleet.tell_endpoints()
            _all_took(await fleet.put_snapshot(new))
        except ChildError as error:
            await self._put_back(old, opened, fleet)
            raise _RefusedError(str(error)) from error
        except BaseException:
            await self._put_back(old, opened, fleet)
            raise
        self.plan, self.in_force = plan, new
        await self._upstreams.load(plan.value["pools"])
        self._listeners.keep_only(plan.keys())
        await fleet.catch_up()

    async def _put_back(self, old: InForce, opened: dict[Key, socket.socket], fleet: Fleet) -> None:
        refusals = await fleet.put_snapshot(old)
        for name, why in refusals.items():
            log.error("child refuses the old snapshot", extra=fields(process=name, error=why))
        self._listeners.discard(opened)
        self._listeners.tune(self.plan.options())
        await self._upstreams.load(old.value["pools"])
        await fleet.catch_up()

    def _next_generation(self) -> int:
        """Number every attempt anew, so that no two snapshots ever share a generation."""
        self._last_generation += 1
        return self._last_generation

    def _needs_restart(self, wanted: Settings) -> tuple[str, ...]:
        began = self._started_with
        changes = {
            "gateway.workers": (began.workers, wanted.workers),
            "gateway.attach": (began.attach_socket, wanted.attach_socket),
            "edge.workers": (began.edge_workers, wanted.edge_workers),
            "admin.bind": (began.admin_bind, wanted.admin_bind),
            "admin.token": (began.admin_token, wanted.admin_token),
            "run_directory": (began.run_directory, wanted.run_directory),
            "gateway.nodes.health.bind": (began.load_binds, wanted.load_binds),
        }
        return tuple(
            f"{name} has changed; it takes effect at the next start"
            for name, (before, after) in changes.items()
            if before != after
        )

    def _refused(self, errors: list[str], problems: tuple[dict[str, Any], ...] = ()) -> Outcome:
        for error in errors:
            log.error("reload refused: %s", error)
        force = self.in_force
        return Outcome(
            "refused", force.generation, force.hash, errors=tuple(errors), problems=problems
        )

    def _said(self, result: str, warnings: tuple[str, ...]) -> Outcome:
        for warning in warnings:
            log.warning("%s", warning)
        force = self.in_force
        log.info(
            "reload: configuration %s",
            result,
            extra=fields(generation=force.generation, hash=force.hash[:12]),
        )
        return Outcome(result, force.generation, force.hash, warnings)


def _all_took(refusals: Mapping[str, str]) -> None:
    if refusals:
        raise _RefusedError("\n".join(f"{name}: {why}" for name, why in refusals.items()))
