"""Says what came out: a table for the terminal, one for the README, the JSON in between.

`python -m benchmarks.report` prints the Markdown; with `--readme` it replaces what stands between
the markers `<!-- bench:begin -->` and `<!-- bench:end -->` of README.md.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.bars import BARS, Bar, Figure, Sample, absolute, assess

ROOT = Path(__file__).parent.parent
LATEST = Path(__file__).parent / "results" / "latest.json"
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
ORDER = ("weirgate", "weirgate-5", "weirgate-5000", "haproxy", "nginx", "envoy")
HEAD = ("bar", "work", "measured", "min-max", "must", "aim", "verdict")
COST_UNITS = {"cpu_us": "µs", "cpu_s_per_gb": "s/GB", "p99_ms": "ms"}


def figures(result: dict[str, Any], bars: Sequence[Bar] = BARS) -> list[Figure]:
    """Assess every bar whose case was asked for, from the stored samples alone."""
    samples = [Sample(**sample) for sample in result["samples"]]
    return [assess(samples, bar, result["missing"]) for bar in bars if bar.case in result["cases"]]


def number(value: float | None, unit: str) -> str:
    """A figure with the digits that it deserves."""
    if value is None:
        return "-"
    if unit == "x":
        return f"{value:.2f}"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:.{digits}f} {unit}"


def bar_rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """One row a bar, as text."""
    rows: list[tuple[str, ...]] = []
    for figure in figures(result):
        bar, unit = figure.bar, figure.bar.unit
        spread = "-"
        if figure.low is not None:
            spread = f"{number(figure.low, unit)} - {number(figure.high, unit)}"
        rows.append(
            (
                bar.id,
                bar.title,
                number(figure.middle, unit),
                spread,
                f"<= {number(bar.must, unit)}",
                f"<= {number(bar.aim, unit)}",
                figure.verdict,
            )
        )
    return rows


def cost_rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """Medians of every subject in every compared case, as text."""
    medians = absolute([Sample(**sample) for sample in result["samples"]])
    shown = {(bar.case, bar.value): None for bar in BARS if bar.against}
    rows: list[tuple[str, ...]] = []
    for case, value in shown:
        subjects = medians.get(case, {})
        cells = {
            name: number(values[value], COST_UNITS[value])
            for name, values in subjects.items()
            if value in values
        }
        if case != "routes" and cells:
            title = str(result["cases"].get(case, case))
            rows.append(
                (
                    title,
                    *(cells.get(name, "-") for name in ("weirgate", "haproxy", "nginx", "envoy")),
                )
            )
    return rows


COST_HEAD = ("absolute, median of the rounds", "weirgate", "haproxy", "nginx", "envoy")


def notes(result: dict[str, Any]) -> list[str]:
    """How and on what it was measured, and all that is missing or void."""
    machine, setup = result["machine"], result["setup"]
    lines = [
        f"{result['date']}: {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['memory_mb']} MB, Linux {machine['kernel']}",
        f"{setup['rounds']} rounds of {setup['seconds']:g} s, alternating, warm-up thrown away; "
        f"{setup['network']}; {setup['cores']}",
    ]
    if setup["quotable"] is not True:
        lines.append(f"NOT to be quoted: {setup['quotable']}")
    lines += [f"{name}: {version}" for name, version in result["versions"].items()]
    lines += [f"missing: {name}: {why}" for name, why in result["missing"].items()]
    counted: dict[tuple[str, str, str], int] = {}
    for sample in result["samples"]:
        for reason in sample["void"][:1]:
            key = (sample["case"], sample["subject"], reason)
            counted[key] = counted.get(key, 0) + 1
    lines += [
        f"void: {case}, {subject}, {rounds} rounds, such as: {reason}"
        for (case, subject, reason), rounds in counted.items()
    ]
    busy = [s["details"].get("shares", {}).get("others", 0) for s in result["samples"]]
    if busy and max(busy) > 0.1:
        lines.append(f"others used up to {max(busy):.0%} of a core meanwhile: figures may be rough")
    return lines


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns in line, for a terminal."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [head, ["-" * width for width in widths], *rows]
    ]
    return "\n".join(lines)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same for a README."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def as_text(result: dict[str, Any]) -> str:
    """The whole report for a terminal."""
    parts = [text_table(HEAD, bar_rows(result))]
    if costs := cost_rows(result):
        parts.append(text_table(COST_HEAD, costs))
    return "\n\n".join([*parts, "\n".join(notes(result))])


def as_markdown(result: dict[str, Any]) -> str:
    """The whole report for the README."""
    parts = [markdown_table(HEAD, bar_rows(result)).replace("<=", "≤")]
    if costs := cost_rows(result):
        parts.append(markdown_table(COST_HEAD, costs))
    listed = "\n".join(f"- {line}" for line in notes(result))
    return "\n\n".join([*parts, listed])


def into_readme(readme: str, table: str) -> str:
    """Replace what stands between the markers.

    Raises:
        ValueError: The markers are not there, once each and in order.
    """
    if (
        readme.count(BEGIN) != 1
        or readme.count(END) != 1
        or readme.index(BEGIN) > readme.index(END)
    ):
        raise ValueError(f"README needs {BEGIN} and {END}, once each and in this order")
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def save(result: dict[str, Any], path: Path) -> None:
    """Write the result with the figures drawn from it."""
    drawn = [asdict(figure) for figure in figures(result)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result | {"figures": drawn}, indent=1) + "\n")


def main() -> int:
    """Render the stored result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report")
    parser.add_argument("--json", type=Path, default=LATEST, help="the result to render")
    parser.add_argument("--readme", action="store_true", help="write it into README.md")
    options = parser.parse_args()
    if not options.json.exists():
        print(
            f"{options.json.name} is not there: run `python -m benchmarks` first", file=sys.stderr
        )
        return 1
    table = as_markdown(json.loads(options.json.read_text()))
    if not options.readme:
        print(table)
        return 0
    readme = ROOT / "README.md"
    readme.write_text(into_readme(readme.read_text(), table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
