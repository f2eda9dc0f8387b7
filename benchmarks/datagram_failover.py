"""An endpoint of a udp listener is killed under load: `python -m benchmarks.datagram_failover`.

By default 200 Mbit/s in datagrams of 200 bytes, 1,000 flows, three endpoints, 60 s, one of them
killed halfway. It tells whether every flow moved, how long that took, and how many datagrams were
lost where. It ends with 1 if a flow did not move. Not a part of `make bench`: no peer takes part.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import cpu, netns
from benchmarks.datagram_flows import asked_of
from benchmarks.datagram_sink import Seen, read_counts
from benchmarks.own_cases import tier_pids
from benchmarks.processes import Running, StartError, free_ports, pause, wait_until
from benchmarks.subjects import CONFIGS, Ground, Subject, start_subject

SINKS = 3


@dataclass(frozen=True)
class Outcome:
    """What became of the datagrams and of the flows of the killed endpoint."""

    sent: int
    lost: int
    flows_of_the_killed: int
    flows_that_moved: int
    slowest_move_ms: float
    echoes_asked: int
    echoes_lost: int
    flows_without_an_echo_at_the_end: int


def outcome_of(load: dict[str, Any], seen: Sequence[Seen], *, killed_ns: int) -> Outcome:
    """Compare what was sent with what each endpoint got; the first of them was killed.

    Args:
        load: What `datagram_flows` printed.
        seen: The endpoints' counts at the end.
        killed_ns: When the first was killed, by the monotonic clock.
    """
    flows, sent = len(load["echoes"]), int(load["sent"])
    killed, *others = seen
    asked = sum(asked_of(flow, flows, sent, load["echo_every"]) for flow in range(flows))
    late = 0.9 * float(load["seconds"])
    silent = {flow for flow in range(flows) if load["last_echo_s"][flow] < late}
    moved_ns = [
        min(other.first_ns[flow] for other in others if other.first_ns[flow])
        for flow in range(flows)
        if killed.datagrams[flow] and flow not in silent and any(o.datagrams[flow] for o in others)
    ]
    return Outcome(
        sent=sent,
        lost=sent - sum(sum(one.datagrams) for one in seen),
        flows_of_the_killed=sum(count > 0 for count in killed.datagrams),
        flows_that_moved=len(moved_ns),
        slowest_move_ms=max([(first - killed_ns) / 1e6 for first in moved_ns], default=0.0),
        echoes_asked=asked,
        echoes_lost=asked - sum(load["echoes"]),
        flows_without_an_echo_at_the_end=len(silent),
    )


def start_sinks(ports: Sequence[int], flows: int, ground: Ground) -> list[Running]:
    """Start the endpoints and wait until they are bound.

    Raises:
        StartError: One is not.
    """
    sinks = []
    for port in ports:
        command = [sys.executable, "-m", "benchmarks.datagram_sink", str(port), str(flows)]
        out = ground.work / f"sink-{port}.out"
        counts = str(counts_of(ground, port))
        # Beside the client: what the balancer costs is on a core of its own.
        sinks.append(Running([*command, counts], cpus=ground.cores.client, stdout=out, stderr=out))
    for port in ports:
        if not wait_until(lambda p=port: p in queue_drops(), 10):  # type: ignore[misc]
            raise StartError(f"no endpoint on port {port}: {sinks[0].last_words()}")
    return sinks


def counts_of(ground: Ground, port: int) -> Path:
    """The file with what an endpoint has counted."""
    return ground.work / f"sink-{port}.counts"


def queue_drops() -> dict[int, int]:
    """Datagrams that found no room in the receive queue, by the local port of the UDP socket."""
    drops: dict[int, int] = {}
    for line in Path("/proc/net/udp").read_text().splitlines()[1:]:
        fields = line.split()
        port = int(fields[1].partition(":")[2], 16)
        drops[port] = drops.get(port, 0) + int(fields[-1])
    return drops


def counted_by_weirgate(admin: str) -> dict[str, int]:
    """Datagrams that Weirgate itself says it did not pass on, by reason."""
    with urllib.request.urlopen(f"http://{admin}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    family = "weirgate_edge_datagrams_dropped_total{"
    return {
        line.partition('reason="')[2].partition('"')[0]: int(float(line.rpartition(" ")[2]))
        for line in lines
        if line.startswith(family) and not line.endswith(" 0")
    }


def measure(options: argparse.Namespace, work: Path, stack: ExitStack) -> dict[str, Any]:
    """One run."""
    cores = netns.plan_cores(netns.available_cpus())
    network = netns.enter_own_network()
    files = netns.raise_file_limit()
    ports = free_ports(SINKS + 1)
    admin = f"127.0.0.1:{ports.pop()}"
    ground = Ground(work, cores, ports[0], files)
    sinks = start_sinks(ports, options.flows, ground)
    for sink in sinks:
        stack.callback(sink.stop)
    text = (CONFIGS / "weirgate-failover.yaml").read_text().replace("${ADMIN_PORT}", admin[10:])
    template = work / "failover.template.yaml"
    template.write_text(text.replace("${SINKS}", str([f"127.0.0.1:{port}" for port in ports])))
    subject = start_subject("weirgate-failover", ground, template)
    stack.callback(subject.running.stop)
    load, spent, killed_ns = _drive(options, ground, subject, sinks[0])
    drops, counted = queue_drops(), counted_by_weirgate(admin)
    seen = [read_counts(counts_of(ground, port), options.flows) for port in ports]
    outcome = outcome_of(load, seen, killed_ns=killed_ns)
    known = {
        "in the listener's queue": drops.get(subject.tcp, 0),
        "in the queues of the other endpoints": sum(drops.get(port, 0) for port in ports[1:]),
        "counted by Weirgate": sum(counted.values()),
    }
    known["with the killed endpoint"] = outcome.lost - sum(known.values())
    return {
        **asdict(outcome),
        "lost_where": known,
        "reasons": counted,
        "mbit_per_second": outcome.sent * options.size * 8 / load["seconds"] / 1e6,
        "sender_behind_ms": load["behind_s"] * 1000,
        "cpu_us_per_datagram": {name: s / outcome.sent * 1e6 for name, s in spent.items()},
        "cores": {name: s / load["seconds"] for name, s in spent.items()},
        "setup": f"{network}; {cores.text}; endpoints on the client's; {cpu.machine()}",
    }


def _drive(
    options: argparse.Namespace, ground: Ground, subject: Subject, victim: Running
) -> tuple[dict[str, Any], dict[str, float], int]:
    """Send, kill halfway; what was sent, CPU seconds by role, and when the kill was."""
    edge, _ = tier_pids(subject.running)
    rate = options.mbit * 1e6 / 8 / options.size
    command = [sys.executable, "-m", "benchmarks.datagram_flows", str(subject.tcp)]
    command += ["--seconds", str(options.seconds), "--rate", str(rate)]
    command += ["--flows", str(options.flows), "--size", str(options.size)]
    before = cpu.thread_seconds(edge)
    with (
        netns.pinned(ground.cores.client),
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client,
    ):
        pause(options.seconds / 2)
        of_victim = victim.cpu_seconds()
        os.kill(victim.pid, signal.SIGKILL)
        killed_ns = time.monotonic_ns()
        said, _ = client.communicate(timeout=options.seconds + 60)
    if client.returncode:
        raise StartError(f"the client ended with {client.returncode}")
    load = dict(json.loads(said))
    spent = {
        "client": float(load["cpu_s"]),
        "edge": cpu.thread_seconds(edge) - before,
        "killed endpoint": of_victim,
    }
    return load, spent, killed_ns


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--mbit", type=float, default=200, help="of payload, a second")
    parser.add_argument("--flows", type=int, default=1000)
    parser.add_argument("--size", type=int, default=200, help="bytes of a datagram")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="weirgate-bench-") as work, ExitStack() as stack:
        result = measure(options, Path(work), stack)
    print(json.dumps(result, indent=2))
    return int(result["flows_that_moved"] < result["flows_of_the_killed"])


if __name__ == "__main__":
    sys.exit(main())
