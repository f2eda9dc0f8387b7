"""A law of the Kubernetes source: in the end it tells what the cluster holds, whatever happened."""

import asyncio
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.kubernetes_api import KubernetesApi, kubernetes_api
from tests.support.kubernetes_objects import (
    GONE,
    LEAVING,
    READY,
    STARTING,
    endpoint,
    service,
    slice_of,
)
from tests.support.kubernetes_store import Object
from weirgate.shared.config.discovery_kubernetes import KubernetesDiscovery
from weirgate.shared.discovery.found import Found
from weirgate.shared.discovery.kubernetes import KubernetesSource
from weirgate.shared.discovery.kubernetes_watch import Times
from weirgate.shared.testing import eventually

NAMESPACES = ("shop", "blue", "unwatched")
SERVICES = ("api", "web")
CONDITIONS: tuple[Any, ...] = (
    READY,
    STARTING,
    LEAVING,
    GONE,
    {},
    {"ready": None},
    {"ready": False},
)
BEST = {"up": 0, "draining": 1, "down": 2}

Step = tuple[Any, ...]


def endpoints(family: str) -> st.SearchStrategy[list[Object]]:
    address = "10.0.0.{}" if family == "IPv4" else "fd00::{}"
    one = st.builds(
        lambda number, conditions, zone: endpoint(
            address.format(number), conditions, zone=zone, pod=f"pod-{number}"
        ),
        st.integers(1, 5),
        st.sampled_from(CONDITIONS),
        st.sampled_from((None, "eu-1a")),
    )
    return st.lists(one, max_size=4)


def slices(family: str) -> st.SearchStrategy[Object]:
    return st.builds(
        lambda name, items, namespace, part, number: slice_of(
            name, *items, namespace=namespace, part=f"{family.lower()}-{part}", family=family,
            ports=[{"name": "http", "port": number, "protocol": "TCP"}],
        ),
        st.sampled_from(SERVICES),
        endpoints(family),
        st.sampled_from(NAMESPACES),
        st.sampled_from("ab"),
        st.sampled_from((8000, 9000)),
    )  # fmt: skip


services = st.builds(
    lambda name, annotations, namespace, families: service(
        name, annotations, namespace=namespace, families=families
    ),
    st.sampled_from(SERVICES),
    st.sampled_from(({}, {"pool": "a"}, {"pool": "b", "port": "http"})),
    st.sampled_from(NAMESPACES),
    st.sampled_from((("IPv4",), ("IPv6", "IPv4"))),
)

steps = st.one_of(
    st.tuples(st.just("put"), services),
    st.tuples(st.just("put"), slices("IPv4")),
    st.tuples(st.just("put"), slices("IPv6")),
    st.tuples(st.just("delete"), st.integers(0, 50)),
    st.tuples(
        st.just("cut"), st.sampled_from((b"", b'{"type":"MOD', b'{"type":"ADDED","object":{}}\n'))
    ),
    st.tuples(st.just("compact")),
    st.tuples(st.just("delete unseen"), st.integers(0, 50)),
    st.tuples(st.just("fail"), st.sampled_from((500, 503, 429))),
    st.tuples(st.just("rotate")),
    st.tuples(st.just("breathe"), st.sampled_from((0.0, 0.01, 0.06))),
)


@given(st.lists(steps, max_size=30), st.booleans())
@settings(max_examples=25, deadline=None)
def test_what_is_told_in_the_end_is_what_there_is(sequence: list[Step], as_event: bool) -> None:  # noqa: FBT001
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(run(Path(directory), sequence, gone_as_event=as_event))


async def run(directory: Path, sequence: list[Step], *, gone_as_event: bool) -> None:
    async with kubernetes_api(directory) as api:
        api.gone_as_event = gone_as_event
        settings_ = KubernetesDiscovery.model_validate(
            {"namespace": ["shop", "blue"], "token": str(api.token_file), "ca": str(api.ca_file)}
        )
        source = KubernetesSource(settings_, environ=api.environ(), times=Times(watch=1, resync=0))
        told: list[tuple[Found, ...]] = []
        task = asyncio.create_task(source.watch(told.append, lambda _: None))
        try:
            for step in sequence:
                await take(api, *step)
            api.failing = 0
            await eventually(
                lambda: bool(told) and plain(told[-1]) == naive(api),
                within_s=15,
                explain=lambda: f"told {plain(told[-1]) if told else None}, is {naive(api)}",
            )
            assert not task.done()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def take(api: KubernetesApi, what: str, value: Any = None) -> None:
    match what:
        case "put":
            api.put(value)
        case "delete" | "delete unseen":
            if what != "delete":
                api.cut()
            places = sorted(api.store.objects)
            if places:
                api.delete(*places[value % len(places)])
            if what != "delete":
                api.compact()
        case "cut":
            api.cut(value)
        case "compact":
            api.compact()
        case "fail":
            api.failing = 0 if api.failing else value
        case "rotate":
            api.rotate()
        case _:
            await asyncio.sleep(value)


def plain(state: tuple[Found, ...]) -> dict[str, Any]:
    return {
        each.name: (
            dict(each.labels),
            {(a.host, a.ports): (a.state, a.zone) for a in each.addresses},
        )
        for each in state
    }


def naive(api: KubernetesApi) -> dict[str, Any]:
    """Say from the objects themselves what should be told, in the simplest way."""
    state: dict[str, Any] = {}
    for (plural, namespace, name), item in api.store.objects.items():
        annotations = item["metadata"].get("annotations", {})
        labels = {k[12:]: v for k, v in annotations.items() if k[:12] == "weirgate.io/"}
        if plural == "services" and labels and namespace != "unwatched":
            family = item["spec"]["ipFamilies"][0]
            rows = list(rows_of(api, namespace, name))
            both = {pod for pod, own, *_ in rows if own == family}
            kept: dict[Any, tuple[str, str]] = {}
            for pod, own, host, ports, told in rows:
                if own != family and pod in both:
                    continue
                key = (host, ports)
                kept[key] = min(kept.get(key, told), told, key=lambda t: (BEST[t[0]], t[1]))
            state[f"Service {namespace}/{name}"] = (labels, kept)
    return state


def rows_of(api: KubernetesApi, namespace: str, name: str) -> Any:
    for (plural, own, _), item in api.store.objects.items():
        labels = item["metadata"].get("labels", {})
        if (plural, own, labels.get("kubernetes.io/service-name")) != (
            "endpointslices",
            namespace,
            name,
        ):
            continue
        ports = tuple((p["name"], p["port"]) for p in item["ports"])
        for each in item["endpoints"] or ():
            told = (judged(each["conditions"]), each.get("zone", ""))
            yield each["targetRef"]["uid"], item["addressType"], each["addresses"][0], ports, told


def judged(conditions: dict[str, bool | None]) -> str:
    if conditions.get("ready") in {True, None}:
        return "up"
    serves = conditions.get("serving") in {True, None}
    return "draining" if serves and conditions.get("terminating") else "down"
