"""What a node says when it is ready, and since when it runs."""

import contextlib
import os
import socket
import time
from pathlib import Path

from weirgate.shared import native
from weirgate.shared.supervisor.hosts import gateways_of
from weirgate.shared.supervisor.listeners import Listeners, bound_address
from weirgate.shared.supervisor.plan import Plan


def ready_line(plan: Plan, listeners: Listeners, admin: socket.socket | None) -> str:
    """Return one line: where it listens, what it runs, and how long its start took."""
    protocols = {listener["name"]: listener["protocol"] for listener in plan.value["listeners"]}
    where = ", ".join(
        f"{key.name} {protocols[key.name]} {bound_address(listening)}"
        for key, listening in listeners.sockets.items()
    )
    edges = plan.settings.edge_workers
    parts = [where or "no listeners", *gateways_of(plan)]
    if edges > 1:
        parts.insert(1, f"{edges} edges")
    if admin is not None:
        parts.append(f"admin http://{bound_address(admin)}")
    age = age_seconds()
    return f"weirgate {native.__version__} ready in {age:.2f} s: {' · '.join(parts)}"


def age_seconds() -> float:
    """Return the time since this process began, imports included."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        after_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        started = int(after_name[19]) / os.sysconf("SC_CLK_TCK")
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started
    return 0.0
