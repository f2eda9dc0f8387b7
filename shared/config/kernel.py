"""Warnings about what the kernel of this host would not give: asked where a node would run."""

from pathlib import Path

from weirgate.shared.config import codes
from weirgate.shared.config.loader import Loaded
from weirgate.shared.config.problem import Problem
from weirgate.shared.config.tree import Report

PROC = Path("/proc")


def kernel_warnings(loaded: Loaded, proc: Path = PROC) -> list[Problem]:
    """Compare listeners with the kernel's settings; what cannot be read is not warned of."""
    report = Report(loaded.tree)
    most = _read(proc / "sys/net/core/somaxconn")
    available = _read(proc / "sys/net/ipv4/tcp_available_congestion_control").split()
    for name, listener in loaded.config.listeners.items():
        path = ("listeners", name)
        asked = "backlog" in listener.model_fields_set  # the default is nobody's wish
        if asked and most.isdigit() and listener.backlog > int(most):
            wanted = f"at most {most}, which is net.core.somaxconn"
            got = f"a backlog of {listener.backlog}"
            report.add(codes.KERNEL, (*path, "backlog"), got=got, wanted=wanted, severity="warning")
        wish = listener.tcp.congestion
        if available and wish is not None and wish not in available:
            report.add(
                codes.KERNEL, (*path, "tcp", "congestion"), severity="warning",
                wanted=f"one that is loaded: {' '.join(available)}",
                hint=f"load it: modprobe tcp_{wish}",
            )  # fmt: skip
    return report.problems


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
