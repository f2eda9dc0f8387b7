"""What Locust reads: the users, the shape and the recorder of the plan in the environment.

It is started by `loadtests.run`; by hand:
`WEIRGATE_LOADTEST_PLAN=plan.json locust -f loadtests/locustfile.py --headless`.
"""

import signal
from typing import Any

import gevent  # type: ignore[import-untyped]
import locust.runners
from locust import events
from locust.env import Environment

from loadtests.recorder import WORKERS_REPORT_EVERY_S, Recorder
from loadtests.shapes import SHAPES
from loadtests.users import user_class
from loadtests.users.pace import PLAN

locust.runners.WORKER_REPORT_INTERVAL = WORKERS_REPORT_EVERY_S
# Locust takes what it finds among a file's names: the classes and the one shape of this plan.
for _name in PLAN.classes:
    globals()[_name] = user_class(_name)
ChosenShape = SHAPES[PLAN.shape]


@events.init.add_listener  # type: ignore[untyped-decorator]
def _begin(environment: Environment, **_: Any) -> None:
    recorder = Recorder(environment, PLAN)
    shape: Any = environment.shape_class
    shape.recorder = recorder
    if not isinstance(environment.runner, locust.runners.WorkerRunner):
        # Locust has no handler of its own before a shape is over.
        gevent.signal_handler(signal.SIGTERM, shape.end)
