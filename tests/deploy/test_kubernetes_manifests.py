"""The manifests: valid for several versions of Kubernetes, and right about each other."""

import re
import tomllib

import kubernetes_validate  # type: ignore[import-untyped]
import pytest

from tests.support.manifests import FOREIGN_SECRETS, K8S, Manifests, fits, manifests, walk

VERSIONS = ("1.29", "1.33", "1.37")
#: Kinds of the Prometheus operator; kubernetes-validate has no schema of them.
NOT_OF_KUBERNETES = frozenset({"ServiceMonitor"})
ROOT = K8S.parents[1]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid(built: Manifests, version: str) -> None:
    checked = 0
    for item in built.objects:
        if item["kind"] not in NOT_OF_KUBERNETES:
            assert kubernetes_validate.validate(item, version, strict=True) == version
            checked += 1
    assert checked >= 20


def test_a_wrong_object_would_be_found(built: Manifests) -> None:
    item = built.one("Deployment", "gateway")
    item["spec"]["template"]["spec"]["containers"][0]["readinessProbe"]["periodSecond"] = 5
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(item, VERSIONS[-1], strict=True)


def test_no_two_objects_have_one_name(built: Manifests) -> None:
    names = [
        (o["kind"], o["metadata"].get("namespace"), o["metadata"]["name"]) for o in built.objects
    ]
    assert len(names) == len(set(names))


def test_selectors_select_what_there_is(built: Manifests) -> None:
    workloads = built.workloads()
    for workload in workloads:
        own = workload.spec["selector"]["matchLabels"]
        assert [w.name for w in workloads if w.namespace == workload.namespace
                and fits(own, w.labels)] == [workload.name]  # fmt: skip
        for spread in workload.pod.get("topologySpreadConstraints", ()):
            assert spread["labelSelector"]["matchLabels"] == own
    for service in built.of("Service"):
        assert built.selected(service["metadata"]["namespace"], service["spec"]["selector"])
    for budget in built.of("PodDisruptionBudget"):
        namespace = budget["metadata"]["namespace"]
        assert len(built.selected(namespace, budget["spec"]["selector"]["matchLabels"])) == 1


def test_names_lead_to_objects(built: Manifests) -> None:
    configs = {c["metadata"]["name"] for c in built.of("ConfigMap")}
    accounts = {
        (a["metadata"]["namespace"], a["metadata"]["name"]) for a in built.of("ServiceAccount")
    }
    for workload in built.workloads():
        for mapping in walk(workload.pod):
            if "configMap" in mapping:
                assert mapping["configMap"]["name"] in configs
            if "configMapRef" in mapping:
                assert mapping["configMapRef"]["name"] in configs
            if "secret" in mapping:
                assert mapping["secret"]["secretName"] in FOREIGN_SECRETS
        mounted = {mount["name"] for mount in workload.container.get("volumeMounts", ())}
        assert mounted == {volume["name"] for volume in workload.pod.get("volumes", ())}
        account = workload.pod.get("serviceAccountName")
        assert account is None or (workload.namespace, account) in accounts
    for binding in built.of("RoleBinding"):
        namespace = binding["metadata"]["namespace"]
        assert built.one("Role", binding["roleRef"]["name"], namespace)
        for subject in binding["subjects"]:
            assert (subject["namespace"], subject["name"]) in accounts
    for scaler in built.of("HorizontalPodAutoscaler"):
        target = built.tier(scaler["spec"]["scaleTargetRef"]["name"])
        assert target.kind == scaler["spec"]["scaleTargetRef"]["kind"]
        assert "replicas" not in target.spec, "each apply would undo what the autoscaler did"
        assert "cpu" in target.container["resources"]["requests"]
    namespaces = {n["metadata"]["name"] for n in built.of("Namespace")}
    assert {
        o["metadata"]["namespace"] for o in built.objects if o["kind"] != "Namespace"
    } <= namespaces


def test_nothing_may_do_more_than_it_must(built: Manifests) -> None:
    for workload in built.workloads():
        pod, container = workload.pod, workload.container
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
        assert "cpu" not in container["resources"]["limits"]
        for volume in pod.get("volumes", ()):
            assert volume.keys() - {"name"} <= {"configMap", "secret", "emptyDir"}
        tier = workload.namespace == "weirgate"
        assert pod["automountServiceAccountToken"] is tier
        assert pod["securityContext"]["runAsUser"] == (65532 if tier else 65533)
    accounts = built.of("ServiceAccount")
    assert all(account["automountServiceAccountToken"] is False for account in accounts)
    assert not built.of("ClusterRole", "ClusterRoleBinding", "Secret")


def test_only_edges_in_the_hosts_network_leave_the_restricted_profile() -> None:
    for overlay, level in (("demo", "restricted"), ("production", "privileged")):
        built = manifests(overlay)
        label = "pod-security.kubernetes.io/enforce"
        levels = {
            n["metadata"]["name"]: n["metadata"]["labels"][label] for n in built.of("Namespace")
        }
        assert levels == {"weirgate": level, "applications": "restricted"}
        hosts = [w.name for w in built.workloads() if w.pod.get("hostNetwork")]
        assert hosts == (["edge"] if level == "privileged" else [])


def test_images_are_of_this_version(built: Manifests) -> None:
    version = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["version"]
    for workload in built.workloads():
        name = "weirgate" if workload.namespace == "weirgate" else "weirgate-demo-applications"
        image = workload.container["image"]
        assert image.rpartition("/")[2] == f"{name}:{version}"


def test_a_change_of_files_replaces_no_pod_and_one_of_variables_does(built: Manifests) -> None:
    names = {config["metadata"]["name"] for config in built.of("ConfigMap")}
    assert "weirgate-config" in names
    assert any(re.fullmatch(r"weirgate-environment-[a-z0-9]{10}", name) for name in names)
    for tier in built.tiers():
        assert "--watch" in tier.container["args"]
        # a single file would be copied once and never change
        assert all("subPath" not in mount for mount in tier.container["volumeMounts"])
