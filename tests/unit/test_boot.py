"""The first moments of a child: what its data plane is told before anything else."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from weirgate.shared import native
from weirgate.shared.addresses import parse_prefix
from weirgate.shared.control import boot, child
from weirgate.shared.supervisor.endpoints import EndpointTable
from weirgate.shared.supervisor.fleet import Fleet
from weirgate.shared.supervisor.listeners import Listeners
from weirgate.shared.supervisor.shuns import ShunTable
from weirgate.shared.supervisor.snapshots import InForce
from weirgate.shared.supervisor.tasks import Tasks


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What happens in order; nothing is really served."""
    seen: list[Any] = []
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(child, "serve", lambda *_: seen.append("serve"))
    monkeypatch.delenv(boot.SUPERVISOR_PID, raising=False)
    return seen


def run(bootstrap: bytes, calls: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    class Plane:
        def __init__(self, _: bytes) -> None:
            pass

        def start(self) -> None:
            calls.append("start")

    fd = os.memfd_create("bootstrap")
    os.write(fd, bootstrap)
    os.lseek(fd, 0, os.SEEK_SET)
    monkeypatch.setattr(sys, "argv", ["", str(fd)])
    make: Any = Plane
    boot.run_child(make)


def test_the_data_plane_starts_before_anything_heavy_is_imported(
    calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(b"{}", calls, monkeypatch)
    assert calls == ["start", "serve"]


def test_the_bootstrap_of_an_edge_says_whom_to_shun(tmp_path: Path) -> None:
    force = InForce(b'{"format":1}', "hash", {}, 2)
    shuns = ShunTable(clock=lambda: 0)
    fleet = Fleet(
        tmp_path,
        native.LoadPage.create(1),
        native.create_rate_table(),
        gateways=1,
        listeners=Listeners(),
        endpoints=EndpointTable(lambda: None),
        shuns=shuns,
        in_force=lambda: force,
        tasks=Tasks(),
    )
    prefix = parse_prefix("10.0.0.1")
    assert prefix is not None
    shuns.add(prefix, 5, by="alice")
    edge, gateway = fleet._launch(fleet.edges[0]), fleet._launch(fleet.gateways[0])
    assert b'"shuns"' not in gateway.bootstrap
    told = json.loads(edge.bootstrap)["shuns"]
    assert told == [{"source": "10.0.0.1/32", "ttl_ms": 5000}]
    for fd in edge.close_after:
        os.close(fd)
    fleet.close()
