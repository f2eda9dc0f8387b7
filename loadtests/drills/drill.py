"""One drill: a quiet time, a fault, the way back, and a judgement of every second of it."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.processes import pause
from scripts.compose import Project

from loadtests.background import Load
from loadtests.seconds import Cell, Second, total

#: Looked at before the fault, and after everything is well again.
QUIET_S = 5
#: Users wait so long for an answer, and a second is written some time after its end: a request
#: that hangs has failed by then, and is seen.
HANGING_S = 20.0
#: Of the rate before, at the end: what is lost for good would show.
RATE_AT_END = 0.5


@dataclass
class Scene:
    """What a fault has to work with; it says what it does, and when."""

    project: Project
    load: Load
    marks: list[tuple[float, str]] = field(default_factory=list)

    def mark(self, what: str) -> None:
        """Remember that something happened now."""
        self.marks.append((time.time(), what))


@dataclass(frozen=True)
class Objective:
    """What clients may see of a fault; everything else is a miss."""

    text: str
    #: Failures at most, by user class; those that are not named must not fail at all.
    failures: dict[str, int] = field(default_factory=dict)
    #: No failure later than so many seconds after the first mark; None = whenever.
    failures_within_s: float | None = None
    #: The longest time without a single answer.
    silence_s: int = 2


@dataclass(frozen=True)
class Fault:
    """One drill."""

    name: str
    act: Callable[[Scene], None]
    objective: Callable[[int], Objective]
    #: User classes that take part; the others would see what is not Weirgate's to hide.
    classes: tuple[str, ...] = ()
    #: The forms of the demo in which it is done.
    forms: tuple[str, ...] = ("apart", "shared")


@dataclass
class Result:
    """What was seen."""

    name: str
    objective: Objective
    seconds: list[Second]
    marks: list[tuple[float, str]]
    misses: list[str]

    @property
    def passed(self) -> bool:
        """Whether the objective was met."""
        return not self.misses

    def failures(self) -> Counter[str]:
        """All failures by message."""
        return total(second.total() for second in self.seconds).failures

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "objective": self.objective.text,
            "passed": self.passed,
            "misses": self.misses,
            "failures": dict(self.failures()),
            "requests": total(second.total() for second in self.seconds).requests,
            "marks": [[round(at, 2), what] for at, what in self.marks],
            "seconds": [
                {"at": second.at, **second.total().as_dict(whole=False)} for second in self.seconds
            ],
        }


def run(fault: Fault, project: Project, load: Load, users: int) -> Result:
    """Run a drill beside a load that flows."""
    scene = Scene(project, load)
    began = time.time()
    pause(QUIET_S)
    fault.act(scene)
    scene.mark("quiet again")
    pause(HANGING_S)
    seconds = [second for second in load.seconds() if began <= second.at]
    objective = fault.objective(users)
    misses = judge(objective, seconds, scene.marks)
    return Result(fault.name, objective, seconds, scene.marks, misses)


def judge(
    objective: Objective, seconds: Sequence[Second], marks: Sequence[tuple[float, str]]
) -> list[str]:
    """Return what the objective does not allow."""
    first, last = marks[0][0], marks[-1][0]
    before = [second for second in seconds if second.at + 1 < first]
    after = [second for second in seconds if second.at > last]
    misses = []
    for when, part in {
        "before anything was done": before,
        "after all was well again": after,
    }.items():
        if _failed(part):
            misses.append(f"{_failed(part)} failures {when}")
    misses += _too_many(objective, seconds)
    limit = objective.failures_within_s
    if limit is not None:
        late = _failed([second for second in seconds if second.at > first + limit])
        if late:
            misses.append(f"{late} failures later than {limit:g} s after it began")
    silence = _longest_silence(seconds)
    if silence > objective.silence_s:
        misses.append(f"no answer at all for {silence} s, at most {objective.silence_s} s wanted")
    if _rate(after) < RATE_AT_END * _rate(before):
        misses.append(f"{_rate(after):.0f} requests/s at the end, {_rate(before):.0f} before")
    lost = {name for second in before for name in second.by_class}
    lost -= {
        name for second in after for name, c in second.by_class.items() if c.requests > c.failed
    }
    misses += [f"{name}: no good answer at the end" for name in sorted(lost)]
    return misses


def _too_many(objective: Objective, seconds: Sequence[Second]) -> list[str]:
    found: dict[str, Cell] = {}
    for second in seconds:
        for name, cell in second.by_class.items():
            found.setdefault(name, Cell()).include(cell)
    return [
        f"{name}: {cell.failed} failures ({_kinds(cell)}), at most "
        f"{objective.failures.get(name, 0)} wanted"
        for name, cell in sorted(found.items())
        if cell.failed > objective.failures.get(name, 0)
    ]


def _kinds(cell: Cell) -> str:
    return ", ".join(f"{text} {count}" for text, count in cell.failures.most_common(3))


def _failed(seconds: Sequence[Second]) -> int:
    return total(second.total() for second in seconds).failed


def _rate(seconds: Sequence[Second]) -> float:
    return total(second.total() for second in seconds).requests / max(len(seconds), 1)


def _longest_silence(seconds: Sequence[Second]) -> int:
    longest = current = 0
    for second in seconds:
        cell = second.total()
        current = 0 if cell.requests > cell.failed else current + 1
        longest = max(longest, current)
    return longest
