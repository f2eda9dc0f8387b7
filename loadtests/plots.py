"""Plots as inline SVG: lines over seconds, and shares of a whole. No script, no other file."""

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 860, 220
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 10, 24
COLOURS = ("#2f6fb0", "#d1672b", "#3c8d4f", "#b0304a", "#7a5aa6", "#8a7a2c", "#3a9aa0", "#777777")
Series = Mapping[str, Sequence[float | None]]


def lines(series: Series, *, unit: str = "") -> str:
    """Draw one line for each series over seconds from 0; None is a gap."""
    top = _nice(max((v for values in series.values() for v in values if v is not None), default=1))
    count = max((len(values) for values in series.values()), default=1)
    parts = [_grid(top, count, unit)]
    for number, values in enumerate(series.values()):
        colour = COLOURS[number % len(COLOURS)]
        for run in _runs(values):
            points = " ".join(f"{_x(at, count):.1f},{_y(v, top):.1f}" for at, v in run)
            parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}"/>')
            if len(run) == 1:
                (at, value), radius = run[0], 2
                place = f'cx="{_x(at, count):.1f}" cy="{_y(value, top):.1f}"'
                parts.append(f'<circle {place} r="{radius}" fill="{colour}"/>')
    return _figure(parts, series)


def shares(series: Series) -> str:
    """Draw the share of each series in the sum of each second, stacked, in percent."""
    count = max((len(values) for values in series.values()), default=1)
    sums = [sum(v[at] or 0 for v in series.values()) for at in range(count)]
    parts = [_grid(100, count, "%")]
    below = [0.0] * count
    for number, values in enumerate(series.values()):
        above = [
            low + (100 * (value or 0) / whole if whole else 0)
            for low, value, whole in zip(below, values, sums, strict=True)
        ]
        edge = [(at, above[at]) for at in range(count)]
        edge += [(at, below[at]) for at in reversed(range(count))]
        points = " ".join(f"{_x(at, count):.1f},{_y(v, 100):.1f}" for at, v in edge)
        colour = COLOURS[number % len(COLOURS)]
        parts.append(f'<polygon points="{points}" fill="{colour}" fill-opacity=".75"/>')
        below = above
    return _figure(parts, series)


def _figure(parts: Sequence[str], series: Series) -> str:
    legend = "".join(
        f'<span><i style="background:{COLOURS[n % len(COLOURS)]}"></i>{escape(name)}</span>'
        for n, name in enumerate(series)
    )
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'
        f"<figcaption>{legend}</figcaption></figure>"
    )


def _grid(top: float, count: int, unit: str) -> str:
    parts = []
    for step in range(5):
        value = top * step / 4
        y = _y(value, top)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        label = f"{value:g} {unit}".strip()
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    every = max(1, math.ceil(count / 10))
    for at in range(0, count, every):
        x = _x(at, count)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 6}" text-anchor="middle">{at} s</text>')
    return "".join(parts)


def _runs(values: Sequence[float | None]) -> list[list[tuple[int, float]]]:
    """Cut a series at its gaps."""
    found: list[list[tuple[int, float]]] = [[]]
    for at, value in enumerate(values):
        if value is None:
            found.append([])
        else:
            found[-1].append((at, value))
    return [run for run in found if run]


def _x(at: float, count: int) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * at / max(count - 1, 1)


def _y(value: float, top: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / top


def _nice(value: float) -> float:
    """The next number above that divides well by four."""
    if value <= 0:
        return 1
    power = 10 ** math.floor(math.log10(value))
    return float(next(n * power for n in (1, 2, 4, 6, 8, 10, 20) if n * power >= value))
