"""The Kubernetes manifests of an overlay, and what their pods would have: variables and files."""

import copy
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

Object = dict[str, Any]

K8S = Path(__file__).parents[2] / "deploy" / "k8s"
OVERLAYS = ("demo", "production")
#: Made by whoever installs, and so in no manifest.
FOREIGN_SECRETS = frozenset({"weirgate-secrets", "weirgate-tls"})
KUSTOMIZE = 5
POD_IP = "10.244.1.7"

_REFERENCE = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)")


class Workload(NamedTuple):
    """Something that makes pods."""

    kind: str
    namespace: str
    name: str
    spec: Object

    @property
    def labels(self) -> dict[str, str]:
        return dict(self.spec["template"]["metadata"]["labels"])

    @property
    def pod(self) -> Object:
        return dict(self.spec["template"]["spec"])

    @property
    def container(self) -> Object:
        (container,) = self.pod["containers"]
        return dict(container)

    @property
    def ports(self) -> dict[str, int]:
        return {port["name"]: port["containerPort"] for port in self.container["ports"]}


class Manifests:
    """All objects of an overlay."""

    def __init__(self, objects: list[Object]) -> None:
        self.objects = objects

    def of(self, *kinds: str) -> list[Object]:
        return [item for item in self.objects if item["kind"] in kinds]

    def one(self, kind: str, name: str, namespace: str = "weirgate") -> Object:
        (found,) = [
            item
            for item in self.of(kind)
            if item["metadata"]["name"] == name and item["metadata"].get("namespace") == namespace
        ]
        return found

    def workloads(self) -> list[Workload]:
        return [
            Workload(w["kind"], w["metadata"]["namespace"], w["metadata"]["name"], w["spec"])
            for w in self.of("Deployment", "DaemonSet")
        ]

    def tier(self, name: str) -> Workload:
        (found,) = [w for w in self.workloads() if (w.namespace, w.name) == ("weirgate", name)]
        return found

    def tiers(self) -> list[Workload]:
        return [self.tier("edge"), self.tier("gateway")]

    def selected(self, namespace: str, labels: dict[str, str]) -> list[Workload]:
        """Return the workloads whose pods a selector selects."""
        return [w for w in self.workloads() if w.namespace == namespace and fits(labels, w.labels)]

    def config(self, tier: Workload) -> Object:
        """Return the configuration as plain YAML, its files put together, variables filled in."""
        environment = self.environment(tier)

        def filled(text: str) -> Object:
            named = re.sub(r"\$\{([A-Z_]+)\}", lambda match: environment[match[1]], text)
            return dict(yaml.safe_load(named))

        files = {name: filled(text) for name, text in self.files().items()}
        config = files.pop("weirgate.yaml")
        for part in files.values():
            config["listeners"] |= part["listeners"]
        return config

    def files(self) -> dict[str, str]:
        """Return the configuration, by the names that its files have."""
        return dict(self.one("ConfigMap", "weirgate-config")["data"])

    def environment(self, workload: Workload) -> dict[str, str]:
        """Return what the container's environment would be, as the kubelet makes it."""
        container, result = workload.container, dict[str, str]()
        for source in container.get("envFrom", ()):
            name = source["configMapRef"]["name"]
            result |= self.one("ConfigMap", name, workload.namespace)["data"]
        for variable in container.get("env", ()):
            if "value" in variable:
                value = _REFERENCE.sub(
                    lambda match: result.get(match[1], match[0]), variable["value"]
                )
            else:
                value = self._referred(workload, variable["valueFrom"])
            result[variable["name"]] = value
        return result

    def _referred(self, workload: Workload, source: Object) -> str:
        ((kind, where),) = source.items()
        if kind == "configMapKeyRef":
            data = self.one("ConfigMap", where["name"], workload.namespace)["data"]
            return str(data[where["key"]])
        if kind == "fieldRef":
            fields = {"status.podIP": POD_IP, "metadata.namespace": workload.namespace}
            return fields[where["fieldPath"]]
        if kind == "resourceFieldRef":
            assert where["resource"] == "requests.cpu"
            return str(whole_cpus(workload.container["resources"]["requests"]["cpu"]))
        assert kind == "secretKeyRef"
        assert where["name"] in FOREIGN_SECRETS
        return "0123456789abcdef0123456789abcdef"


def whole_cpus(quantity: str) -> int:
    """Return a CPU quantity as the downward API writes it: rounded up."""
    if quantity.endswith("m"):
        return -(-int(quantity.removesuffix("m")) // 1000)
    return int(quantity)


def fits(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


def walk(value: Any) -> Iterator[Object]:
    """Give every mapping in a value, itself first."""
    if isinstance(value, dict):
        yield value
        for child in value.values():
            yield from walk(child)
    elif isinstance(value, list):
        for child in value:
            yield from walk(child)


def manifests(overlay: str) -> Manifests:
    """Build an overlay; skip where there is no kubectl."""
    return Manifests(copy.deepcopy(_built(overlay)))


def _need_kustomize() -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed: kubectl kustomize builds the manifests")
    command = ("kubectl", "version", "--client", "--output", "json")
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    version = json.loads(done.stdout).get("kustomizeVersion", "v0")
    if int(version.lstrip("v").partition(".")[0]) < KUSTOMIZE:
        pytest.skip(f"kubectl has kustomize {version}: wanted {KUSTOMIZE} or newer (kubectl 1.27)")


@cache
def _built(overlay: str) -> list[Object]:
    _need_kustomize()
    command = ("kubectl", "kustomize", str(K8S / "overlays" / overlay))
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))
