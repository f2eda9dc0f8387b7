"""Runs Locust as processes of its own, on a plan."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.processes import Running, free_ports, wait_until

from loadtests.local import environment
from loadtests.plan import VARIABLE, Plan

LOCUSTFILE = Path(__file__).parent / "locustfile.py"
#: What users in the middle of a task get at the end.
FINISH_S = 4  # less than the 8 s after which `Running.stop` ends it by force
#: How much longer than planned a run may take before it is ended.
LATE_S = 60.0


class RunError(Exception):
    """Locust did not do its work; the text says why."""


def run(plan: Plan) -> None:
    """Run the plan to its end.

    Raises:
        RunError: Locust ended early or not at all, or wrote no result.
    """
    with started(plan) as locust:
        if not wait_until(lambda: not locust.alive, plan.seconds + LATE_S, step_s=0.05):
            raise RunError(f"Locust does not end: {locust.last_words()}")
    if not plan.locust_file.exists():
        raise RunError(f"Locust ended without a result: {locust.last_words()}")


@contextmanager
def started(plan: Plan) -> Iterator[Running]:
    """Run the plan beside the block; gives the process that writes the files, and ends them all."""
    file = plan.write()
    env = {**environment(), VARIABLE: str(file)}
    with ExitStack() as stack:

        def start(name: str, *arguments: str) -> Running:
            log = Path(plan.directory) / f"{name}.log"
            command = [*_COMMAND, *arguments]
            return stack.enter_context(
                Running(command, cpus=frozenset(), stdout=log, stderr=log, env=env)
            )

        if not plan.workers:
            yield start("locust")
            return
        (port,) = free_ports(1)
        at = ["--master-bind-host", "127.0.0.1", "--master-bind-port", str(port)]
        # The master goes first, so that it gets the last words of its workers.
        master = start("locust", "--master", *at, "--expect-workers", str(plan.workers))
        for number in range(plan.workers):
            to = ["--master-host", "127.0.0.1", "--master-port", str(port)]
            start(f"worker-{number}", "--worker", *to)
        stack.callback(master.stop)
        yield master


_COMMAND = [
    *(sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary"),
    *("--stop-timeout", str(FINISH_S), "--exit-code-on-error", "0", "--loglevel", "WARNING"),
]
