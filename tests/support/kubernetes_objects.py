"""Services and EndpointSlices with all that a real API server writes into them."""

import uuid
from collections.abc import Mapping
from typing import Any

from tests.support.kubernetes_store import Object

STAMP = "2026-11-02T09:14:31Z"
READY = {"ready": True, "serving": True, "terminating": False}
STARTING = {"ready": False, "serving": False, "terminating": False}
LEAVING = {"ready": False, "serving": True, "terminating": True}
GONE = {"ready": False, "serving": False, "terminating": True}


def service(
    name: str,
    annotations: dict[str, str] | None = None,
    *,
    namespace: str = "shop",
    labels: dict[str, str] | None = None,
    families: tuple[str, ...] = ("IPv4",),
) -> Object:
    """Return a Service; its annotations are written without ``weirgate.io/``."""
    own = {f"weirgate.io/{key}": value for key, value in (annotations or {}).items()}
    return {
        "kind": "Service",
        "apiVersion": "v1",
        "metadata": {
            **_metadata(namespace, name),
            "labels": labels or {"app.kubernetes.io/name": name},
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}\n", **own},
        },
        "spec": {
            "ports": [{"name": "http", "protocol": "TCP", "port": 80, "targetPort": "http"}],
            "selector": {"app.kubernetes.io/name": name},
            "clusterIP": "10.96.14.7",
            "clusterIPs": ["10.96.14.7"],
            "type": "ClusterIP",
            "sessionAffinity": "None",
            "ipFamilies": list(families),
            "ipFamilyPolicy": "SingleStack" if len(families) == 1 else "PreferDualStack",
            "internalTrafficPolicy": "Cluster",
        },
        "status": {"loadBalancer": {}},
    }


def endpoint(
    address: str,
    conditions: Mapping[str, bool | None] | None = None,
    *,
    zone: str | None = "eu-1a",
    pod: str | None = None,
) -> Object:
    """Return an endpoint of a slice; ``pod`` is its name, by default made from the address."""
    name = pod or f"pod-{address}"
    uid = str(uuid.uuid5(uuid.NAMESPACE_DNS, name))
    item: Object = {
        "addresses": [address],
        "conditions": dict(READY if conditions is None else conditions),
        "nodeName": "worker-2",
        "targetRef": {"kind": "Pod", "namespace": "shop", "name": name, "uid": uid},
    }
    return item if zone is None else {**item, "zone": zone}


def slice_of(
    service_name: str,
    *endpoints: Object,
    namespace: str = "shop",
    part: str = "x7k2p",
    family: str = "IPv4",
    ports: list[Any] | None = None,
) -> Object:
    """Return one slice of a Service."""
    port = {"name": "http", "port": 8000, "protocol": "TCP"}
    return {
        "kind": "EndpointSlice",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": {
            **_metadata(namespace, f"{service_name}-{part}"),
            "generateName": f"{service_name}-",
            "generation": 4,
            "labels": {
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                "kubernetes.io/service-name": service_name,
            },
            "ownerReferences": [
                {
                    "apiVersion": "v1",
                    "kind": "Service",
                    "name": service_name,
                    "uid": str(uuid.uuid5(uuid.NAMESPACE_DNS, service_name)),
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
        "addressType": family,
        # an empty list of endpoints is written as null
        "endpoints": list(endpoints) or None,
        "ports": [port] if ports is None else ports,
    }


def _metadata(namespace: str, name: str) -> Object:
    return {
        "name": name,
        "namespace": namespace,
        "uid": str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{namespace}/{name}")),
        "creationTimestamp": STAMP,
        "managedFields": [
            {"manager": "kube-controller-manager", "operation": "Update", "time": STAMP}
        ],
    }
