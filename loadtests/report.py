"""The page of a run: one HTML file without anything from elsewhere, drawn from its JSON."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from loadtests import plots
from loadtests.tiers import words

STYLE = """
:root{color-scheme:light dark;--line:#8884;--good:#2c7d3f;--bad:#b8303f}
body{font:15px/1.5 system-ui,sans-serif;max-width:940px;margin:2em auto;padding:0 1em}
h1{margin-bottom:0}h2{margin-top:2em;border-bottom:1px solid var(--line)}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:.15em .6em;border-bottom:1px solid var(--line);vertical-align:top}
th:first-child,td:first-child,.words td,.words th{text-align:left}
.good{color:var(--good)}.bad{color:var(--bad)}.verdict{font-size:1.4em;font-weight:600}
svg{width:100%;height:auto}svg line{stroke:#8884}svg text{font-size:11px;fill:#888}
svg polyline{stroke-width:1.6}figure{margin:.5em 0}figcaption span{margin-right:1.2em}
figcaption i{display:inline-block;width:.8em;height:.8em;margin-right:.3em}
small{color:#888}.wide{overflow-x:auto}
"""
MISSING = "-"


def page(data: Mapping[str, Any]) -> str:
    """Draw the page."""
    parts = [
        _head(data),
        _objectives(data),
        _classes(data),
        _steps(data),
        _times(data),
        _failures(data),
        _tasks(data),
        _weirgate(data["weirgate"]) if data["weirgate"] else "",
        _agreement(data["agreement"]),
        _tiers(data.get("tiers")),
        _notes(),
    ]
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8><title>Load test</title>"
        # The browser itself refuses what is not in this file, and says so on its console.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'; img-src data:\">"
        '<link rel="icon" href="data:,">'
        f"<style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _head(data: Mapping[str, Any]) -> str:
    plan, machine = data["plan"], data["machine"]
    target = plan["target"]
    what = "passed" if data["passed"] else "FAILED"
    facts = {
        "target": f"{target['name']} at {target['host']}",
        "load": f"{plan['shape']}, up to {plan['users']} users, {plan['seconds']:g} s, "
        + (f"{plan['workers']} worker processes" if plan["workers"] else "one process of Locust"),
        "users": ", ".join(plan["classes"]),
        "when": data["when"],
        "machine": f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_mb']} MB, "
        f"Linux {machine['kernel']}; its cores were {machine['busy_percent']:g} % busy",
        "versions": ", ".join(f"{name} {number}" for name, number in data["versions"].items()),
    }
    rows = "".join(f"<tr><td>{escape(k)}<td>{escape(str(v))}" for k, v in facts.items())
    mark = "good" if data["passed"] else "bad"
    return (
        f"<h1>Load test</h1><p class='verdict {mark}'>{what}</p><table class=words>{rows}</table>"
    )


def _objectives(data: Mapping[str, Any]) -> str:
    head = ("who", "what", "measured", "at most", "")
    rows = {
        holds: [
            (v["who"], v["what"], v["measured"], v["limit"], _mark(holds, "kept", "BROKEN"))
            for v in data["verdicts"]
            if v["holds"] is holds
        ]
        for holds in (False, True)
    }
    parts = ["<h2>Objectives</h2>"]
    if not any(rows.values()):
        parts.append("<p>Nothing was judged.</p>")
    if rows[False]:
        parts.append(_table(head, rows[False]))
    if rows[True]:
        kept = f"{len(rows[True])} kept"
        parts.append(f"<details><summary>{kept}</summary>{_table(head, rows[True])}</details>")
    return "".join(parts)


def _classes(data: Mapping[str, Any]) -> str:
    rows = [
        (
            *(name, cell["requests"], cell["per_second"], sum(cell["failures"].values())),
            *(cell["p50_ms"], cell["p95_ms"], cell["p99_ms"]),
        )
        for name, cell in data["classes"].items()
    ]
    head = ("user class", "requests", "a second", "failed", "p50 ms", "p95 ms", "p99 ms")
    return "<h2>User classes</h2>" + _table(head, rows)


def _steps(data: Mapping[str, Any]) -> str:
    steps = data["locust"]["steps"]
    if not steps:
        return ""
    rows = [
        (s["users"], s["per_second"], "; ".join(s["broken"]) or _mark(holds=True, yes="kept"))
        for s in steps
    ]
    good = data["last_good_step"]
    text = (
        f"The last good step: {good['users']} users, {good['per_second']:.0f} requests a second."
        if good
        else "No step was good."
    )
    return f"<h2>Steps</h2><p>{text}</p>" + _table(("users", "requests a second", "broken"), rows)


def _times(data: Mapping[str, Any]) -> str:
    seconds = data["seconds"]
    rate = {
        "requests a second": [s["requests"] for s in seconds],
        "failures a second": [sum(s["failures"].values()) for s in seconds],
    }
    times = {name: [s[f"{name}_ms"] for s in seconds] for name in ("p50", "p95", "p99")}
    parts = [
        "<h2>Over time</h2><h3>Users</h3>",
        plots.lines({"users": [s["users"] for s in seconds]}),
        "<h3>Rate</h3>",
        plots.lines(rate),
        "<h3>Time to answer</h3>",
        plots.lines(times, unit="ms"),
    ]
    if data["weirgate"] and data["weirgate"]["endpoints_by_second"]:
        parts += ["<h3>Share of each endpoint, as Weirgate counts</h3>", _shares(data)]
    return "".join(parts)


def _shares(data: Mapping[str, Any]) -> str:
    counted = {int(at): c for at, c in data["weirgate"]["endpoints_by_second"].items()}
    names = sorted({name for counts in counted.values() for name, n in counts.items() if n})
    ats = [second["at"] for second in data["seconds"]]
    return plots.shares({n: [counted.get(at, {}).get(n, 0.0) for at in ats] for n in names})


def _failures(data: Mapping[str, Any]) -> str:
    rows = [
        (name, message, count)
        for name, cell in data["classes"].items()
        for message, count in sorted(cell["failures"].items(), key=lambda item: -item[1])
        if name != "all"
    ]
    crashes = [
        ("Locust itself", crash["message"], crash["count"]) for crash in data["locust"]["crashes"]
    ]
    if not rows + crashes:
        return "<h2>Failures</h2><p class=good>None.</p>"
    return "<h2>Failures</h2>" + _table(("user class", "message", "count"), rows + crashes)


def _tasks(data: Mapping[str, Any]) -> str:
    head = (
        "task",
        "requests",
        "failed",
        "a second",
        "bytes",
        "mean ms",
        "p50",
        "p95",
        "p99",
        "max",
    )
    rows = [
        (
            *(t["name"], t["requests"], t["failures"], t["per_second"], t["average_bytes"]),
            *(t["average_ms"], t["p50_ms"], t["p95_ms"], t["p99_ms"], t["max_ms"]),
        )
        for t in [
            *sorted(data["locust"]["tasks"], key=lambda t: t["name"]),
            data["locust"]["total"],
        ]
    ]
    return "<h2>Tasks, as Locust counts</h2>" + _table(head, rows)


def _weirgate(seen: Mapping[str, Any]) -> str:
    sources = ", ".join(f"{name} = {url}" for name, url in seen["sources"].items())
    parts = [f"<h2>As Weirgate counts</h2><p><small>{escape(sources)}"]
    if seen["silent_scrapes"]:
        parts.append(f"; {seen['silent_scrapes']} times an admin API did not answer")
    parts.append("</small></p><h3>Edge, by listener</h3>" + _dicts(seen["listeners"]))
    routes = [
        {
            **route,
            "statuses": ", ".join(f"{s}: {n:g}" for s, n in sorted(route["statuses"].items())),
        }
        for route in seen["routes"]
    ]
    parts.append("<h3>Gateways, by route</h3>" + _dicts(routes))
    parts.append("<h3>Endpoints of routes</h3>" + _dicts(seen["endpoints"]))
    reasons = [{"reason": name, "count": count} for name, count in seen["reasons"].items()]
    parts.append("<h3>Reasons</h3>" + (_dicts(reasons) if reasons else "<p class=good>None.</p>"))
    node = [{"what": name, "count": count} for name, count in seen["node"].items() if count]
    parts.append("<h3>The rest</h3>" + _dicts(node))
    return "".join(parts)


def _agreement(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    cells = [
        (
            *(r["what"], r["locust"], r["weirgate"], r["weirgate"] - r["locust"]),
            _mark(r["agrees"], "agree", "DISAGREE"),
        )
        for r in rows
    ]
    head = ("what", "Locust", "Weirgate", "difference", "")
    text = (
        "<p>Small differences are requests that were under way at the ends, or that broke. "
        "Others who use the same Weirgate are counted by it as well.</p>"
    )
    return "<h2>Do the two agree?</h2>" + _table(head, cells) + text


def _tiers(data: Mapping[str, Any] | None) -> str:
    """The tables of docs/l4-against-l7.md, where they were made on this machine."""
    if data is None:
        return ""
    parts = [f"<h2>Layer 4 against layer 7</h2><p>Made {escape(data['date'])}.</p>"]
    for head, rows in words.rows(data):
        parts.append(_table(head, rows))
    return "".join(parts)


def _notes() -> str:
    return (
        "<h2>How to read this</h2><p>Times are those of Locust: Python clients that share one "
        "core per process. They contain the client's own work and its queue, a millisecond or more "
        "where the cores are busy, so they compare runs on one machine and find failures; they do "
        "not measure Weirgate (see docs/l4-against-l7.md and benchmarks/ for that). Gateways' "
        "times are estimated from their histograms. Users wait for answers before they go on, so "
        "a system that slows down gets less load.</p>"
    )


def _dicts(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return "<p>Nothing was counted.</p>"
    names = [n for n in rows[0] if any(row[n] not in (0, "") for row in rows)]
    return _table([n.replace("_", " ") for n in names], [[row[n] for n in names] for row in rows])


def _table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    body = "".join("<tr>" + "".join(f"<td>{_cell(v)}" for v in row) for row in rows)
    names = "".join(f"<th>{escape(name)}" for name in head)
    return f"<div class=wide><table><tr>{names}{body}</table></div>"


class _Html(str):
    """Text that is HTML already."""


def _mark(holds: bool, yes: str, no: str = "") -> _Html:  # noqa: FBT001 - the value is the point
    return _Html(
        f'<span class="{"good" if holds else "bad"}">{escape(yes if holds else no)}</span>'
    )


def _cell(value: Any) -> str:
    if value is None:
        return MISSING
    if isinstance(value, _Html):
        return str(value)
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else escape(str(value))
