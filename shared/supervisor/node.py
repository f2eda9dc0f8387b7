"""One node, from the bound sockets to the exit code."""

import asyncio
import logging
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weirgate.shared import native
from weirgate.shared.discovery.dns import SystemResolver
from weirgate.shared.hold.store import HolderStore, from_holder
from weirgate.shared.observability.logs import fields
from weirgate.shared.supervisor import listeners as binding
from weirgate.shared.supervisor.announcement import ready_line
from weirgate.shared.supervisor.discovery import Discoverer
from weirgate.shared.supervisor.errors import BindError, InheritedError, StartError
from weirgate.shared.supervisor.file_watch import FileWatch
from weirgate.shared.supervisor.fleet import Fleet
from weirgate.shared.supervisor.hosts import OtherHosts
from weirgate.shared.supervisor.inherited import Inherited, from_service_manager
from weirgate.shared.supervisor.listeners import Listeners
from weirgate.shared.supervisor.plan import Plan, Planner
from weirgate.shared.supervisor.readiness import Notifier
from weirgate.shared.supervisor.reload import Outcome, Reloader
from weirgate.shared.supervisor.run_directory import run_directory
from weirgate.shared.supervisor.shuns import ShunTable
from weirgate.shared.supervisor.shutdown import Shutdown
from weirgate.shared.supervisor.socket_options import without_deferral
from weirgate.shared.supervisor.socket_store import KeptSockets, ManagerStore
from weirgate.shared.supervisor.tasks import Tasks
from weirgate.shared.supervisor.upstreams import Upstreams

if TYPE_CHECKING:
    import socket

log = logging.getLogger(__name__)

#: A child that ends so often before it was ever ready will not get ready.
_FAILED_STARTS = 3
_START_POLL_SECONDS = 0.005


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
        inherited = Inherited.collect(os.environ, (from_service_manager, from_holder))
        store = ManagerStore.of(planner.environ, self._notifier, inherited)
        self._kept = KeptSockets(inherited, store or HolderStore.of(planner.environ))
        self._listeners = Listeners(self._kept)
        self._resolver = SystemResolver()
        self._upstreams = Upstreams(self._resolver, self._endpoints_changed)
        self._hosts = OtherHosts(planner, self._resolver, self._tasks)
        self._discoverer = Discoverer(planner, self._tasks)
        self._reloader = Reloader(planner, plan, self._listeners, self._upstreams)
        self._shuns = ShunTable()
        self._fleet: Fleet | None = None
        self._admin: socket.socket | None = None
        self._seats: Any = None
        self._metrics: Any = None
        self._ready = False
        self._shutdown = Shutdown(self._notifier, lambda: self._reloader.plan.settings)

    async def run(self) -> None:
        """Start, serve, and drain when told to end.

        Raises:
            StartError: the node cannot start; everything is as it was before.
        """
        plan = self._reloader.plan
        self._shutdown.handle_signals()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._on_hangup)
        with run_directory(plan.settings.run_directory, self._environ) as directory:
            try:
                self._bind(plan)
                await self._shutdown.interrupt(self._start(plan, directory))
                await self._shutdown.wait()
                if self._fleet is not None and self._ready:
                    await self._shutdown.drain(self._fleet, self._hosts)
            finally:
                await self._close()

    def health(self) -> Mapping[str, bool]:
        """Say whether traffic flows."""
        fleet = self._fleet
        flows = self._ready and fleet is not None and fleet.ready and self._discoverer.ready
        return {"ready": flows and not self._shutdown.begun, "draining": self._shutdown.begun}

    async def reload(self, *, discovered: bool = False) -> Outcome:
        """Read the configuration again, or take in what was discovered since."""
        if not self._serving:
            force = self._reloader.in_force
            error = "the node is starting or draining"
            return Outcome("refused", force.generation, force.hash, errors=(error,))
        if not discovered:
            self._notifier.reloading()
        outcome = await self._reloader.reload(self._running(), discovered=discovered)
        self._metrics.reloads[outcome.result] += 1
        await self._hosts.follow(self._reloader.plan)
        self._discoverer.follow(self._reloader.plan)
        if not discovered:
            self._notifier.ready(f"reload: {outcome.result}")
        return outcome

    @property
    def _serving(self) -> bool:
        """Whether the node has started and does not drain."""
        return self._ready and not self._shutdown.begun

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
                self._admin = binding.open_one(plan.settings.admin_bind, self._kept)
            except InheritedError as error:
                failures.append(f"admin: {error}")
            except OSError as error:
                failures.append(f"admin: {binding.explain(plan.settings.admin_bind, error)}")
        failures += self._hosts.bind(plan, self._kept)
        failures += self._kept.settle(plan.addresses())
        if failures:
            raise BindError("\n".join(failures))

    async def _start(self, plan: Plan, directory: Path) -> None:
        plan = await self._hosts.find(await self._discoverer.find(plan))
        self._reloader.begin_with(plan)
        for warning in plan.warnings:
            log.warning("%s", warning)
        await self._upstreams.load(plan.value["pools"])
        self._fleet = fleet = Fleet(
            directory,
            native.LoadPage.create(max(1, plan.settings.workers)),
            native.create_rate_table(),
            gateways=plan.settings.workers,
            attached=plan.settings.attach_socket is not None,
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
            serving=lambda: self._ready and self._discoverer.ready,
            leaving=lambda: self._shutdown.begun,
        )
        fleet.start()
        self._take_hosts(fleet, plan)
        self._tasks.keep("watchdog", self._notifier.keep_watchdog)
        self._open_admin(plan)
        while not fleet.started:
            for child in fleet.children:
                # one that runs elsewhere may be mended there, and others do without it
                if not child.is_seat and child.failed_starts >= _FAILED_STARTS:
                    raise StartError(f"{child.name} does not start: {child.last_exit}")
            await asyncio.sleep(_START_POLL_SECONDS)

        from weirgate.shared.supervisor.arrival import doors, traffic_flows

        await traffic_flows(fleet, doors(plan.value, self._listeners))
        self._listeners.tune(plan.options())
        self._ready = True
        watch = FileWatch(lambda: self._reloader.files, self._reload_and_say)
        self._tasks.keep("files", watch.watch)
        self._hosts.keep_finding(self._reload_and_say)
        self._discoverer.keep_telling(self._take_discovered)
        line = ready_line(plan, self._listeners, self._admin)
        log.info("%s", line)
        self._notifier.ready(line)

    def _take_hosts(self, fleet: Fleet, plan: Plan) -> None:
        """Let gateways of other containers attach themselves, where they may."""
        if plan.settings.attach_socket is None:
            return
        from weirgate.shared.attach.seats import Seats

        self._seats = Seats(plan.settings.attach_socket, lambda: fleet.gateways, fleet.let_leave)
        try:
            self._seats.open()
        except OSError as error:
            raise StartError(f"gateway.attach: {plan.settings.attach_socket}: {error}") from error
        log.info("waiting for gateways", extra=fields(attach=plan.settings.attach_socket))

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
        operator = Operator(
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
        from weirgate.shared.supervisor.administration import Administration

        administration = Administration(
            path=self._path,
            fleet=self._running(),
            listeners=self._listeners,
            upstreams=self._upstreams,
            reloader=self._reloader,
            discoverer=self._discoverer,
            hosts=self._hosts,
            counts=self._metrics,
            operator=operator,
            health=self.health,
            reload=self.reload,
        )
        app = application(administration, plan.settings.admin_token)
        listener = self._admin
        self._tasks.keep("admin", lambda: ControlServer(app, listener.dup()).run_on_socket())

    # Reloads that somebody asks for, and the end.

    def _on_hangup(self) -> None:
        self._tasks.once("reload", self._hang_up())

    async def _hang_up(self) -> None:
        await self._reload_and_say()

    async def _reload_and_say(self) -> bool:
        return self._said(await self.reload())

    async def _take_discovered(self) -> bool:
        # on the way out nothing more is taken in, and that is no failure
        return not self._serving or self._said(await self.reload(discovered=True))

    def _said(self, outcome: Outcome) -> bool:
        """Say whether a reload was not refused, in the log if it was."""
        if outcome.result == "refused":
            log.error("reload refused", extra=fields(errors=len(outcome.errors)))
        return outcome.result != "refused"

    async def _close(self) -> None:
        if self._seats is not None:
            self._seats.take_no_more()
        if self._fleet is not None:
            await self._fleet.stop(self._shutdown.grace_seconds)
        if self._seats is not None:
            self._seats.close()
        await self._hosts.close()
        await self._discoverer.close()
        await self._upstreams.close()
        await self._tasks.cancel()
        self._resolver.close()
        self._listeners.close()
        self._kept.close()
        if self._admin is not None:
            self._admin.close()
        if self._fleet is not None:
            self._fleet.close()

    def _endpoints_changed(self) -> None:
        if self._fleet is not None:
            self._fleet.endpoint_updates.tell_all_soon()

    def _running(self) -> Fleet:
        if self._fleet is None:
            raise StartError("the node has not started")
        return self._fleet
