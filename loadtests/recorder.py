"""Counts every request in the second in which it ended, in each of Locust's processes.

Workers send what they have counted with their reports to the master; the master (or the only
process) writes a second to the file once nobody can have anything to add.
"""

import json
import time
from collections import defaultdict, deque
from typing import Any

import gevent  # type: ignore[import-untyped]
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

from loadtests.plan import Plan
from loadtests.seconds import Cell, Second

#: A second is written so long after its end; workers report once a second.
LAG_S = 3
WORKERS_REPORT_EVERY_S = 1.0
#: How far back shapes may look.
RECENT_SECONDS = 600
KEY = "weirgate_seconds"


class Recorder:
    """The seconds of a run that are not yet written or sent."""

    def __init__(self, environment: Environment, plan: Plan) -> None:
        self.environment = environment
        self.plan = plan
        self.open: dict[int, dict[str, Cell]] = defaultdict(lambda: defaultdict(Cell))
        self._recent: deque[Second] = deque(maxlen=RECENT_SECONDS)
        self._written = 0
        self._ending = False
        self._users: dict[int, int] = {}  # by second
        events: Any = environment.events  # Locust has no types for them
        events.request.add_listener(self._request)
        events.report_to_master.add_listener(self._report)
        events.worker_report.add_listener(self._reported)
        events.test_start.add_listener(self._start)
        events.quitting.add_listener(self._quit)

    def _request(self, **meta: Any) -> None:
        error = meta["exception"]
        context = meta["context"] or {}
        kind = context.get("kind", "")
        if getattr(meta.get("response"), "status_code", 1) == 0:
            kind = ""  # nobody knows whether Weirgate has seen it
        self.open[int(time.time())][context.get("user", "?")].add(
            meta["response_time"] or 0.0, message(error), kind
        )

    def _report(self, client_id: str, data: dict[str, Any]) -> None:
        del client_id
        data[KEY] = {
            at: {name: cell.as_dict() for name, cell in cells.items()}
            for at, cells in self.open.items()
        }
        self.open.clear()

    def _reported(self, client_id: str, data: dict[str, Any]) -> None:
        del client_id
        for at, cells in data.get(KEY, {}).items():
            for name, cell in cells.items():
                # What comes too late for its second is counted in the first that is still open.
                self.open[max(int(at), self._written + 1)][name].include(Cell.from_dict(cell))

    def _start(self, **_: Any) -> None:
        if not isinstance(self.environment.runner, WorkerRunner):
            self._written = int(time.time()) - 1
            self.plan.seconds_file.write_text("")
            gevent.spawn(self._write_always)

    def _write_always(self) -> None:
        while not self._ending:
            gevent.sleep(1 - time.time() % 1)
            runner = self.environment.runner
            self._users[int(time.time()) - 1] = runner.user_count if runner else 0
            self.write(int(time.time()) - 1 - (LAG_S if self._distributed else 0))

    @property
    def _distributed(self) -> bool:
        return isinstance(self.environment.runner, MasterRunner)

    def write(self, last: int) -> None:
        """Write all seconds up to and including `last`, empty ones too."""
        with self.plan.seconds_file.open("a") as file:
            while self._written < last:
                self._written += 1
                cells = dict(self.open.pop(self._written, {}))
                second = Second(self._written, self._users.pop(self._written, 0), cells)
                self._recent.append(second)
                file.write(second.line())

    def finish(self) -> None:
        """Let users end what they have begun, and workers report it; then nothing is missing.

        Locust by itself gives workers half a second.
        """
        if self._ending:
            return
        self._ending = True
        runner: Any = self.environment.runner
        runner.stop()
        if self._distributed:
            gevent.sleep(1.5 * WORKERS_REPORT_EVERY_S)

    def between(self, first: int, last: int) -> list[Second]:
        """What is known of these seconds so far, for shapes that look back."""
        found = [second for second in self._recent if first <= second.at <= last]
        found += [Second(at, 0, cells) for at, cells in self.open.items() if first <= at <= last]
        return found

    def _quit(self, **_: Any) -> None:
        if isinstance(self.environment.runner, WorkerRunner):
            return
        self.finish()
        self.write(max([self._written, *self.open]))
        self.plan.locust_file.write_text(json.dumps(_result(self.environment), indent=1))


def _result(environment: Environment) -> dict[str, Any]:
    """What Locust itself counted."""
    stats, runner = environment.stats, environment.runner
    return {
        "tasks": [_task(entry) for entry in stats.entries.values()],
        "total": _task(stats.total),
        "errors": [
            {"method": e.method, "name": e.name, "message": str(e.error), "count": e.occurrences}
            for e in stats.errors.values()
        ],
        "crashes": [
            {"message": found["msg"], "trace": found["traceback"], "count": found["count"]}
            for found in (runner.exceptions.values() if runner else ())
        ],
        "steps": getattr(environment.shape_class, "steps", []),
    }


def message(error: BaseException | str | None) -> str:
    """What a failure is counted as: without addresses and other words of the single case."""
    if error is None:
        return ""
    text = str(error) or type(error).__name__
    return text.partition("\n")[0][:120]


def _task(entry: Any) -> dict[str, Any]:
    """What Locust says of one task."""
    seconds = max((entry.last_request_timestamp or 0) - (entry.start_time or 0), 1)
    return {
        "method": entry.method or "",
        "name": entry.name,
        "requests": entry.num_requests,
        "failures": entry.num_failures,
        "per_second": entry.num_requests / seconds,
        "average_bytes": entry.avg_content_length,
        "average_ms": entry.avg_response_time,
        "max_ms": entry.max_response_time,
        **{f"p{q}_ms": entry.get_response_time_percentile(q / 100) for q in (50, 95, 99)},
    }
