"""Run the drills: ``python -m loadtests.drills [--form shared] [--only kill-gateway,…]``.

The demo is started if it does not run, and removed then; else its containers are left running.
The exit code is 0, 1 when an objective was missed, 2 when a drill could not be run.
"""

import argparse
import json
import platform
import sys
import tempfile
from functools import partial
from pathlib import Path

from benchmarks import cpu
from scripts.compose import FORMS, Project, up
from scripts.image.engine import EngineError

from loadtests.background import load_in_background
from loadtests.containers import compose_target
from loadtests.drills import report
from loadtests.drills.drill import Fault, Result, run
from loadtests.drills.faults import FAULTS, scale_at_random
from loadtests.run import RunError
from loadtests.target import TargetError


def main() -> int:
    """Run; return the exit code."""
    options = _options()
    project = Project(options.form)
    chosen = _chosen(options)
    results: list[Result] = []
    try:
        was_there = bool(project.containers())
        try:
            if not was_there:
                up(project)
            project.wait_healthy()
            for fault in chosen:
                results.append(_run(fault, project, options.users))
                _say(results[-1])
        finally:
            if not was_there:
                project.down()
    except (EngineError, RunError, TargetError) as error:
        print(f"drills: {error}", file=sys.stderr)
        return 2
    _write(results, options)
    return 0 if all(result.passed for result in results) else 1


def _run(fault: Fault, project: Project, users: int) -> Result:
    with (
        tempfile.TemporaryDirectory(prefix="weirgate-drill-") as directory,
        load_in_background(
            compose_target(), Path(directory), users=users, classes=fault.classes
        ) as load,
    ):
        return run(fault, project, load, users)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtests.drills", description=__doc__)
    parser.add_argument("--form", choices=sorted(FORMS), default="apart")
    parser.add_argument("--only", default="", help="names, with commas between them")
    parser.add_argument("--users", type=int, default=16)
    parser.add_argument("--events", type=int, default=20, help="of scale-at-random")
    parser.add_argument("--report", type=Path, default=Path("build/drill/report.html"))
    return parser.parse_args()


def _chosen(options: argparse.Namespace) -> list[Fault]:
    wanted = set(filter(None, options.only.split(",")))
    known = {fault.name for fault in FAULTS}
    if wanted - known:
        sys.exit(
            f"drills: {', '.join(sorted(wanted - known))} is none of {', '.join(sorted(known))}"
        )
    found = [f for f in FAULTS if options.form in f.forms and (not wanted or f.name in wanted)]
    return [
        Fault(
            f.name, partial(scale_at_random, events=options.events), f.objective, f.classes, f.forms
        )
        if f.name == "scale-at-random"
        else f
        for f in found
    ]


def _say(result: Result) -> None:
    word = "met" if result.passed else "MISSED"
    requests = sum(second.total().requests for second in result.seconds)
    print(f"{result.name:20} {word:7} {requests:6} requests, {result.failures().total()} failed")
    for miss in result.misses:
        print(f"{'':20} {miss}")
    sys.stdout.flush()


def _write(results: list[Result], options: argparse.Namespace) -> None:
    machine = cpu.machine()
    facts = {
        "form": options.form,
        "users": str(options.users),
        "machine": f"{machine['cpu']}, {machine['cores']} cores, Linux {platform.release()}",
    }
    options.report.parent.mkdir(parents=True, exist_ok=True)
    options.report.write_text(report.page(results, facts))
    data = {"facts": facts, "drills": [result.as_dict() for result in results]}
    options.report.with_suffix(".json").write_text(json.dumps(data, indent=1) + "\n")
    print(f"report: {options.report}")


if __name__ == "__main__":
    sys.exit(main())
