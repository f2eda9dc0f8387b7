"""Run a load test: `python -m loadtests --target local --shape ramp --users 50 --seconds 60`."""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import cpu
from benchmarks.processes import StartError, pause

from loadtests.containers import compose_target
from loadtests.local import local_target
from loadtests.objectives import Objectives, ObjectivesError, read_objectives
from loadtests.outcome import outcome
from loadtests.plan import CLASSES, SHAPES, Plan, Target
from loadtests.report import page
from loadtests.run import RunError, run
from loadtests.scrape import scraping
from loadtests.seconds import read_seconds
from loadtests.target import TargetError, check

#: The comparison of the layers; where it was made, the report has its tables, too.
TIERS = Path("build/loadtest/tiers.json")
OBJECTIVES = Path(__file__).parent / "objectives.yaml"
#: Where a target listens unless told otherwise; the variables are LOADTEST_HTTP and so on.
PORTS = {"http": 8080, "tls": 8443, "tcp": 9000, "udp": 9001}
ADMIN = "node=http://127.0.0.1:9900"
#: What users hold open is ended within so long after the run; only then Weirgate has counted it.
SETTLE_S = 1.0


def read_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtests", description=__doc__)
    parser.add_argument("--target", default="local", help="local, compose, or a host")
    parser.add_argument("--shape", default="ramp", choices=SHAPES)
    parser.add_argument("--users", type=int, default=50, help="at most at a time (50)")
    parser.add_argument("--seconds", type=float, default=60, help="how long (60)")
    parser.add_argument("--workers", type=int, default=0, help="worker processes of Locust (0)")
    parser.add_argument(
        "--pauses", type=float, default=1.0, help="a factor; 0 = as fast as it goes"
    )
    parser.add_argument("--classes", default="", help=f"of {','.join(CLASSES)} (all)")
    parser.add_argument("--report", type=Path, default=Path("build/loadtest/report.html"))
    parser.add_argument("--tiers", type=Path, default=TIERS, help="of python -m loadtests.tiers")
    parser.add_argument("--objectives", type=Path, default=OBJECTIVES)
    for name, port in PORTS.items():
        given = int(os.environ.get(f"LOADTEST_{name.upper()}", port))
        text = f"port, not with --target local ({port}); 0 = not there"
        parser.add_argument(f"--{name}", type=int, default=given, help=text)
    admin = os.environ.get("LOADTEST_ADMIN", ADMIN)
    parser.add_argument(
        "--admin", action="append", help=f"NAME=URL of an admin API, repeated, '' = none ({admin})"
    )
    parser.add_argument("--allow-public-target", action="store_true")
    parser.add_argument("--without-stickiness", action="store_true", help="local: carts must move")
    options = parser.parse_args(arguments)
    options.admin = options.admin or admin.split(",")
    return options


def main() -> int:
    """Run; the exit code is 0, 1 when an objective was broken, 2 when there was no run."""
    options = read_options()
    try:
        objectives = read_objectives(options.objectives)
        with (
            tempfile.TemporaryDirectory(prefix="weirgate-loadtest-") as directory,
            _target(options, Path(directory)) as target,
        ):
            data = measured(_plan(options, target, directory), objectives)
    except (ObjectivesError, RunError, StartError, TargetError) as error:
        print(f"loadtests: {error}", file=sys.stderr)
        return 2
    data["tiers"] = json.loads(options.tiers.read_text()) if options.tiers.exists() else None
    options.report.parent.mkdir(parents=True, exist_ok=True)
    options.report.write_text(page(data))
    options.report.with_suffix(".json").write_text(json.dumps(data, indent=1) + "\n")
    _summary(data, options.report)
    return 0 if data["passed"] else 1


def measured(plan: Plan, objectives: Objectives) -> dict[str, Any]:
    """Run a plan with Weirgate's figures beside it, and return all that is known."""
    scraper = scraping(plan.target.admin) if plan.target.admin else nullcontext()
    began, (busy_s, _) = time.monotonic(), cpu.machine_busy()
    with scraper as scraped:
        run(plan)
        took, spent = time.monotonic() - began, cpu.machine_busy()[0] - busy_s
        pause(SETTLE_S)
    locust = json.loads(plan.locust_file.read_text())
    busy = spent / took / (os.cpu_count() or 1)
    return outcome(plan, read_seconds(plan.seconds_file), locust, scraped, objectives, busy)


@contextmanager
def _target(options: argparse.Namespace, directory: Path) -> Iterator[Target]:
    if options.target == "local":
        variables = {"STICKY_PATH": "/not/sticky"} if options.without_stickiness else {}
        with local_target(directory, **variables) as target:
            yield target
        return
    if options.target == "compose":
        yield compose_target()
        return
    admin = dict(text.split("=", 1) for text in options.admin if "=" in text)
    target = Target(
        options.target, options.target, options.http, options.tls, options.tcp, options.udp, admin
    )
    check(target, allow_public=options.allow_public_target)
    yield target


def _plan(options: argparse.Namespace, target: Target, directory: str) -> Plan:
    wanted = tuple(filter(None, options.classes.split(",")))
    if unknown := set(wanted) - set(CLASSES):
        raise TargetError(f"no such classes: {', '.join(sorted(unknown))}")
    there = target.classes()
    plan = Plan(target, directory, objectives=str(options.objectives.resolve()))
    return replace(
        plan,
        shape=options.shape,
        users=options.users,
        seconds=options.seconds,
        workers=options.workers,
        pauses=options.pauses,
        classes=tuple(name for name in wanted or there if name in there),
    )


def _summary(data: dict[str, Any], report: Path) -> None:
    every = data["classes"]["all"]
    failed = sum(every["failures"].values())
    print(
        f"{every['requests']} requests, {every['per_second']:.0f} a second, {failed} failed, "
        f"p50 {every['p50_ms']} ms, p99 {every['p99_ms']} ms"
    )
    for message, count in sorted(every["failures"].items(), key=lambda item: -item[1]):
        print(f"failed   {count} times: {message}")
    for verdict in data["verdicts"]:
        if not verdict["holds"]:
            print(f"broken   {verdict['who']} {verdict['what']}: {verdict['measured']}")
    for row in data["agreement"]:
        if not row["agrees"]:
            print(f"disagree {row['what']}: Locust {row['locust']}, Weirgate {row['weirgate']}")
    if step := data["last_good_step"]:
        print(f"the last good step: {step['users']} users, {step['per_second']:.0f} a second")
    print(f"{'passed' if data['passed'] else 'FAILED'}: {report}")


if __name__ == "__main__":
    sys.exit(main())
