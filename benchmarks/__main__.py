"""Entry of `make bench`: prepares the ground, runs the cases, prints the table, stores the JSON."""

import argparse
import datetime as dt
import signal
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks import cpu, netns, report
from benchmarks.bars import QUOTABLE_ROUNDS, Sample
from benchmarks.cases import CASES, Case, run_case
from benchmarks.load_case import Bench
from benchmarks.processes import StartError, free_ports
from benchmarks.subjects import (
    PROGRAMS,
    Ground,
    make_certificate,
    start_origin,
    start_subject,
    version_of,
)

WORK = Path(__file__).parent / ".work"
BUDGET_S = 15 * 60


def read_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", default="", help="bars, such as P1,P3 (default: all)")
    parser.add_argument("--subjects", default="weirgate,haproxy,nginx,envoy")
    parser.add_argument("--rounds", type=int, default=5, help="alternating rounds a case")
    parser.add_argument("--seconds", type=float, default=3, help="measured seconds a round")
    parser.add_argument("--quick", action="store_true", help="2 rounds of 1 s, not to be quoted")
    parser.add_argument("--json", type=Path, help="where the result goes")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 2, 1
    if (
        options.json is None
    ):  # the README is made from the latest result: only a whole run may be it
        whole = quotable(options) is True and not options.only
        options.json = report.LATEST if whole else WORK / "partial.json"
    return options


def wanted_cases(only: str) -> list[Case]:
    """The cases that serve the named bars; an unknown bar ends the program."""
    names = {name.strip() for name in only.split(",") if name.strip()}
    known = {bar for case in CASES for bar in case.bars}
    if unknown := names - known:
        sys.exit(f"no such bar: {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}")
    return [case for case in CASES if not names or names & set(case.bars)]


def quotable(options: argparse.Namespace) -> bool | str:
    """True, or why the figures of this run must not be quoted."""
    if options.rounds < QUOTABLE_ROUNDS:
        return f"{options.rounds} rounds, {QUOTABLE_ROUNDS} are needed"
    if options.seconds < 2:
        return f"{options.seconds:g} s a round are too short"
    return True


def start_all(bench: Bench, cases: list[Case], stack: ExitStack) -> None:
    """Start every subject that a case needs; one that cannot start is written down."""
    needed = {name for case in cases for name in case.subjects}
    for name in bench.wanted:
        if name not in needed and not any(other.startswith(name) for other in needed):
            continue
        try:
            subject = start_subject(name, bench.ground)
        except StartError as error:
            bench.missing[name] = str(error)
            say(f"{name}: {error}")
            continue
        stack.callback(subject.running.stop)
        bench.subjects[name] = subject


def run_all(bench: Bench, cases: list[Case]) -> list[Sample]:
    """Every case within the time allowed; what there was no time for is written down."""
    begin = time.monotonic()
    samples: list[Sample] = []
    for case in cases:
        if time.monotonic() - begin > BUDGET_S:
            bench.missing[case.name] = f"the {BUDGET_S // 60} minutes were spent"
            continue
        say(f"{time.monotonic() - begin:5.0f} s  {', '.join(case.bars)}: {case.title}")
        samples += run_case(case, bench)
    return samples


def say(line: str) -> None:
    """Progress goes to stderr; stdout has the table only."""
    print(line, file=sys.stderr, flush=True)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """One whole run, as the JSON that is stored."""
    cases = wanted_cases(options.only)
    names = tuple(name.strip() for name in options.subjects.split(",") if name.strip())
    if unknown := set(names) - set(PROGRAMS):
        sys.exit(f"no such subject: {', '.join(sorted(unknown))}")
    missing = {name: "left out by --subjects" for name in PROGRAMS if name not in names}
    cores = netns.plan_cores(netns.available_cpus())
    versions = {name: version_of(name) or "not installed" for name in (*PROGRAMS, "wrk", "openssl")}
    network = netns.enter_own_network()
    files = netns.raise_file_limit()
    WORK.mkdir(exist_ok=True)
    make_certificate(WORK)
    with ExitStack() as stack, netns.pinned(cores.client):
        ground = Ground(WORK, cores, free_ports(1)[0], files)
        origin = start_origin(ground)
        stack.callback(origin.stop)
        bench = Bench(
            ground, origin, options.rounds, options.seconds, missing=missing, wanted=names
        )
        start_all(bench, cases, stack)
        samples = run_all(bench, cases)
    now = dt.datetime.now(dt.UTC)
    setup = {
        "rounds": options.rounds,
        "seconds": options.seconds,
        "network": network,
        "cores": cores.text,
        "quotable": quotable(options),
    }
    return {
        "date": now.isoformat(timespec="seconds"),
        "machine": cpu.machine(),
        "setup": setup,
        "versions": versions,
        "missing": bench.missing,
        "cases": {case.name: case.title for case in cases},
        "samples": [asdict(sample) for sample in samples],
    }


def _end(number: int, frame: FrameType | None) -> None:
    """A polite end still runs every `finally`, so that nothing stays behind."""
    del frame
    raise SystemExit(128 + number)


def main() -> int:
    """Run, store, print."""
    signal.signal(signal.SIGTERM, _end)
    options = read_options()
    try:
        result = measure(options)
    except StartError as error:
        say(f"nothing can be measured: {error}")
        return 1
    report.save(result, options.json)
    print(report.as_text(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
