"""The cases that only Weirgate runs: the handoff's cost, many routes, idle memory, start-up."""

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from benchmarks import clients, cpu
from benchmarks.bars import WEIRGATE, Sample
from benchmarks.clients import Load
from benchmarks.load_case import Bench, LoadCase
from benchmarks.processes import Running, StartError, answers, free_ports, pause, wait_until
from benchmarks.subjects import CONFIGS, Subject, launch, start_subject

IDLE_CONNECTIONS = 10_000
START_UPS = 5


class EdgeShareCase:
    """P4: what the edge still costs a request once the connection is handed over."""

    name = "edge-share"
    title = "100 requests a connection: edge's CPU time, of the gateway's"
    bars = ("P4",)
    subjects = (WEIRGATE,)

    def run(self, bench: Bench, stack: ExitStack) -> Iterator[Sample]:
        """Read both processes' thread times round a run of short keep-alive connections."""
        del stack
        if WEIRGATE not in bench.subjects:
            return
        subject = bench.subjects[WEIRGATE]
        for number in range(1, bench.rounds + 1):
            edge, gateway = tier_pids(subject.running)
            before = cpu.thread_seconds(edge), cpu.thread_seconds(gateway)
            load = clients.wrk(
                bench.ground.cores, subject.http, bench.seconds, script=["close-each", "100"]
            )
            spent_edge = cpu.thread_seconds(edge) - before[0]
            spent_gateway = cpu.thread_seconds(gateway) - before[1]
            void = [
                f"{count} errors at the client ({name})"
                for name, count in load.errors.items()
                if count
            ]
            values = {
                "edge_percent": spent_edge / spent_gateway * 100,
                "edge_us": spent_edge / load.work * 1e6,
                "gateway_us": spent_gateway / load.work * 1e6,
            }
            yield Sample(self.name, WEIRGATE, number, values, void, {"work": load.work})
        subject.clear_log()


def tier_pids(running: Running) -> tuple[int, int]:
    """The edge process and the first gateway process of a Weirgate tree."""
    edges = cpu.find_in_tree(running.pid, "weirgate.edge.process")
    gateways = cpu.find_in_tree(running.pid, "weirgate.appgw.process")
    if not edges or not gateways:
        raise StartError("no process of the edge or the gateway found in the tree")
    return edges[0], gateways[0]


class RoutesCase:
    """P12: the same load with 5 and with 5,000 routes."""

    name = "routes"
    title = "keep-alive requests over 64 paths, 5 or 5,000 routes"
    bars = ("P12",)
    subjects = ("weirgate-5", "weirgate-5000")

    def run(self, bench: Bench, stack: ExitStack) -> Iterator[Sample]:
        """Start one Weirgate for each table, then alternate between them."""
        if "weirgate" not in bench.wanted:
            return
        here: list[Subject] = []
        for name in self.subjects:
            config = routes_template(bench.ground.work, int(name.split("-")[1]))
            here.append(start_subject(name, bench.ground, config))
            stack.callback(here[-1].running.stop)
        case = LoadCase(self.name, self.title, self.bars, self.subjects, _drive_routes)
        for sample in case.rounds(bench, here):
            subject = next(subject for subject in here if subject.name == sample.subject)
            _, gateway = tier_pids(subject.running)
            sample.values["gateway_rss_mb"] = cpu.rss_kb(gateway) / 1024
            yield sample


def _drive_routes(bench: Bench, subject: Subject, seconds: float) -> Load:
    script = ["routes", subject.name.split("-")[1]]
    return clients.wrk(bench.ground.cores, subject.http, seconds, script=script)


def routes_template(work: Path, count: int) -> Path:
    """The usual configuration with `count` routes by path instead of one."""
    usual = (CONFIGS / "weirgate.yaml").read_text()
    head, _, _ = usual.partition("routes:")
    lines = [
        f'  - {{name: r{number}, match: {{path: "/r{number}/*"}}, pool: origin}}'
        for number in range(count)
    ]
    # The readiness probe asks for `/`, which must not take part in the table's size.
    lines.append("  - {name: probe, match: {path: /}, pool: origin}")
    template = work / f"routes-{count}.template.yaml"
    template.write_text(head + "routes:\n" + "\n".join(lines) + "\n")
    return template


class IdleCase:
    """P13: memory of the whole tree for each established connection that does nothing."""

    name = "idle"
    title = f"{IDLE_CONNECTIONS:,} established, idle connections"
    bars = ("P13",)
    subjects = (WEIRGATE,)

    def run(self, bench: Bench, stack: ExitStack) -> Iterator[Sample]:
        """Each kind once: memory hardly varies, and ten thousand handshakes take their time."""
        name = "weirgate-idle"  # its own process: what ran before must not have left room
        if "weirgate" not in bench.wanted:
            return
        subject = start_subject(name, bench.ground)
        stack.callback(subject.running.stop)
        for kind, port in (("plain", subject.http), ("tls", subject.https)):
            yield self.measure(bench, subject, kind, port)
        ground = replace(bench.ground, origin_port=free_ports(1)[0])
        endpoint = [sys.executable, "-m", "benchmarks.websocket_endpoint", str(ground.origin_port)]
        out = ground.work / "websocket.out"
        running = Running(endpoint, cpus=ground.cores.origin, stdout=out, stderr=out)
        stack.callback(running.stop)
        running.wait_for_ports([ground.origin_port])
        subject = start_subject("weirgate-websocket", ground)
        stack.callback(subject.running.stop)
        yield self.measure(bench, subject, "websocket", subject.http)

    def measure(self, bench: Bench, subject: Subject, kind: str, port: int) -> Sample:
        """PSS of the tree with and without the connections."""
        with clients.idle_connections(bench.ground.cores, port, 50, kind=kind):
            pass  # first use of tickets, buffers and code is not a connection's cost
        before = cpu.tree_pss_kb(subject.running.pid)
        count = IDLE_CONNECTIONS
        if kind == "websocket":  # two descriptors each, and a few that the gateway has anyhow
            count = min(count, bench.ground.files // 2 - 200)
        with clients.idle_connections(bench.ground.cores, port, count, kind=kind) as standing:
            after = cpu.tree_pss_kb(subject.running.pid)
        void = [f"{standing['failed']} connections failed"] if standing["failed"] else []
        values = {f"{kind}_kb": (after - before) / max(1, standing["open"])}
        details = {"open": standing["open"], "pss_before_kb": before, "pss_after_kb": after}
        return Sample(self.name, WEIRGATE, 1, values, void, details)


class StartupCase:
    """P15: from the start of the program to the first answer, and the tree's memory at rest."""

    name = "startup"
    title = "start-up time and memory at rest"
    bars = ("P15",)
    subjects = (WEIRGATE,)

    def run(self, bench: Bench, stack: ExitStack) -> Iterator[Sample]:
        """Start it five times; polling costs at most 2 ms of the figure."""
        if "weirgate" not in bench.wanted:
            return
        for number in range(1, max(START_UPS, bench.rounds) + 1):
            subject = launch("weirgate-start", bench.ground)
            stack.callback(subject.running.stop)
            if not wait_until(lambda port=subject.http: answers(port), 20, step_s=0.002):  # type: ignore[misc]
                raise StartError(f"no answer in 20 s: {subject.running.last_words()}")
            took = time.monotonic() - subject.running.started_at
            pause(3)
            pss = cpu.tree_pss_kb(subject.running.pid) / 1024
            processes = len(cpu.tree(subject.running.pid))
            subject.running.stop()
            values = {"startup_s": took, "idle_pss_mb": pss}
            yield Sample(self.name, WEIRGATE, number, values, details={"processes": processes})
