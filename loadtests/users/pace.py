"""The plan as users see it, and how long they pause."""

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from locust import User

from loadtests.plan import VARIABLE, read_plan

PLAN = read_plan(Path(os.environ[VARIABLE]))


def pause(shortest_s: float, longest_s: float) -> Callable[[User], float]:
    """Pause between tasks for a random time, shorter or longer as the plan wants it."""

    def wait_time(_: User) -> float:
        return random.uniform(shortest_s, longest_s) * PLAN.pauses

    return wait_time


class Told(Exception):  # noqa: N818 - it is a word of ours, not an error of the program
    """A failure that has a message of its own in the report."""


@contextmanager
def measured(user: User, name: str, *, kind: str = "") -> Iterator[None]:
    """Report what the block does as one request, of which Weirgate counts `kind`; never raises.

    `user.broken` says afterwards whether it failed.
    """
    began = time.perf_counter()
    error: Exception | None = None
    try:
        yield
    except Exception as caught:  # noqa: BLE001 - whatever it is, it is a failed request
        error = caught if isinstance(caught, Told) else Told(f"{type(caught).__name__}: {caught}")
    _fire(user, name, kind, (time.perf_counter() - began) * 1000, error)


def _fire(user: User, name: str, kind: str, took_ms: float, error: Exception | None) -> None:
    own: Any = user
    own.broken = error is not None
    user.environment.events.request.fire(
        request_type=type(user).__name__,
        name=f"{type(user).__name__} {name}",
        response_time=took_ms,
        response_length=0,
        exception=error,
        context={"user": type(user).__name__, "kind": kind},
    )
