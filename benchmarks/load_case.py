"""One load put on several subjects in turn, round by round, and when a round does not count."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from benchmarks import cpu
from benchmarks.bars import Sample
from benchmarks.clients import ClientError, Load
from benchmarks.processes import Running, wait_until
from benchmarks.subjects import Ground, Subject

WARM_UP_S = 1.0
SATURATED = 0.97  # of its core: a client or origin this busy may be the bottleneck
WORKING = 0.90  # of its core: a subject this busy is the bottleneck itself


@dataclass
class Bench:
    """One run of the harness: the ground, what runs on it, how long each figure may take."""

    ground: Ground
    origin: Running
    rounds: int
    seconds: float
    subjects: dict[str, Subject] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    wanted: tuple[str, ...] = ()


Drive = Callable[[Bench, Subject, float], Load]


@dataclass(frozen=True)
class LoadCase:
    """One load on several subjects, alternating, round by round."""

    name: str
    title: str
    bars: tuple[str, ...]
    subjects: tuple[str, ...]
    drive: Drive
    value: str = "cpu_us"
    per_unit: float = 1e6
    logs_each: bool = True  # one access-log line a unit of work is expected
    longer: float = 1.0

    def run(self, bench: Bench, stack: ExitStack) -> Iterator[Sample]:
        """All rounds of this case."""
        del stack
        here = [bench.subjects[name] for name in self.subjects if name in bench.subjects]
        yield from self.rounds(bench, here)

    def rounds(self, bench: Bench, here: list[Subject]) -> Iterator[Sample]:
        """Warm up, then alternate; at the end the logs must tell of all the work."""
        done: dict[str, float] = {}
        samples: dict[str, list[Sample]] = {}
        for subject in here:
            subject.clear_log()
            done[subject.name] = self.drive(bench, subject, WARM_UP_S).work
            samples[subject.name] = []
        for number in range(1, bench.rounds + 1):
            for subject in here:
                sample, work = self.measure(bench, subject, number)
                done[subject.name] += work
                samples[subject.name].append(sample)
        for subject in here:
            self.check_log(subject, done[subject.name], samples[subject.name])
            yield from samples[subject.name]

    def measure(self, bench: Bench, subject: Subject, number: int) -> tuple[Sample, float]:
        """One subject, one round."""
        watched = {"subject": subject.running, "origin": bench.origin}
        before = {name: running.cpu_seconds() for name, running in watched.items()}
        busy_before, stolen_before = cpu.machine_busy()
        try:
            load = self.drive(bench, subject, bench.seconds * self.longer)
        except ClientError as error:
            return Sample(self.name, subject.name, number, {}, [str(error)]), 0
        if not subject.running.alive:
            return Sample(self.name, subject.name, number, {}, ["it ended under the load"]), 0
        busy_after, stolen_after = cpu.machine_busy()
        spent = {name: running.cpu_seconds() - before[name] for name, running in watched.items()}
        spent["client"] = load.client_cpu_s
        shares = {name: seconds / load.seconds for name, seconds in spent.items()}
        shares["others"] = (busy_after - busy_before - sum(spent.values())) / load.seconds
        shares["stolen"] = (stolen_after - stolen_before) / load.seconds
        void = [
            f"{count} errors at the client ({name})" for name, count in load.errors.items() if count
        ]
        if load.work <= 0:
            return Sample(self.name, subject.name, number, {}, ["no work was done", *void]), 0
        cores = bench.ground.cores
        bottleneck = find_bottleneck(shares, origin_beside_subject=cores.origin == cores.subject)
        void += [bottleneck] if bottleneck else []
        values = {self.value: spent["subject"] / load.work * self.per_unit} | load.values
        details: dict[str, Any] = {
            "work": load.work,
            "seconds": load.seconds,
            "cpu_s": spent["subject"],
            "shares": {name: round(share, 3) for name, share in shares.items()},
            "errors": load.errors,
        }
        details |= load.details
        return Sample(self.name, subject.name, number, values, void, details), load.work

    def check_log(self, subject: Subject, work: float, samples: list[Sample]) -> None:
        """Void what was not logged, or was logged as failed: the log is part of the work."""
        if self.logs_each:
            wait_until(lambda: subject.log_counts()[0] >= work * 0.98, 3, step_s=0.2)
        lines, failures = subject.log_counts()
        for sample in samples:
            sample.details |= {"log_lines_of_case": lines, "log_5xx_of_case": failures}
            if self.logs_each and lines < work * 0.98:
                sample.void.append(f"access log has {lines} lines for {work:.0f} requests")
            if failures:
                sample.void.append(f"access log tells of {failures} answers with 5xx")
        subject.clear_log()


def find_bottleneck(shares: dict[str, float], *, origin_beside_subject: bool) -> str | None:
    """Say so if not the subject but the client or the origin held the others up."""
    working = shares["subject"] + (shares["origin"] if origin_beside_subject else 0)
    for name in ("client",) if origin_beside_subject else ("client", "origin"):
        if shares[name] >= SATURATED and working < WORKING:
            return f"{name} saturated ({shares[name]:.0%} of its core, subject's at {working:.0%})"
    return None
