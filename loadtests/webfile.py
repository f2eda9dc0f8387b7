"""What Locust reads for its own page, where a person chooses how many users there are.

    locust -f loadtests/webfile.py        # then http://127.0.0.1:8089

The target is in ``LOADTEST_HOST`` (``edge``), ``LOADTEST_HTTP``, ``LOADTEST_TLS``, ``LOADTEST_TCP``
and ``LOADTEST_UDP``: those of the Compose demo, by default.
"""

import os
import tempfile

from loadtests.plan import VARIABLE, Plan, Target
from loadtests.target import check
from loadtests.users import user_class

_PORTS = {"http": 8080, "tls": 8443, "tcp": 7000, "udp": 7001}


def _target() -> Target:
    host = os.environ.get("LOADTEST_HOST", "edge")
    ports = {name: int(os.environ.get(f"LOADTEST_{name.upper()}", n)) for name, n in _PORTS.items()}
    target = Target("compose", host, ports["http"], ports["tls"], ports["tcp"], ports["udp"])
    check(target)
    return target


_plan = Plan(_target(), tempfile.mkdtemp(prefix="weirgate-locust-"))
os.environ[VARIABLE] = str(_plan.write())
for _name in _plan.target.classes():
    globals()[_name] = user_class(_name)
