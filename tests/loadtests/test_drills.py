"""How a drill is judged: what an objective allows, and everything that it does not."""

from collections import Counter

import pytest
from loadtests.drills.drill import Objective, Result, judge
from loadtests.drills.faults import FAULTS
from loadtests.drills.report import page
from loadtests.seconds import Cell, Second

#: The fault is in second 110 of 100 to 129, well again from 120 on.
MARKS = [(110.2, "something is killed"), (120.0, "quiet again")]
ALLOWED = Objective("two of Api, at once", failures={"Api": 2}, failures_within_s=3, silence_s=2)


def seconds(**changed: Cell) -> list[Second]:
    """Thirty seconds of ten requests each, but for some that are named by their number."""
    cells = {int(name.removeprefix("at_")): cell for name, cell in changed.items()}
    return [
        Second(at, 5, {"Api": cells.get(at, Cell(10, Counter(), Counter({5.0: 10})))})
        for at in range(100, 130)
    ]


def failing(count: int) -> Cell:
    return Cell(10, Counter({"reset": count}), Counter({5.0: 10}))


@pytest.mark.parametrize(
    ("found", "miss"),
    [
        (seconds(), None),
        (seconds(at_110=failing(2)), None),
        (seconds(at_110=failing(3)), "Api: 3 failures (reset 3), at most 2 wanted"),
        (seconds(at_115=failing(1)), "1 failures later than 3 s after it began"),
        (seconds(at_103=failing(1)), "1 failures before anything was done"),
        (seconds(at_125=failing(1)), "1 failures after all was well again"),
        (seconds(at_111=Cell(), at_112=Cell()), None),
        (
            seconds(at_111=Cell(), at_112=Cell(), at_113=Cell()),
            "no answer at all for 3 s, at most 2 s wanted",
        ),
        (
            seconds(
                **{f"at_{at}": Cell(1, Counter(), Counter({5.0: 1})) for at in range(120, 130)}
            ),
            "1 requests/s at the end, 10 before",
        ),
    ],
)
def test_what_is_a_miss(found: list[Second], miss: str | None) -> None:
    misses = judge(ALLOWED, found, MARKS)
    assert (misses == []) is (miss is None)
    if miss is not None:
        assert miss in misses


def test_a_class_that_is_dead_at_the_end_is_a_miss_whatever_the_others_do() -> None:
    found = seconds()
    for second in found[:10]:
        second.by_class["Chat"] = Cell(3, Counter(), Counter({1.0: 3}))
    assert judge(ALLOWED, found, MARKS) == ["Chat: no good answer at the end"]


def test_classes_that_are_not_named_must_not_fail_at_all() -> None:
    found = seconds()
    found[12].by_class["Chat"] = Cell(3, Counter({"closed": 1}), Counter({1.0: 3}))
    assert judge(ALLOWED, found, MARKS) == ["Chat: 1 failures (closed 1), at most 0 wanted"]


def test_the_page_shows_each_second_and_each_miss() -> None:
    found = seconds(at_115=failing(1))
    misses = judge(ALLOWED, found, MARKS)
    text = page([Result("kill", ALLOWED, found, MARKS, misses)], {"form": "apart"})
    assert "0 of 1 objectives met" in text
    assert "something is killed" in text
    assert text.count("<tr><td>") >= 30
    assert misses[0] in text
    assert "http" not in text.replace("http-equiv", "")


def test_every_form_has_its_drills_and_objectives() -> None:
    names = [fault.name for fault in FAULTS]
    assert len(set(names)) == len(names)
    for form in ("apart", "shared"):
        mine = {fault.name for fault in FAULTS if form in fault.forms}
        assert {"kill-gateway", "pause-application", "roll-gateways", "scale-applications"} <= mine
        assert mine & {"restart-edge", "kill-edge"}
    assert all(fault.objective(16).text for fault in FAULTS)
