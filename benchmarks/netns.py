"""The ground to measure on: a network namespace of its own, and one core for each role."""

import ctypes
import fcntl
import os
import resource
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS = 0x8914
IFF_UP_AND_RUNNING = 0x1 | 0x40
FILES = 100_000


@dataclass(frozen=True)
class Cores:
    """Which CPUs each role runs on; empty sets mean that nothing is pinned."""

    subject: frozenset[int]
    client: frozenset[int]
    origin: frozenset[int]

    @property
    def text(self) -> str:
        """The same in words, for the table's foot."""
        if not self.subject:
            return "not pinned (one CPU only): client, origin and subject share it"
        subject, client, origin = (
            ",".join(map(str, sorted(cpus))) for cpus in (self.subject, self.client, self.origin)
        )
        return f"subject on CPU {subject}, client on {client}, origin on {origin}"


def plan_cores(available: set[int]) -> Cores:
    """One core for the client, one for the subject, one for the origin.

    Of two cores the client has one to itself: with the origin beside it, it would be the
    bottleneck of every short connection. The origin then shares the subject's core and takes its
    time there, which the subject's CPU time does not contain.
    """
    cpus = sorted(available)
    if len(cpus) < 2:
        return Cores(frozenset(), frozenset(), frozenset())
    subject, client = frozenset({cpus[1]}), frozenset({cpus[0]})
    origin = frozenset({cpus[2]}) if len(cpus) > 2 else subject
    return Cores(subject, client, origin)


@contextmanager
def pinned(cpus: frozenset[int]) -> Iterator[None]:
    """Children started inside inherit `cpus`; this process is put back afterwards."""
    if not cpus:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def enter_own_network() -> str:
    """Move this process into a fresh network namespace that has only a loopback.

    NAT and connection-tracking rules of the machine's own network cost every subject about 20 us
    a connection. Returns what was done, in words for the table's foot.
    """
    if os.geteuid() != 0:
        return "the machine's own network namespace (not root)"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        return f"the machine's own network namespace ({os.strerror(ctypes.get_errno())})"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh14x", b"lo", IFF_UP_AND_RUNNING)
        fcntl.ioctl(control, SIOCSIFFLAGS, request)
    # Room for short connections; these files belong to the namespace, not to the machine.
    ipv4 = Path("/proc/sys/net/ipv4")
    (ipv4 / "ip_local_port_range").write_text("10000 65000")
    (ipv4 / "tcp_tw_reuse").write_text("1")
    (Path("/proc/sys/net/core") / "somaxconn").write_text("8192")
    return "own network namespace, loopback only"


def raise_file_limit() -> int:
    """Lift the limit on open files for us and all that we start; returns what there is now."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(hard, FILES) if os.geteuid() == 0 else hard
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
    except (OSError, ValueError):  # a container may forbid raising the hard limit even to root
        wanted = hard
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return wanted


def available_cpus() -> set[int]:
    """The CPUs that this process may use."""
    return os.sched_getaffinity(0)
