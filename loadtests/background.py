"""A load in the background, for drills: what a fault does is seen second by second.

    with load_in_background(target, directory, users=20, classes=("Browse", "Api")) as load:
        began = time.time()
        break_something()
        ...
    for second in load.seconds():
        print(second.at - began, second.total().requests, second.total().failures)

`load.file` has the same as lines of JSON while it runs: `at` (seconds since the epoch), `users`,
`requests`, `failures` (by message), `p50_ms`, `p95_ms`, `p99_ms`, and all of it `by_class`. A
second is there about one second after its end, with workers four; those without a request, too.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import Running, wait_until

from loadtests.plan import Plan, Target
from loadtests.run import RunError, started
from loadtests.seconds import Second, read_seconds
from loadtests.target import check

STARTS_WITHIN_S = 30.0
#: Longer than any drill; the load ends with the block.
LONGEST_S = 86_400.0


@dataclass
class Load:
    """A load that runs, or ran."""

    plan: Plan
    locust: Running

    @property
    def file(self) -> Path:
        """A line of JSON for each second."""
        return self.plan.seconds_file

    def seconds(self) -> list[Second]:
        """All seconds so far; after the block, all there were."""
        return read_seconds(self.file)

    def flows(self) -> bool:
        """Whether a request has been answered.

        Raises:
            RunError: The load has ended by itself.
        """
        if not self.locust.alive:
            raise RunError(f"Locust ended: {self.locust.last_words()}")
        return any(second.total().requests for second in self.seconds())


@contextmanager
def load_in_background(
    target: Target,
    directory: Path,
    *,
    users: int = 20,
    classes: tuple[str, ...] = (),
    pauses: float = 1.0,
    workers: int = 0,
) -> Iterator[Load]:
    """Run a steady load beside the block, which begins when requests are being answered.

    Args:
        target: Where to; a public address is refused.
        directory: Where the files go, Locust's own log among them.
        users: How many.
        classes: Which; none = all that the target has ports for.
        pauses: A factor for the pauses of users; 0 = none.
        workers: Worker processes of Locust.

    Raises:
        RunError: Locust did not start, or nothing was answered.
        TargetError: The target is not ours.
    """
    check(target)
    plan = Plan(
        target,
        str(directory),
        users=users,
        seconds=LONGEST_S,
        pauses=pauses,
        classes=classes or target.classes(),
        workers=workers,
    )
    with started(plan) as locust:
        load = Load(plan, locust)
        if not wait_until(load.flows, STARTS_WITHIN_S, step_s=0.1):
            raise RunError(f"nothing was answered: {locust.last_words()}")
        yield load
