"""A running node as the admin API sees it."""

import os
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weirgate.shared import native
from weirgate.shared.supervisor import view
from weirgate.shared.supervisor.announcement import age_seconds
from weirgate.shared.supervisor.discovery import Discoverer
from weirgate.shared.supervisor.fleet import Fleet
from weirgate.shared.supervisor.hosts import OtherHosts
from weirgate.shared.supervisor.listeners import Listeners
from weirgate.shared.supervisor.metrics import NodeMetrics
from weirgate.shared.supervisor.operator import Operator
from weirgate.shared.supervisor.reload import Outcome, Reloader
from weirgate.shared.supervisor.upstreams import Upstreams


@dataclass(frozen=True, slots=True, kw_only=True)
class Administration:
    """What the admin API shows and does."""

    path: Path
    fleet: Fleet
    listeners: Listeners
    upstreams: Upstreams
    reloader: Reloader
    discoverer: Discoverer
    hosts: OtherHosts
    counts: NodeMetrics
    #: What an operator can do to parts of the node.
    operator: Operator
    #: Says whether traffic flows.
    health: Callable[[], Mapping[str, bool]]
    #: Reads the configuration again.
    reload: Callable[[], Coroutine[Any, Any, Outcome]]

    async def metrics(self) -> str:
        """Return the node's metrics as Prometheus text."""
        return await self.counts.text(
            self.fleet.present,
            list(self.upstreams.table),
            self.reloader.in_force.generation,
            self.discoverer.figures(),
        )

    async def status(self) -> Mapping[str, Any]:
        """Return processes, listeners, pools and endpoints."""
        fleet, force = self.fleet, self.reloader.in_force
        statuses = await view.child_statuses(fleet.children)
        endpoints = list(self.upstreams.table)
        return {
            "version": native.__version__,
            "role": self.hosts.role.value,
            **self.health(),
            "pid": os.getpid(),
            "uptime_seconds": round(age_seconds(), 1),
            "configuration": str(self.path),
            "generation": force.generation,
            "hash": force.hash,
            "warnings": list(self.reloader.plan.warnings),
            "processes": view.processes(fleet, statuses),
            "listeners": view.listeners(
                force.value,
                self.listeners,
                [s for c in fleet.children if c.tier == "edge" and (s := statuses.get(c.name))],
            ),
            "pools": view.pools(force.value, endpoints, statuses),
            "discovery": self.discoverer.status(),
        }

    def snapshot(self) -> bytes:
        """Return the snapshot in force, secrets blanked."""
        return view.redacted(self.reloader.in_force.value)
