"""The tiers on hosts of their own: one edge, three gateway nodes, and a cable that is pulled.

Detection of a node that has gone silent: fall x (interval + 10 % + timeout), here 3.1 s.
"""

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support.load import Load, load
from tests.support.namespaces import Hosts, hosts
from tests.support.processes import end
from tests.support.weirgate import COMMAND
from tests.support.wire import connect, proxy_v2, request
from weirgate.shared.testing import eventually

pytestmark = pytest.mark.chaos

GATEWAYS = ("gw1", "gw2", "gw3")
EDGE_PORT, TIER_PORT, LOAD_PORT, ADMIN_PORT = 8080, 9080, 9081, 9900
EXAMPLE = Path(__file__).parents[2] / "examples/two-hosts.yaml"
TOKEN = "for-the-tests-of-hosts"
INTERVAL_S, TIMEOUT_S, FALL = 0.5, 1.0, 2
DETECTION_S = FALL * (INTERVAL_S * 1.1 + TIMEOUT_S)
#: More for a machine that has other things to do.
PATIENCE_S = 45.0


class Cluster:
    """A started cluster, seen from the client's host."""

    def __init__(self, network: Hosts, directory: Path) -> None:
        self.network = network
        self.directory = directory
        self.processes: dict[str, asyncio.subprocess.Process] = {}
        self.file = directory / "weirgate.yaml"

    @property
    def edge(self) -> str:
        return self.network.addresses["edge"]

    def configuration(self) -> dict[str, Any]:
        """The one file that edge and gateways run."""
        addresses = self.network.addresses
        health = {
            "bind": f"0.0.0.0:{LOAD_PORT}",
            "interval": f"{INTERVAL_S:g}s",
            "timeout": f"{TIMEOUT_S:g}s",
            "fall": FALL,
        }
        return {
            "listeners": {"web": {"bind": f"0.0.0.0:{EDGE_PORT}"}},
            "pools": {"app": {"endpoints": [f"{addresses['origin']}:8000"]}},
            "routes": [
                {"match": {"path": "/from-origin"}, "pool": "app"},
                {"respond": {"status": 200, "body": "here"}},
            ],
            "gateway": {
                "workers": 1,
                "nodes": {
                    "endpoints": [f"{addresses[name]}:{TIER_PORT}" for name in GATEWAYS],
                    "bind": f"0.0.0.0:{TIER_PORT}",
                    "edges": addresses["edge"],
                    "health": health,
                },
            },
            "admin": {"bind": f"0.0.0.0:{ADMIN_PORT}", "token": TOKEN},
            "drain": {"timeout": "10s"},
            "logs": {"access": {"to": "${ACCESS_LOG}"}},
        }

    async def start(self, name: str) -> None:
        verb = "edge" if name == "edge" else "gateway"
        with (self.directory / f"{name}.log").open("ab") as output:
            self.processes[name] = await asyncio.create_subprocess_exec(
                *self.network.on(name, *COMMAND, verb, self.file),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, "ACCESS_LOG": str(self.directory / f"{name}.access")},
            )

    async def ask(self, name: str, path: str, method: str = "GET") -> httpx.Response:
        """Call a host's admin API."""
        base = f"http://{self.network.addresses[name]}:{ADMIN_PORT}"
        headers = {"Authorization": f"Bearer {TOKEN}"}
        async with httpx.AsyncClient(base_url=base, trust_env=False, headers=headers) as client:
            return await client.request(method, path, timeout=20)

    async def ready(self, name: str) -> None:
        async def seen() -> bool:
            assert self.processes[name].returncode is None, "ended before it served"
            with contextlib.suppress(httpx.TransportError):
                return (await self.ask(name, "/health")).status_code == 200
            return False

        await eventually(seen, within_s=PATIENCE_S, what=f"{name} ready")

    async def node(self, name: str) -> dict[str, Any]:
        """Return what the edge says of a gateway node."""
        status = (await self.ask("edge", "/status")).json()
        (pool,) = [pool for pool in status["pools"] if pool["name"] == "gateways"]
        address = f"{self.network.addresses[name]}:{TIER_PORT}"
        return next(dict(e) for e in pool["endpoints"] if e["address"] == address)

    async def seen_as(self, name: str, state: str) -> None:
        async def seen() -> bool:
            return bool((await self.node(name))["state"] == state)

        await eventually(seen, within_s=PATIENCE_S, what=f"{name} {state} for the edge")

    async def gets_traffic(self, name: str) -> None:
        before = (await self.node(name))["requests_total"]

        async def more() -> bool:
            return bool((await self.node(name))["requests_total"] > before)

        await eventually(more, within_s=PATIENCE_S, what=f"connections to {name}")

    def entries(self, name: str) -> list[dict[str, Any]]:
        lines = (self.directory / f"{name}.access").read_text().split("\n")[:-1]
        return [json.loads(line) for line in lines]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        self.file.write_text(yaml.safe_dump(self.configuration()))
        try:
            for name in ("edge", *GATEWAYS):
                await self.start(name)
            for name in ("edge", *GATEWAYS):
                await self.ready(name)
            for name in GATEWAYS:
                await self.seen_as(name, "up")
            yield
        except BaseException as error:
            for name in self.processes:
                error.add_note(f"{name}:\n{(self.directory / f'{name}.log').read_text()[-2500:]}")
            raise
        finally:
            for process in self.processes.values():
                with contextlib.suppress(TimeoutError):
                    await end(process, signal.SIGTERM, within_s=20)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with hosts("edge", *GATEWAYS, "origin", "client") as network:
        yield Cluster(network, tmp_path)


def on_client(cluster: Cluster, work: Callable[[Cluster], Awaitable[None]]) -> None:
    """Run a test's body on the client's host, with the cluster running."""

    async def body() -> None:
        async with cluster.running():
            await work(cluster)

    cluster.network.run_on("client", body)


async def progress(*loads: Load, by: int = 200) -> None:
    wanted = [each.ok + by for each in loads]
    await eventually(
        lambda: all(each.ok > want for each, want in zip(loads, wanted, strict=True)),
        within_s=PATIENCE_S,
        what="answers",
    )


def test_a_node_that_is_cut_off_costs_only_what_was_in_flight_on_it(cluster: Cluster) -> None:
    on_client(cluster, cut_off_and_mended)


async def cut_off_and_mended(cluster: Cluster) -> None:
    kept_clients, fresh_clients = 12, 4
    async with (
        load(EDGE_PORT, connections=kept_clients, host=cluster.edge) as kept,
        load(
            EDGE_PORT, connections=fresh_clients, requests_per_connection=1, host=cluster.edge
        ) as fresh,
    ):
        await progress(kept, fresh)
        assert kept.failures == fresh.failures == []
        busy = {name: (await cluster.node(name))["connections"] for name in GATEWAYS}
        victim = max(busy, key=lambda name: busy[name])
        assert busy[victim] > 0
        cut_at = time.monotonic()
        cluster.network.cut(victim)
        # New connections: a node that does not answer is passed over within the connect timeout.
        await progress(fresh)
        await cluster.seen_as(victim, "down")
        noticed_s = time.monotonic() - cut_at

        # What hung on it is reset, not left to the kernel's fifteen minutes.
        async def given_up() -> bool:
            return bool((await cluster.node(victim))["connections"] == 0)

        await eventually(given_up, within_s=PATIENCE_S, what=f"nothing open to {victim}")
        await eventually(lambda: kept.failures, within_s=PATIENCE_S, what="a client that was reset")
        await progress(kept, fresh, by=500)
        assert len(kept.failures) <= kept_clients
        assert len(fresh.failures) <= fresh_clients
        reasons = {e["reason"] for e in cluster.entries("edge")}
        assert "endpoint_down" in reasons
        before = len(kept.failures) + len(fresh.failures)
        await progress(kept, fresh, by=500)
        assert len(kept.failures) + len(fresh.failures) == before
        cluster.network.mend(victim)
        await cluster.seen_as(victim, "up")
        await cluster.gets_traffic(victim)
        assert kept.opened_after(cut_at) == [], kept.kinds()
        assert fresh.opened_after(cut_at) == [], fresh.kinds()
    # Stated: DETECTION_S. Much more means that something else than the checks found it.
    assert noticed_s < DETECTION_S + 10, noticed_s


def test_a_node_that_drains_fails_nothing(cluster: Cluster) -> None:
    on_client(cluster, drained_and_replaced)


async def drained_and_replaced(cluster: Cluster) -> None:
    async with (
        load(EDGE_PORT, connections=12, host=cluster.edge) as kept,
        load(EDGE_PORT, connections=4, requests_per_connection=1, host=cluster.edge) as fresh,
    ):
        await progress(kept, fresh)
        for name in GATEWAYS[:2]:  # by an operator's order, and back
            answer = await cluster.ask(name, "/drain?target=node", "POST")
            assert answer.status_code == 202, answer.text
            await cluster.seen_as(name, "draining")

            async def drained(name: str = name) -> bool:
                (order,) = (await cluster.ask(name, "/drain?target=node")).json()["drains"]
                return bool(order["drained"])

            await eventually(drained, within_s=PATIENCE_S, what=f"{name} drained")
            await progress(kept, fresh)
            assert (await cluster.node(name))["connections"] == 0
            answer = await cluster.ask(name, "/undrain?target=node", "POST")
            assert answer.json()["result"] in {"undrained", "finishing"}
            await cluster.seen_as(name, "up")
            await cluster.gets_traffic(name)
        last = GATEWAYS[2]  # by its end, and a new one
        assert await end(cluster.processes[last], signal.SIGTERM, within_s=PATIENCE_S) == 0
        await cluster.seen_as(last, "down")
        await cluster.start(last)
        await cluster.ready(last)
        await cluster.seen_as(last, "up")
        await cluster.gets_traffic(last)
        await progress(kept, fresh)
    assert kept.failures == fresh.failures == [], (kept.kinds(), fresh.kinds())


def test_only_the_edge_is_heard_and_both_tiers_log_one_id(cluster: Cluster) -> None:
    on_client(cluster, strangers)


async def unheard(host: str, port: int, data: bytes) -> None:
    """Send bytes; the connection is broken, perhaps before it was seen to be made."""
    with contextlib.suppress(OSError):
        async with connect(port, host=host) as wire:
            await wire.send(data)
            assert await wire.rest() == b""


async def strangers(cluster: Cluster) -> None:
    node = cluster.network.addresses["gw1"]
    own = cluster.network.addresses["client"]
    await unheard(node, LOAD_PORT, b"GET /load HTTP/1.1\r\n\r\n")
    # a header from here is no edge's word
    await unheard(node, TIER_PORT, proxy_v2("192.0.2.1") + request("/forged"))
    async with connect(EDGE_PORT, host=cluster.edge) as wire:
        assert (await wire.exchange(request("/once"))).body == b"here"

    def seen() -> dict[str, Any] | None:
        found = [e for n in GATEWAYS for e in cluster.entries(n) if e["path"] == "/once"]
        return found[0] if found else None

    entry = await eventually(seen, within_s=PATIENCE_S, what="a line of a gateway")
    assert (entry["listener"], entry["client"].rpartition(":")[0]) == ("web", own)

    def relayed() -> bool:
        return entry["connection_id"] in {e["connection_id"] for e in cluster.entries("edge")}

    await eventually(relayed, within_s=PATIENCE_S, what="the same id in the edge's log")


def test_the_example_runs_as_it_stands(tmp_path: Path) -> None:
    addresses = {"edge": "10.0.0.1", "gw1": "10.0.0.11", "gw2": "10.0.0.12", "client": "10.0.0.99"}
    with hosts(**addresses) as network:
        cluster = Cluster(network, tmp_path)
        cluster.file = EXAMPLE

        async def body() -> None:
            try:
                for name in ("gw1", "edge", "gw2"):
                    await cluster.start(name)

                async def answered() -> bool:
                    with contextlib.suppress(OSError, AssertionError):
                        async with connect(EDGE_PORT, host=cluster.edge) as wire:
                            return (await wire.exchange(request("/ping"))).body == b"pong"
                    return False

                await eventually(answered, within_s=PATIENCE_S, what="an answer through both hosts")
            finally:
                for process in cluster.processes.values():
                    assert await end(process, signal.SIGTERM, within_s=PATIENCE_S) == 0

        network.run_on("client", body)
