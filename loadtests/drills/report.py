"""The page of a set of drills, each second by second: one file, with nothing from elsewhere."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from loadtests import plots
from loadtests.drills.drill import Result
from loadtests.report import STYLE


def page(results: Sequence[Result], facts: Mapping[str, str]) -> str:
    """Draw the page."""
    passed = all(result.passed for result in results)
    verdict = f'<p class="verdict {"good" if passed else "bad"}">'
    verdict += f"{sum(r.passed for r in results)} of {len(results)} objectives met</p>"
    known = "".join(f"<tr><td>{escape(k)}<td>{escape(v)}" for k, v in facts.items())
    body = "".join(_drill(result) for result in results)
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8><title>Drills</title>"
        f'<link rel="icon" href="data:,"><style>{STYLE}</style></head><body><h1>Drills</h1>'
        f"{verdict}<table class=words>{known}</table>{_overview(results)}{body}</body></html>\n"
    )


def _overview(results: Sequence[Result]) -> str:
    rows = "".join(
        f"<tr><td><a href='#{r.name}'>{r.name}</a><td>{_word(r)}<td>{_requests(r):,}"
        f"<td>{r.failures().total():,}<td>{_slowest(r)}"
        for r in results
    )
    return f"<table><tr><th>drill<th>objective<th>requests<th>failed<th>worst p99, ms{rows}</table>"


def _drill(result: Result) -> str:
    start = result.seconds[0].at if result.seconds else 0
    cells = [second.total() for second in result.seconds]
    rates = {
        "requests/s": [float(cell.requests) for cell in cells],
        "failures/s": [float(cell.failed) for cell in cells],
    }
    times = {"p99": [cell.quantile_ms(0.99) for cell in cells]}
    marks = "".join(f"<tr><td>{at - start:.1f} s<td>{escape(what)}" for at, what in result.marks)
    misses = "".join(f"<li>{escape(miss)}" for miss in result.misses)
    kinds = "".join(f"<li>{escape(text)}: {count}" for text, count in result.failures().items())
    return (
        f"<h2 id='{result.name}'>{result.name}: {_word(result)}</h2>"
        f"<p>{escape(result.objective.text)}</p><ul class=bad>{misses}</ul>"
        f"<table class=words>{marks}</table>{plots.lines(rates)}"
        f"{plots.lines(times, unit='ms')}<ul>{kinds}</ul>{_table(result, start)}"
    )


def _table(result: Result, start: int) -> str:
    rows = "".join(
        f"<tr><td>{second.at - start}<td>{cell.requests}<td>{cell.failed}"
        f"<td>{_number(cell.quantile_ms(0.5))}<td>{_number(cell.quantile_ms(0.99))}"
        f"<td>{escape(_marks_in(result, second.at))}"
        for second in result.seconds
        for cell in [second.total()]
    )
    head = "<tr><th>second<th>requests<th>failed<th>p50, ms<th>p99, ms<th>"
    return f"<details><summary>second by second</summary><table>{head}{rows}</table></details>"


def _marks_in(result: Result, second: int) -> str:
    return "; ".join(what for at, what in result.marks if second <= at < second + 1)


def _word(result: Result) -> str:
    return '<span class="good">met</span>' if result.passed else '<span class="bad">MISSED</span>'


def _requests(result: Result) -> int:
    return sum(second.total().requests for second in result.seconds)


def _slowest(result: Result) -> str:
    found = [second.total().quantile_ms(0.99) for second in result.seconds]
    return _number(max((value for value in found if value is not None), default=None))


def _number(value: Any) -> str:
    return "-" if value is None else f"{value:,.0f}"
