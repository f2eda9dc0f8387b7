"""Both tiers run from the manifests' own configuration, found by an API server's word alone."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.support.kubernetes_api import kubernetes_api
from tests.support.kubernetes_objects import GONE, LEAVING, READY, endpoint, service, slice_of
from tests.support.load import load
from tests.support.manifests import Manifests, manifests
from tests.support.origin import Origin, held, one_origin
from tests.support.pods import GATEWAY, Cluster, Pod
from tests.support.weirgate import COMMAND
from tests.support.wire import connect, request
from weirgate.shared.testing import eventually

pytestmark = pytest.mark.anyio

SEEN_WITHIN_S = 15.0
ADDRESSES = {"old": GATEWAY, "new": "127.0.0.12"}


@contextlib.asynccontextmanager
async def cluster(overlay: str, directory: Path) -> AsyncIterator[Cluster]:
    built = manifests(overlay)
    async with kubernetes_api(directory) as api:
        site = Cluster(built, api, directory)
        api.put(built.one("Service", "gateway"))
        gateways(site, old=READY)
        yield site


def gateways(site: Cluster, **states: dict[str, bool]) -> None:
    """Put the slice of the gateways' Service, as the endpoint slice controller would."""
    pods = [endpoint(ADDRESSES[name], conditions) for name, conditions in states.items()]
    ports = [
        {"name": name, "port": site.ports[name], "protocol": "TCP"} for name in ("edges", "load")
    ]
    site.api.put(slice_of("gateway", *pods, namespace="weirgate", ports=ports))


def application(site: Cluster, origin: Origin) -> None:
    ports = [{"name": "http", "port": origin.port, "protocol": "TCP"}]
    site.api.put(slice_of("api", endpoint("127.0.0.1"), namespace="applications", ports=ports))


async def answer(site: Cluster, path: str, *, tls: bool = False) -> int:
    scheme, port = ("https", site.ports["https"]) if tls else ("http", site.ports["http"])
    async with httpx.AsyncClient(trust_env=False, verify=False) as client:
        try:
            return (await client.get(f"{scheme}://127.0.0.1:{port}{path}")).status_code
        except httpx.TransportError:
            return 0


async def answers(site: Cluster, path: str, status: int, *, tls: bool = False) -> None:
    async def seen() -> bool:
        return await answer(site, path, tls=tls) == status

    await eventually(seen, within_s=SEEN_WITHIN_S, what=f"{status} for {path}")


async def test_check_passes_for_each_tier(built: Manifests, tmp_path: Path) -> None:
    async with kubernetes_api(tmp_path) as api:
        site = Cluster(built, api, tmp_path)
        for tier in built.tiers():
            done = subprocess.run(  # noqa: ASYNC221 - nothing else runs
                [*COMMAND, "check", "--role", tier.name, str(site.config.path / "weirgate.yaml")],
                env={**os.environ, **site.environment(tier)},
                capture_output=True, text=True, check=False, timeout=30,
            )  # fmt: skip
            assert done.returncode == 0, done.stdout + done.stderr
            assert "warning" not in done.stdout


def shop(site: Cluster, pool: str = "api") -> None:
    """Put the Service of an application, which says what is routed to it."""
    annotations = {"pool": pool, "port": "http", "route.api.match.path": "/api/*"}
    site.api.put(service("api", annotations, namespace="applications"))


async def test_production_finds_its_way_by_annotations(tmp_path: Path) -> None:
    async with cluster("production", tmp_path) as site, one_origin() as origin:
        shop(site)
        application(site, origin)
        async with site.pod("gateway"), site.pod("edge"):
            await answers(site, "/api/x", 200, tls=True)
            assert await answer(site, "/x", tls=True) == 404
            assert await answer(site, "/api/x") == 308  # to TLS
            assert await answer(site, "/ping") == 200


async def test_the_life_of_a_cluster(tmp_path: Path) -> None:
    async with cluster("demo", tmp_path) as site, one_origin() as origin:
        await site.api.stop()
        async with site.pod("gateway", wait=False) as gateway:
            await a_pod_that_knows_nothing_is_not_ready(site, gateway)
            async with site.pod("edge") as edge:
                await answers(site, "/ping", 200)
                await an_application_comes_and_goes(site, origin)
                await a_config_map_is_changed(site, gateway, edge)
                await the_api_server_is_away(site, edge)


async def test_a_rollout_of_gateways_fails_no_request(tmp_path: Path) -> None:
    release = asyncio.Event()
    async with (
        cluster("demo", tmp_path) as site,
        one_origin() as origin,
        site.pod("gateway") as old,
        site.pod("edge") as edge,
    ):
        origin.on("/api/slow", held(release))
        shop(site)
        application(site, origin)
        await answers(site, "/api/x", 200)
        port = site.ports["http"]
        async with (
            site.pod("gateway", ADDRESSES["new"]),
            load(port, "/api/x", connections=8, requests_per_connection=20) as clients,
            connect(port) as slow,
        ):
            await slow.send(request("/api/slow"))
            await eventually(lambda: any(h.target == "/api/slow" for h in origin.heads))
            gateways(site, old=READY, new=READY)
            await nodes_are(edge, 2)
            # what the kubelet and the controllers do of a pod that is deleted
            gateways(site, old=LEAVING, new=READY)
            assert await old.probe("readinessProbe")
            old.node.process.send_signal(signal.SIGTERM)
            await is_unready(old)
            assert await old.probe("livenessProbe")
            gateways(site, old=GONE, new=READY)
            await nodes_are(edge, 1)
            # left out by the edge, and yet it finishes what it has
            release.set()
            assert (await slow.response()).status == 200
            async with asyncio.timeout(old.tier.pod["terminationGracePeriodSeconds"]):
                assert await old.node.process.wait() == 0
            gateways(site, new=READY)
            done = clients.ok
            await eventually(lambda: clients.ok > done + 200, within_s=SEEN_WITHIN_S)
        assert clients.failures == []


async def is_unready(pod: Pod) -> None:
    """Wait until readiness fails."""

    async def seen() -> bool:
        return not await pod.probe("readinessProbe")

    await eventually(seen, within_s=5, what="readiness that fails")


async def nodes_are(edge: Pod, count: int) -> None:
    """Wait until the edge knows so many gateway nodes."""

    async def seen() -> bool:
        pools = (await edge.node.status())["pools"]
        nodes = next(pool["endpoints"] for pool in pools if pool["name"] == "gateways")
        return len(nodes) == count and all(node["state"] == "up" for node in nodes)

    await eventually(seen, within_s=SEEN_WITHIN_S, what=f"{count} gateway nodes")


async def a_pod_that_knows_nothing_is_not_ready(site: Cluster, pod: Pod) -> None:
    await eventually(lambda: re.search("weirgate .* ready in", pod.node.log()), within_s=20)
    for probe in ("startupProbe", "readinessProbe"):
        assert not await pod.probe(probe)
    assert await pod.probe("livenessProbe")
    await site.api.start()
    await pod.is_started()


async def an_application_comes_and_goes(site: Cluster, origin: Origin) -> None:
    assert await answer(site, "/api/x") == 404
    shop(site)
    application(site, origin)
    await answers(site, "/api/x", 200)
    site.api.delete("services", "applications", "api")
    await answers(site, "/api/x", 404)


async def a_config_map_is_changed(site: Cluster, *pods: Pod) -> None:
    text = site.files["weirgate.yaml"]
    assert "path: /ping" in text
    site.config.update({"weirgate.yaml": text.replace("path: /ping", "path: /pong")})
    await answers(site, "/pong", 200)
    assert await answer(site, "/ping") == 404
    for pod in pods:
        await has_seen_files(pod)
        assert "reload refused" not in pod.node.log()


async def has_seen_files(pod: Pod) -> None:
    def seen() -> bool:
        return "files have changed" in pod.node.log()

    await eventually(seen, within_s=SEEN_WITHIN_S, what="a reload by the watch")


async def the_api_server_is_away(site: Cluster, edge: Pod) -> None:
    async def state() -> str:
        (source,) = (await edge.node.status())["discovery"]
        return str(source["state"])

    async def is_told() -> bool:
        return await state() == "error"

    async def is_well() -> bool:
        return await state() == "ok"

    await site.api.stop()
    await eventually(is_told, within_s=SEEN_WITHIN_S, what="the trouble in the status")
    assert await answer(site, "/pong") == 200
    await site.api.start()
    await eventually(is_well, within_s=SEEN_WITHIN_S, what="all well again")
