"""One node, from the bound sockets to the exit code."""

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Awaitable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weirgate.shared import native
from weirgate.shared.discovery.dns import SystemResolver
from weirgate.shared.observability.logs import fields
from weirgate.shared.supervisor import listeners as binding
from weirgate.shared.supervisor.errors import BindError, StartError
from weirgate.shared.supervisor.file_watch import FileWatch
from weirgate.shared.supervisor.fleet import Fleet
from weirgate.shared.supervisor.hosts import OtherHosts, gateways_of
from weirgate.shared.supervisor.listeners import Listeners, bound_address
from weirgate.shared.supervisor.plan import Plan, Planner
from weirgate.shared.supervisor.readiness import Notifier
from weirgate.shared.supervisor.reload import Outcome, Reloader
from weirgate.shared.supervisor.run_directory import run_directory
from weirgate.shared.supervisor.shuns import ShunTable
from weirgate.shared.supervisor.socket_options import without_deferral
from weirgate.shared.supervisor.tasks import Tasks
from weirgate.shared.supervisor.upstreams import Upstreams

if TYPE_CHECKING:
    import socket

log = logging.getLogger(__name__)

#: A child that ends so often before it was ever ready will not get ready.
_FAILED_STARTS = 3
_START_POLL_SECONDS = 0.005
_GRACE_SECONDS, _NO_GRACE_SECONDS = 2.0, 0.2


class Node:
    """The supervisor of one edge and its gateways.

    It must run on the main thread: it handles signals, and the kernel ends the children when
    the thread that spawned them ends.
    """

    def __init__(self, planner: Planner, plan: Plan) -> None:
        self._path = planner.path
        self._tasks = Tasks()
        self._notifier = Notifier(planner.environ)
        self._environ = planner.environ
        self._listeners = Listeners()
        self._resolver = SystemResolver()
        self._upstreams = Upstreams(self._resolver, self._endpoints_changed)
        self._hosts = OtherHosts(planner, self._resolver, self._tasks)
        self._reloader = Reloader(planner, plan, self._listeners, self._upstreams)
        self._shuns = ShunTable()
        self._fleet: Fleet | None = None
        self._admin: socket.socket | None = None
        self._metrics: Any = None
        self.operator: Any = None
        self._ready = False
        self._stop = asyncio.Event()
        self._stop_now = asyncio.Event()

    async def run(self) -> None:
        """Start, serve, and drain when told to end.

        Raises:
            StartError: the node cannot start; everything is as it was before.
        """
        plan = self._reloader.plan
        self._handle_signals()
        with run_directory(plan.settings.run_directory, self._environ) as directory:
            try:
                self._bind(plan)
                await self._unless_stopped(self._start(plan, directory))
                await self._stop.wait()
                await self._drain()
            finally:
                await self._close()

    # What the admin API shows and does.

    def health(self) -> Mapping[str, bool]:
        """Say whether traffic flows."""
        fleet = self._fleet
        flows = self._ready and fleet is not None and fleet.ready
        return {"ready": flows and not self._stop.is_set(), "draining": self._stop.is_set()}

    async def metrics(self) -> str:
        """Return the node's metrics as Prometheus text."""
        fleet = self._running()
        text: str = await self._metrics.text(
            fleet.children, list(self._upstreams.table), self._reloader.in_force.generation
        )
        return text

    async def status(self) -> Mapping[str, Any]:
        """Return processes, listeners, pools and endpoints."""
        from weirgate.shared.supervisor import view

        fleet, force = self._running(), self._reloader.in_force
        statuses = await view.child_statuses(fleet.children)
        endpoints = list(self._upstreams.table)
        return {
            "version": native.__version__,
            "role": self._hosts.role.value,
            **self.health(),
            "pid": os.getpid(),
            "uptime_seconds": round(_age_seconds(), 1),
            "configuration": str(self._path),
            "generation": force.generation,
            "hash": force.hash,
            "warnings": list(self._reloader.plan.warnings),
            "processes": view.processes(fleet, statuses),
            "listeners": view.listeners(
                force.value,
                self._listeners,
                [s for c in fleet.children if c.tier == "edge" and (s := statuses.get(c.name))],
            ),
            "pools": view.pools(force.value, endpoints, statuses),
        }

    def snapshot(self) -> bytes:
        """Return the snapshot in force, secrets blanked."""
        from weirgate.shared.supervisor import view

        return view.redacted(self._reloader.in_force.value)

    async def reload(self) -> Outcome:
        """Read the configuration again."""
        if not self._serving:
            force = self._reloader.in_force
            error = "the node is starting or draining"
            return Outcome("refused", force.generation, force.hash, errors=(error,))
        self._notifier.reloading()
        outcome = await self._reloader.reload(self._running())
        self._metrics.reloads[outcome.result] += 1
        await self._hosts.follow(self._reloader.plan)
        self._notifier.ready(f"reload: {outcome.result}")
        return outcome

    @property
    def _serving(self) -> bool:
        """Whether the node has started and does not drain."""
        return self._ready and not self._stop.is_set()

    # Start.

    def _bind(self, plan: Plan) -> None:
        """Bind everything, so that all that is wrong is said at once."""
        failures: list[str] = []
        try:
            self._listeners.add(self._listeners.open(plan.keys(), without_deferral(plan.options())))
        except BindError as error:
            failures.append(str(error))
        if plan.settings.admin_bind is not None:
            try:
                self._admin = binding.bind(plan.settings.admin_bind)
            except OSError as error:
                failures.append(f"admin: {binding.explain(plan.settings.admin_bind, error)}")
        failures += self._hosts.bind(plan)
        if failures:
            raise BindError("\n".join(failures))

    async def _start(self, plan: Plan, directory: Path) -> None:
        plan = await self._hosts.find(plan)
        self._reloader.begin_with(plan)
        for warning in plan.warnings:
            log.warning("%s", warning)
        await self._upstreams.load(plan.value["pools"])
        self._fleet = fleet = Fleet(
            directory,
            native.LoadPage.create(max(1, plan.settings.workers)),
            native.create_rate_table(),
            gateways=plan.settings.workers,
            edges=plan.settings.edge_workers,
            listeners=self._listeners,
            endpoints=self._upstreams.table,
            shuns=self._shuns,
            in_force=lambda: self._reloader.in_force,
            tasks=self._tasks,
        )
        await self._hosts.start(
            fleet,
            lambda: self._reloader.plan,
            serving=lambda: self._ready,
            leaving=self._stop.is_set,
        )
        fleet.start()
        self._tasks.keep("watchdog", self._notifier.keep_watchdog)
        self._open_admin(plan)
        while not all(child.state == "ready" for child in fleet.children):
            for child in fleet.children:
                if child.failed_starts >= _FAILED_STARTS:
                    raise StartError(f"{child.name} does not start: {child.last_exit}")
            await asyncio.sleep(_START_POLL_SECONDS)

        from weirgate.shared.supervisor.arrival import doors, traffic_flows

        await traffic_flows(fleet, doors(plan.value, self._listeners))
        self._listeners.tune(plan.options())
        self._ready = True
        watch = FileWatch(lambda: self._reloader.files, self._reload_and_say)
        self._tasks.keep("files", watch.watch)
        self._hosts.keep_finding(self._reload_and_say)
        line = self._ready_line(plan)
        log.info("%s", line)
        self._notifier.ready(line)

    def _open_admin(self, plan: Plan) -> None:
        """Import the admin API only now: the children are starting, and nobody waits for it."""
        from weirgate.shared.supervisor.metrics import NodeMetrics
        from weirgate.shared.supervisor.operator import Operator
        from weirgate.shared.supervisor.upgrade import EdgeUpgrade

        self._metrics = NodeMetrics(native.__version__)
        upgrade = EdgeUpgrade(
            self._running(),
            self._tasks,
            self._metrics,
            configuration=self._reloader.one_at_a_time,
            drain_seconds=lambda: self._reloader.plan.settings.drain_seconds,
        )
        self.operator = Operator(
            self._running(),
            self._upstreams.table,
            self._shuns,
            self._tasks,
            drain_seconds=lambda: self._reloader.plan.settings.drain_seconds,
            serving=lambda: self._serving,
            upgrade=upgrade,
            presence=self._hosts.presence,
        )
        if self._admin is None:
            return

        from weirgate.shared.control.admin import application
        from weirgate.shared.control.server import ControlServer

        app = application(self, plan.settings.admin_token)
        listener = self._admin
        self._tasks.keep("admin", lambda: ControlServer(app, listener.dup()).run_on_socket())

    def _ready_line(self, plan: Plan) -> str:
        protocols = {listener["name"]: listener["protocol"] for listener in plan.value["listeners"]}
        where = ", ".join(
            f"{key.name} {protocols[key.name]} {bound_address(listening)}"
            for key, listening in self._listeners.sockets.items()
        )
        edges = plan.settings.edge_workers
        parts = [where or "no listeners", *gateways_of(plan)]
        if edges > 1:
            parts.insert(1, f"{edges} edges")
        if self._admin is not None:
            parts.append(f"admin http://{bound_address(self._admin)}")
        age = _age_seconds()
        return f"weirgate {native.__version__} ready in {age:.2f} s: {' · '.join(parts)}"

    # Signals and the end.

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop, number)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)

    def _on_stop(self, number: signal.Signals) -> None:
        if self._stop.is_set():
            self._stop_now.set()
            return
        log.info("draining", extra=fields(signal=number.name))
        self._notifier.stopping()
        self._stop.set()

    def _on_hangup(self) -> None:
        self._tasks.once("reload", self._reload_and_say())

    async def _reload_and_say(self) -> None:
        outcome = await self.reload()
        if outcome.result == "refused":
            log.error("reload refused", extra=fields(errors=len(outcome.errors)))

    async def _unless_stopped(self, work: Awaitable[None]) -> None:
        """Do the work, but let a signal end it."""
        working = asyncio.ensure_future(work)
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                working.result()
        finally:
            for task in (working, stopping):
                task.cancel()
            await asyncio.gather(working, stopping, return_exceptions=True)

    async def _drain(self) -> None:
        if self._fleet is None or not self._ready:
            return
        await self._hosts.give_notice(unless=self._stop_now)
        hurry = asyncio.create_task(self._stop_now.wait())
        seconds = self._reloader.plan.settings.drain_seconds
        draining = asyncio.create_task(self._fleet.drain(seconds))
        # the data planes close what is left at the deadline; a second more to hear of it
        await asyncio.wait(
            {draining, hurry}, timeout=seconds + 1, return_when=asyncio.FIRST_COMPLETED
        )
        how = "drained" if draining.done() else "not drained, closing what is left"
        for task in (draining, hurry):
            task.cancel()
        await asyncio.gather(draining, hurry, return_exceptions=True)
        log.info(how)

    async def _close(self) -> None:
        if self._fleet is not None:
            grace = _NO_GRACE_SECONDS if self._stop_now.is_set() else _GRACE_SECONDS
            await self._fleet.stop(grace)
        await self._hosts.close()
        await self._upstreams.close()
        await self._tasks.cancel()
        self._resolver.close()
        self._listeners.close()
        if self._admin is not None:
            self._admin.close()
        if self._fleet is not None:
            self._fleet.close()

    def _endpoints_changed(self) -> None:
        if self._fleet is not None:
            self._fleet.endpoints_changed()

    def _running(self) -> Fleet:
        if self._fleet is None:
            raise StartError("the node has not started")
        return self._fleet


def _age_seconds() -> float:
    """Return the time since this process began, imports included."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        after_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        started = int(after_name[19]) / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started
    return 0.0
