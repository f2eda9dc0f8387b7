"""The manifests: probes, the time to drain, disruptions, and what accounts may do."""

import asyncio
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.kubernetes_api import KubernetesApi, kubernetes_api
from tests.support.manifests import K8S, Manifests, Object, Workload, manifests
from weirgate.shared.config.discovery_kubernetes import KubernetesDiscovery
from weirgate.shared.config.nodes import NodeHealth
from weirgate.shared.config.roles import JITTER_PERCENT
from weirgate.shared.config.scalars import parse_duration
from weirgate.shared.discovery.found import Found
from weirgate.shared.discovery.kubernetes import KubernetesSource
from weirgate.shared.supervisor import settings, shutdown
from weirgate.shared.testing import eventually


def test_disruption_budgets_let_a_node_be_drained(built: Manifests) -> None:
    for budget in built.of("PodDisruptionBudget"):
        assert budget["spec"]["maxUnavailable"] == 1
        (workload,) = built.selected(
            budget["metadata"]["namespace"], budget["spec"]["selector"]["matchLabels"]
        )
        assert workload.kind == "Deployment", "disruption budgets with maxUnavailable need a scale"


def test_production_survives_one_disruption() -> None:
    built = manifests("production")
    assert built.one("HorizontalPodAutoscaler", "gateway")["spec"]["minReplicas"] >= 2
    assert built.one("PodDisruptionBudget", "gateway")
    assert built.tier("edge").kind == "DaemonSet"
    assert built.tier("edge").pod["hostNetwork"] is True


def test_the_demo_runs_everything_once() -> None:
    built = manifests("demo")
    assert built.one("HorizontalPodAutoscaler", "gateway")["spec"]["minReplicas"] == 1
    assert {w.spec.get("replicas", 1) for w in built.workloads()} == {1}
    assert built.one("Service", "edge")["spec"]["externalTrafficPolicy"] == "Local"


def seconds_to_fail(probe: Object) -> int:
    return int(probe["periodSeconds"]) * int(probe["failureThreshold"])


def test_a_liveness_probe_kills_only_what_answers_nobody(built: Manifests, tmp_path: Path) -> None:
    weirgate = tmp_path / "weirgate-ready"
    for tier in built.tiers():
        probe = tier.container["livenessProbe"]
        assert seconds_to_fail(probe) >= 120
        assert seconds_to_fail(tier.container["startupProbe"]) >= 60
        outcomes = {}
        for code in (0, 4, 6):  # ready, nobody answers, starting or draining
            weirgate.write_text(f"#!/bin/sh\nexit {code}\n")
            weirgate.chmod(0o755)
            done = subprocess.run(
                probe["exec"]["command"], env={"PATH": f"{tmp_path}:/bin:/usr/bin"},
                check=False, timeout=10,
            )  # fmt: skip
            outcomes[code] = done.returncode
        assert outcomes == {0: 0, 4: 1, 6: 0}
        for name in ("startupProbe", "readinessProbe"):
            assert tier.container[name]["exec"]["command"] == ["weirgate-ready"]


def test_there_is_time_to_drain(built: Manifests) -> None:
    for tier in built.tiers():
        config = built.config(tier)
        health = NodeHealth.model_validate(config["gateway"]["nodes"]["health"])
        asked_within = health.interval.total_seconds() * (1 + JITTER_PERCENT / 100)
        notice = asked_within + health.timeout.total_seconds() + settings._TOLD_SECONDS
        drain = parse_duration(config["drain"]["timeout"])
        assert drain is not None
        stop = 1 + shutdown._GRACE_SECONDS
        before = 0.0
        if tier.name == "edge":  # its address is taken away before, and it tells nobody
            command = tier.container["lifecycle"]["preStop"]["exec"]["command"]
            assert command[0] == "sleep"
            before, notice = float(command[1]), 0.0
            assert before >= 10
        else:
            assert "lifecycle" not in tier.container
        needed = before + notice + drain.total_seconds() + stop
        grace = tier.pod["terminationGracePeriodSeconds"]
        assert needed + 5 <= grace <= needed + 15


def test_the_arithmetic_is_said_where_it_is_used() -> None:
    for tier in ("edge", "gateway"):
        text = (K8S / "base" / f"{tier}.yaml").read_text()
        comment = text.partition("terminationGracePeriodSeconds: ")[0].rpartition("spec:")[2]
        parts = [
            float(number) for number in re.findall(r"^ +# +([0-9.]+) s ", comment, re.MULTILINE)
        ]
        grace = re.search(r"terminationGracePeriodSeconds: ([0-9]+)", text)
        assert grace is not None
        assert sum(parts) == float(grace[1])


def test_a_new_gateway_takes_over_before_an_old_one_goes(built: Manifests) -> None:
    gateway = built.tier("gateway")
    assert gateway.spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert gateway.spec["minReadySeconds"] > 0


@pytest.mark.anyio
async def test_each_account_may_do_what_discovery_does_and_nothing_else(
    built: Manifests, tmp_path: Path
) -> None:
    for tier in built.tiers():
        granted = rights(built, tier)
        directory = tmp_path / tier.name
        directory.mkdir()
        async with kubernetes_api(directory) as api:
            api.allowed = lambda *asked, granted=granted: asked in granted
            namespace = built.environment(tier)["WEIRGATE_NAMESPACE"]
            found = await discovered(built, api, namespace)
            assert {call.status for call in api.calls} == {200}
            used = {(c.verb, c.group, c.plural, c.namespace) for c in api.calls}
        assert used == granted
        if tier.name == "edge":
            assert [each.labels for each in found] == [{"gateway": "true", "port": "edges"}]
        else:
            applications = {w.name for w in built.workloads() if w.namespace == "applications"}
            assert {each.labels["pool"] for each in found} == applications
            assert all(each.labels["port"] == "http" for each in found)


def rights(built: Manifests, tier: Workload) -> set[tuple[str, ...]]:
    """Return what a workload's account may do, as verb, group, resource and namespace."""
    account = {
        "kind": "ServiceAccount",
        "name": tier.pod["serviceAccountName"],
        "namespace": tier.namespace,
    }
    granted: set[tuple[str, ...]] = set()
    for binding in built.of("RoleBinding"):
        if account in binding["subjects"]:
            namespace = binding["metadata"]["namespace"]
            for rule in built.one("Role", binding["roleRef"]["name"], namespace)["rules"]:
                assert rule.keys() == {"apiGroups", "resources", "verbs"}
                granted |= {
                    (verb, group, resource, namespace)
                    for verb in rule["verbs"]
                    for group in rule["apiGroups"]
                    for resource in rule["resources"]
                }
    return granted


async def discovered(built: Manifests, api: KubernetesApi, namespace: str) -> tuple[Found, ...]:
    """Return what the source finds in a cluster that has the Services of the manifests."""
    for item in built.of("Service"):
        api.put(item)
    source = KubernetesSource(
        KubernetesDiscovery.model_validate(
            {"namespace": namespace, "token": str(api.token_file), "ca": str(api.ca_file)}
        ),
        environ=api.environ(),
    )
    told: list[tuple[Found, ...]] = []
    said: list[str] = []
    task = asyncio.create_task(source.watch(told.append, said.append))
    try:
        await eventually(lambda: bool(told), explain=lambda: str(said))
        await eventually(lambda: api.watches == 2)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert said == []
    return told[-1]
