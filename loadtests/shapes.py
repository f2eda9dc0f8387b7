"""Load shapes: how many users there are at which time. Imported by Locust's processes only."""

import math
import time
from typing import TYPE_CHECKING, Any

from locust import LoadTestShape

from loadtests.objectives import judge, read_objectives
from loadtests.seconds import by_class, total
from loadtests.users.pace import PLAN

if TYPE_CHECKING:
    from loadtests.recorder import Recorder

STEPS = 10
Tick = tuple[int, float] | None


class Recorded(LoadTestShape):
    """A shape that knows the recorder, and ends without losing anything."""

    abstract = True
    recorder: "Recorder"
    told_to_end = False

    def end(self) -> None:
        """End at the next tick: SIGTERM."""
        self.told_to_end = True

    def tick(self) -> Tick:
        """What Locust asks once a second; None = the end."""
        tick = None if self.told_to_end else self.next()
        if tick is None:
            self.recorder.finish()
        return tick

    def next(self) -> Tick:
        """How many users there are to be, and how many of them are started in a second."""
        raise NotImplementedError


class Shape(Recorded):
    """A number of users as a function of the share of the time that has passed."""

    abstract = True

    def next(self) -> Tick:
        """All of them at once, whenever there are to be more."""
        share = self.get_run_time() / PLAN.seconds  # type: ignore[no-untyped-call]
        if share >= 1:
            return None
        users = max(1, math.ceil(PLAN.users * self.height(share)))
        return users, float(max(users, 10))

    def height(self, share: float) -> float:
        """The share of the users that there are at a share of the time."""
        raise NotImplementedError


class Steady(Shape):
    """All of them, all the time."""

    def height(self, share: float) -> float:
        """The same always."""
        del share
        return 1.0


class Ramp(Shape):
    """From one to all in two thirds of the time, then all."""

    def height(self, share: float) -> float:
        """Linear, then level."""
        return min(share * 1.5, 1.0)


class Spike(Shape):
    """A fifth of them, but all at once in the middle fifth of the time."""

    def height(self, share: float) -> float:
        """Low, high, low."""
        return 1.0 if 0.4 <= share < 0.6 else 0.2


class Soak(Shape):
    """All of them for a long time, after a gentle start of a tenth of it."""

    def height(self, share: float) -> float:
        """Linear, then level."""
        return min(share * 10, 1.0)


class StepToFailure(Recorded):
    """A tenth more of the users in each tenth of the time, until the objectives break.

    The first second of a step, in which users are started, is not judged, nor are its last ones
    while workers may still have something to report of them.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.objectives = read_objectives(PLAN.objectives)
        self.step = 0
        self.steps: list[dict[str, Any]] = []
        self.began = 0  # seconds since the epoch
        self.unknown_s = 2 if PLAN.workers else 1
        self.step_s = max(PLAN.seconds / STEPS, 2 + self.unknown_s)

    def next(self) -> Tick:
        """Judge a step when its time is over, and take the next one."""
        now = int(time.time())
        if self.step and now - self.began < self.step_s:
            return self._users(), float(PLAN.users)
        if self.step and not self._good(self.began + 1, now - self.unknown_s):
            return None
        if self.step == STEPS:
            return None
        self.step, self.began = self.step + 1, now
        return self._users(), float(PLAN.users)

    def _users(self) -> int:
        return max(1, math.ceil(PLAN.users * self.step / STEPS))

    def _good(self, first: int, last: int) -> bool:
        """Judge these seconds, and write down what was found."""
        cells = by_class(self.recorder.between(first, last))
        broken = [v.text for v in judge(self.objectives, cells) if not v.holds]
        requests = total(cells.values()).requests
        self.steps.append(
            {
                "users": self._users(),
                "per_second": requests / (last - first + 1),
                "first": first,
                "last": last,
                "broken": broken,
            }
        )
        return not broken


SHAPES = {
    "steady": Steady,
    "ramp": Ramp,
    "spike": Spike,
    "soak": Soak,
    "step-to-failure": StepToFailure,
}
