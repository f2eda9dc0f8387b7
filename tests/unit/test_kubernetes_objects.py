"""Services and EndpointSlices as an API server writes them, and what is made of them."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tests.support.kubernetes_objects import LEAVING, endpoint, service, slice_of
from weirgate.shared.config.discovery_kubernetes import KubernetesDiscovery
from weirgate.shared.discovery.found import Found, FoundAddress
from weirgate.shared.discovery.kubernetes_objects import endpoint_slice, found
from weirgate.shared.discovery.kubernetes_objects import service as reduced

RECORDED = Path(__file__).parents[1] / "golden" / "kubernetes"


def together(known: dict[str, Any], *slices: dict[str, Any], prefix: str = "weirgate.io") -> Found:
    kept = reduced(known, prefix)
    assert kept is not None
    return found(kept, [each for each in map(endpoint_slice, slices) if each is not None])


def recorded(name: str) -> Found:
    document = json.loads((RECORDED / f"{name}.json").read_text())
    return together(document["service"], *document["slices"])


def test_a_rolling_update() -> None:
    seen = recorded("rolling-update")
    ports = (("http", 8000), ("metrics", 9102))
    assert seen == Found(
        name="Service shop/api",
        labels={
            "pool": "api",
            "port": "http",
            "route.api.match.header."
            "x-a-header-with-a-name-that-is-longer-than-any-annotation-may-be": '"1"',
            "route.api.match.path": "/api/*",
            "pool.retries": "3",
        },
        addresses=(
            FoundAddress("10.244.1.31", "draining", "terminating", "eu-central-1a", ports),
            FoundAddress("10.244.1.44", "up", "", "eu-central-1a", ports),
            # in two slices for a moment: the better word counts
            FoundAddress("10.244.2.18", "up", "", "eu-central-1b", ports),
            FoundAddress("10.244.2.51", "down", "not ready", "eu-central-1b", ports),
            FoundAddress("10.244.3.7", "down", "terminating", "eu-central-1c", ports),
        ),
    )


def test_slices_made_by_hand_say_little() -> None:
    seen = recorded("hand-made")
    ports = (("", 7000),)
    assert seen.addresses == (
        FoundAddress("192.0.2.10", "up", "", "", ports),
        FoundAddress("192.0.2.20", "up", "", "", ports),
        FoundAddress("192.0.2.30", "down", "not ready", "", ports),
        FoundAddress("192.0.2.40", "up", "", "", ports),
        FoundAddress("2001:db8::7", "up", "", "eu-central-1c", ports),
    )
    assert seen.default_port == 7000


@pytest.mark.parametrize(("families", "wanted"), [
    (("IPv4", "IPv6"), ["10.0.0.1", "fd00::2"]),
    (("IPv6", "IPv4"), ["fd00::1", "fd00::2"]),
])  # fmt: skip
def test_a_pod_with_both_families_is_one_endpoint(
    families: tuple[str, ...], wanted: list[str]
) -> None:
    seen = together(
        service("api", {"pool": "api"}, families=families),
        slice_of("api", endpoint("10.0.0.1", pod="a")),
        slice_of("api", endpoint("fd00::1", pod="a"), endpoint("fd00::2", pod="b"), family="IPv6"),
    )
    assert [address.host for address in seen.addresses] == wanted


def test_pods_in_the_hosts_network_follow_each_other_on_one_address() -> None:
    old = endpoint("10.0.0.1", LEAVING, pod="old")
    new = endpoint("10.0.0.1", pod="new")
    for pair in ((old, new), (new, old)):
        seen = together(service("api", {"pool": "api"}), slice_of("api", *pair))
        assert [(a.host, a.state) for a in seen.addresses] == [("10.0.0.1", "up")]


def test_ports_of_several_slices() -> None:
    other = [{"name": "http", "port": 9000, "protocol": "TCP"}, {"name": "odd", "protocol": "TCP"}]
    seen = together(
        service("api", {"pool": "api"}),
        slice_of("api", endpoint("10.0.0.1")),
        slice_of("api", endpoint("10.0.0.2"), part="b", ports=other),
    )
    assert [a.ports for a in seen.addresses] == [(("http", 8000),), (("http", 9000),)]
    assert seen.default_port is None


def test_annotations_of_others_do_not_count() -> None:
    assert reduced(service("api"), "weirgate.io") is None
    assert reduced(service("api", {"pool": "api"}), "weirgate") is None
    seen = reduced(service("api", {"pool": "api"}), "weirgate.io")
    assert seen is not None
    assert dict(seen.labels) == {"pool": "api"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("just words", "weirgate.io/labels, line 1: wanted a line such as"),
        ("\n# why\na b: c", "line 3: wanted a line such as"),
        (": c", "line 1: wanted a line such as"),
        ("pool: other", "line 1: pool a second time"),
        ("a: b\na: b", "line 2: a a second time"),
    ],
)
def test_bad_lines_of_labels_are_said(text: str, why: str) -> None:
    seen = together(service("api", {"pool": "api", "labels": text}))
    assert why in seen.trouble
    assert seen.labels == {"pool": "api"}


def test_lines_of_labels_stay_text() -> None:
    lines = "# a comment\na: yes\n\nb: 0x10 \nc: ''\n  d: null\nurl: https://a.test:1/#x\ne:\n"
    seen = together(service("api", {"labels": lines}))
    assert seen.trouble == ""
    assert seen.labels == {
        "a": "yes", "b": "0x10", "c": "''", "d": "null", "url": "https://a.test:1/#x", "e": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    "broken",
    [
        {"metadata": []},
        {**slice_of("api"), "addressType": None},
        {**slice_of("api"), "metadata": {"name": 7, "labels": {"kubernetes.io/service-name": "a"}}},
        {**slice_of("api"), "endpoints": {}},
        {**slice_of("api"), "endpoints": ["x"]},
        {**slice_of("api"), "ports": [{"port": 70000}]},
        {**slice_of("api"), "ports": [{"port": "80"}]},
        {**slice_of("api"), "endpoints": [{"addresses": [7]}]},
    ],
)
def test_what_no_api_server_writes_is_an_error(broken: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"where|port"):
        endpoint_slice(broken)


@pytest.mark.parametrize("settings", [
    {},
    {"namespace": "shop"},
    {"namespace": ["shop", "blue"]},
    {"namespace": "*", "selector": "app=shop,tier!=batch"},
    {"api_server": "https://[fd00::1]:6443", "token": "/run/token", "ca": "/run/ca.crt"},
    {"prefix": "lb.example.com", "resync": "0"},
])  # fmt: skip
def test_settings_that_are_taken(settings: dict[str, Any]) -> None:
    KubernetesDiscovery.model_validate(settings)


def test_one_text_may_name_several_namespaces() -> None:
    for value in ("shop, blue", ["shop", "blue"], "shop,blue,shop"):
        settings = KubernetesDiscovery.model_validate({"namespace": value})
        assert settings.namespace == ("shop", "blue")


@pytest.mark.parametrize("settings", [
    {"namespace": "Shop"},
    {"namespace": ["*", "shop"]},
    {"namespace": "../kube-system"},
    {"namespace": "shop,,blue"},
    {"namespace": "shop,*"},
    {"namespace": [f"n{number}" for number in range(65)]},
    {"selector": "a=b&limit=1"},
    {"prefix": "weirgate.io/x"},
    {"prefix": ""},
    {"api_server": "http://10.0.0.1"},
    {"api_server": "https://user@10.0.0.1"},
    {"api_server": "https://10.0.0.1:port"},
    {"token": "relative"},
    {"resync": 5},
    {"unknown": True},
])  # fmt: skip
def test_settings_that_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        KubernetesDiscovery.model_validate(settings)
