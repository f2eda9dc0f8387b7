"""The tables, in Markdown, from the JSON of a run; and the page that they stand in."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BEGIN = "<!-- begin: written by python -m loadtests.tiers -->"
END = "<!-- end -->"
PAGE = f"""# Layer 4 against layer 7

What each way through Weirgate costs and can do: the same application, reached directly, through a
`tcp` listener, through both tiers on one host, and through both tiers on hosts of their own.

{BEGIN}
{END}
"""

MANY_US = 10_000
BUSY = (
    " **The machine was busy with something else: latency and rates of this run are not to be "
    "quoted; CPU time hardly depends on it.**"
)
METHOD = """\
- Rounds for each figure: {rounds}, of {seconds:g} s, after one that is thrown away (of a single
  one nothing is); within a round the ways take turns. Everything runs all the time; what is not
  measured is idle.
- The application is nginx with an answer of 100 bytes, and one of 64 KiB. Access logs and metrics
  are on. One gateway; the node by handoff is one supervisor with its edge and its gateway, the
  tiers apart are `weirgate edge` and `weirgate gateway`, each with a supervisor.
- Clients: `loadtests/tiers/paced.py` (blocking sockets) at the fixed rate, else `wrk` with one
  thread. Not Locust: its Python costs a millisecond a request, more than all that is measured here.
- With two cores the application shares one with what is measured: requests a second are those of
  both together. CPU time is that of Weirgate's processes alone, in ticks of 10 ms.
- The tiers apart are on one machine here: a network between the hosts adds its round trips. By
  handoff the edge is not on the path of a connection's further requests; by PROXY v2 it is."""

#: Measurement, value, and what it is called; differences to the direct way, then values.
ADDED = (
    ("paced", "p50_us", "one connection, {rate} requests a second: p50"),
    ("paced", "p99_us", "the same: p99"),
    ("one", "p50_us", "one connection, as fast as it goes: p50"),
    ("one", "p99_us", "the same: p99"),
    ("sixteen", "p50_us", "{connections} connections, as fast as they go: p50"),
    ("sixteen", "p99_us", "the same: p99"),
)
RATES = (
    ("one", "per_second", "one connection: requests a second"),
    ("sixteen", "per_second", "{connections} connections: requests a second"),
    ("large", "per_second", "the same, answers of 64 KiB"),
    ("connections", "per_second", "a connection for each request: connections a second"),
)
CPU = (
    ("sixteen", "cpu_us", "a request on a kept connection"),
    ("large", "cpu_us", "a request with an answer of 64 KiB"),
    ("connections", "cpu_us", "a connection with one request"),
)


Rows = tuple[list[str], list[list[str]]]


def tables(data: Mapping[str, Any]) -> str:
    """All that stands between the markers."""
    added, rates, cpu, sights = (_table(head, body) for head, body in rows(data))
    lines = "\n".join(f"{name:15} {line}" for name, line in data["log_lines"].items())
    return "\n\n".join(
        [
            _made(data),
            "## What it costs",
            "Latency of the direct way, and what each other way adds to it, taken within each "
            "round. Median (lowest to highest) of the rounds, as everywhere here.",
            added,
            "In a second:",
            rates,
            "CPU time (user and system) of everything between the client and the application:",
            cpu,
            "## What it can see and do",
            "Each cell is what was observed in this run.",
            sights,
            "A line of the log of each, without the times:",
            f"```text\n{lines}\n```",
            "## How it was measured",
            _method(data),
        ]
    )


def rows(data: Mapping[str, Any]) -> tuple[Rows, Rows, Rows, Rows]:
    """The four tables, each a head and its rows: latency, rates, CPU time, sights."""
    ways, figures = data["ways"], data["figures"]
    between = [name for name in ways if name != "direct"]
    names = {"rate": data["rate"], "connections": data["connections"]}
    added = [
        [
            title.format(**names),
            _time(figures[m]["direct"][v]),
            *(_time(data["added"][m][way][v]) for way in between),
        ]
        for m, v, title in ADDED
        if m in figures
    ]
    rates = [
        [title.format(**names), *(_count(figures[m][way][v]) for way in ways)]
        for m, v, title in RATES
        if m in figures
    ]
    cpu = [
        [title, *(_time(figures[m][way][v]) for way in between)]
        for m, v, title in CPU
        if m in figures
    ]
    sights = [[row["tried"], *(row["seen"][way] for way in ways)] for row in data["sights"]]
    titles = [ways[way] for way in between]
    return (
        (["", "direct", *(f"added by {title}" for title in titles)], added),
        (["", "direct", *titles], rates),
        (["", *titles], cpu),
        (["", "direct", *titles], sights),
    )


def insert(file: Path, text: str) -> None:
    """Put the text between the markers of a file, which is made where it is missing.

    Raises:
        ValueError: The file has no markers.
    """
    page = file.read_text() if file.exists() else PAGE
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{file}: no markers {BEGIN} … {END}")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def _made(data: Mapping[str, Any]) -> str:
    machine = data["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in data["versions"].items())
    return (
        f"Made {data['date']} by `{data['command']}` on {machine['cpu']}, {machine['cores']} "
        f"cores, Linux {machine['kernel']}; {versions}. The {data['cores']}; {data['network']}. "
        f"Load average at the start: {data['load_average']:.2f}."
        + (BUSY if data["load_average"] > machine["cores"] / 2 else "")
    )


def _method(data: Mapping[str, Any]) -> str:
    text = METHOD.format(rounds=data["rounds"], seconds=data["seconds"])
    if data["errors"]:
        text += "\n- **Errors in this run**: " + "; ".join(data["errors"])
    return text


def _time(seen: Mapping[str, float]) -> str:
    """Microseconds, and milliseconds where they are many."""
    values = [seen["median"], seen["low"], seen["high"]]
    if max(map(abs, values)) < MANY_US:
        middle, low, high = (f"{value:.0f}" for value in values)
        return f"{middle} µs ({low} to {high})"
    middle, low, high = map(_one_time, values)
    return f"{middle} ({low} to {high})"


def _one_time(value_us: float) -> str:
    return f"{value_us:.0f} µs" if abs(value_us) < MANY_US else f"{value_us / 1000:.1f} ms"


def _count(seen: Mapping[str, float]) -> str:
    return f"{seen['median']:,.0f} ({seen['low']:,.0f} to {seen['high']:,.0f})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])
