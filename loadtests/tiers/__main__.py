"""Measure layer 4 against layer 7: `python -m loadtests.tiers --seconds 2 --rounds 5`."""

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import cpu, netns
from benchmarks.clients import ClientError
from benchmarks.processes import StartError
from benchmarks.subjects import version_of

from loadtests.outcome import versions
from loadtests.tiers import measure, sights, words
from loadtests.tiers.ways import Way, ways

PAGE = Path(__file__).parents[2] / "docs" / "l4-against-l7.md"
JSON = Path("build/loadtest/tiers.json")
QUICK = ("paced", "sixteen")
PROGRAMS = ("nginx", "wrk")


def read_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.tiers", description=__doc__)
    parser.add_argument("--seconds", type=float, default=2, help="of each figure and round (2)")
    parser.add_argument("--rounds", type=int, default=5, help="alternating rounds (5)")
    parser.add_argument("--page", type=Path, default=PAGE, help="where the tables go")
    parser.add_argument("--json", type=Path, default=JSON, help="where the figures go")
    parser.add_argument(
        "--quick", action="store_true", help="one short round of two figures: not to be quoted"
    )
    options = parser.parse_args(arguments)
    if options.quick:
        options.seconds, options.rounds = min(options.seconds, 1), 1
    return options


def main() -> int:
    """Measure and write; the exit code is 0, or 2 when something is missing or did not start."""
    options = read_options()
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        print(f"loadtests.tiers: not installed: {', '.join(missing)}", file=sys.stderr)
        return 2
    load_average = os.getloadavg()[0]
    network = netns.enter_own_network()
    cores = netns.plan_cores(netns.available_cpus())
    only = QUICK if options.quick else tuple(measure.MEASUREMENTS)
    about_s = measure.budget_s(options.seconds, options.rounds, only)
    print(f"about {about_s:.0f} s", file=sys.stderr)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="weirgate-tiers-") as work,
            ways(Path(work), cores) as found,
        ):
            Path(work).chmod(0o755)  # nginx' worker is another user
            seen = sights.observe(found)
            lines = sights.log_lines(found)
            samples = list(measure.rounds(found, cores, options.seconds, options.rounds, only))
    except (StartError, ClientError) as error:
        print(f"loadtests.tiers: {error}", file=sys.stderr)
        return 2
    data = {
        "date": measure.stamp(),
        "command": f"python -m loadtests.tiers --seconds {options.seconds:g} "
        f"--rounds {options.rounds}" + (" --quick" if options.quick else ""),
        "seconds": options.seconds,
        "rounds": options.rounds,
        "rate": measure.RATE,
        "connections": measure.CONNECTIONS,
        "machine": cpu.machine(),
        "versions": _versions(),
        "cores": cores.text,
        "network": network,
        "load_average": load_average,
        "ways": {way.name: way.title for way in found},
        "figures": _figures(samples, found),
        "added": _added(samples, found),
        "sights": [asdict(sight) for sight in seen],
        "log_lines": lines,
        "errors": measure.errors(samples),
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(data, indent=1) + "\n")
    words.insert(options.page, words.tables(data))
    print(options.page)
    return 0


def _versions() -> dict[str, str]:
    found = {"weirgate": versions()["weirgate"]}
    said = {name: re.search(r"\d+(\.\d+)+", version_of(name) or "") for name in PROGRAMS}
    return found | {name: number[0] for name, number in said.items() if number}


def _figures(samples: Sequence[measure.Sample], found: Sequence[Way]) -> dict[str, Any]:
    """By measurement, way and value."""
    return _each(samples, [way.name for way in found], lambda m, w, v: measure.of(samples, m, w, v))


def _added(samples: Sequence[measure.Sample], found: Sequence[Way]) -> dict[str, Any]:
    between = [way.name for way in found if way.name != "direct"]
    return _each(samples, between, lambda m, w, v: measure.added(samples, m, w, v))


def _each(samples: Sequence[measure.Sample], names: Sequence[str], make: Any) -> dict[str, Any]:
    values: dict[str, set[str]] = defaultdict(set)
    for sample in samples:
        values[sample.measurement] |= set(sample.values)
    return {
        m: {w: {v: asdict(make(m, w, v)) for v in sorted(known)} for w in names}
        for m, known in values.items()
    }


if __name__ == "__main__":
    sys.exit(main())
