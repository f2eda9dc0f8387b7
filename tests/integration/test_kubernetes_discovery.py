"""The Kubernetes source against an API server: lists, watches, and everything that breaks them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.support.kubernetes_api import KubernetesApi, kubernetes_api
from tests.support.kubernetes_objects import GONE, LEAVING, STARTING, endpoint, service, slice_of
from tests.support.kubernetes_store import SERVICES
from weirgate.shared.config.discovery_kubernetes import KubernetesDiscovery
from weirgate.shared.discovery.found import Found
from weirgate.shared.discovery.kubernetes import KubernetesSource
from weirgate.shared.discovery.kubernetes_watch import Times
from weirgate.shared.testing import eventually

pytestmark = pytest.mark.anyio

TIMES = Times(watch=2, resync=0)


@dataclass
class Told:
    """What a source has told."""

    states: list[tuple[Found, ...]] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    @property
    def last(self) -> tuple[Found, ...]:
        return self.states[-1] if self.states else ()

    def addresses(self, name: str = "Service shop/api") -> dict[str, str]:
        """Return the last state of each address of a Service."""
        return {a.host: a.state for f in self.last if f.name == name for a in f.addresses}

    async def becomes(self, wanted: dict[str, str], within_s: float = 10.0) -> None:
        await eventually(
            lambda: self.addresses() == wanted,
            within_s=within_s,
            what=f"{wanted}",
            explain=lambda: f"{self.addresses()} said: {self.said}",
        )

    async def says(self, part: str, within_s: float = 10.0) -> None:
        """Wait for a message with this in it; the empty one is that all is well again."""
        await eventually(
            lambda: bool(self.said) and (part in self.said[-1] if part else not self.said[-1]),
            within_s=within_s,
            what=f"said {part!r}",
            explain=lambda: str(self.said),
        )


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[KubernetesApi]:
    async with kubernetes_api(tmp_path) as running:
        yield running


@contextlib.asynccontextmanager
async def watching(
    api: KubernetesApi, *, times: Times = TIMES, **settings: Any
) -> AsyncIterator[Told]:
    """Run a source against a server."""
    settings = {
        "namespace": "shop",
        "token": str(api.token_file),
        "ca": str(api.ca_file),
    } | settings
    source = KubernetesSource(
        KubernetesDiscovery.model_validate(settings), environ=api.environ(), times=times
    )
    told = Told()
    task = asyncio.create_task(source.watch(told.states.append, told.said.append))
    try:
        yield told
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def pods(*numbers: int) -> list[Any]:
    return [endpoint(f"10.0.0.{n}") for n in numbers]


def up(*numbers: int) -> dict[str, str]:
    return {f"10.0.0.{n}": "up" for n in numbers}


API = {"pool": "api", "port": "http", "route.api.match.path": "/api/*"}


async def test_a_service_is_found_with_its_endpoints(api: KubernetesApi) -> None:
    api.put(service("api", API), service("silent"), slice_of("api", *pods(1, 2)))
    async with watching(api) as told:
        await told.becomes(up(1, 2))
        (found,) = told.last
        assert found.labels == API
        assert found.default_port == 8000
        assert found.addresses[0].ports == (("http", 8000),)
        assert found.addresses[0].zone == "eu-1a"
        assert told.said == []
        assert len(told.states) == 1


async def test_a_deployment_is_scaled(api: KubernetesApi) -> None:
    api.put(service("api", API), slice_of("api", *pods(1)))
    api.put(service("other", {"pool": "other"}), slice_of("other", *pods(9)))
    async with watching(api) as told:
        await told.becomes(up(1))
        api.put(slice_of("api", *pods(1, 2, 3, 4, 5)))
        await told.becomes(up(1, 2, 3, 4, 5))
        assert told.last[1] is told.states[0][1], (
            "nothing is made anew for those that are as before"
        )
        api.put(slice_of("api", *pods(2, 5)))
        await told.becomes(up(2, 5))
        api.put(slice_of("api"))
        await told.becomes({})
        assert len(told.last) == 2
        api.delete("services", "shop", "api")
        await eventually(lambda: len(told.last) == 1)


async def test_a_pod_terminates(api: KubernetesApi) -> None:
    api.put(service("api", API), slice_of("api", *pods(1, 2)))
    async with watching(api) as told:
        await told.becomes(up(1, 2))
        api.put(slice_of("api", *pods(1), endpoint("10.0.0.2", LEAVING)))
        await told.becomes({**up(1), "10.0.0.2": "draining"})
        api.put(slice_of("api", *pods(1), endpoint("10.0.0.2", GONE)))
        await told.becomes({**up(1), "10.0.0.2": "down"})
        api.put(slice_of("api", *pods(1)))
        await told.becomes(up(1))


async def test_a_rolling_update_never_shows_less_than_it_has(api: KubernetesApi) -> None:
    api.put(service("api", API), slice_of("api", *pods(1, 2, 3)))
    async with watching(api) as told:
        await told.becomes(up(1, 2, 3))
        for old in (1, 2, 3):
            rest, new = [*range(old + 1, 4), *range(11, 10 + old)], 10 + old
            api.put(slice_of("api", *pods(old, *rest), endpoint(f"10.0.0.{new}", STARTING)))
            await told.becomes({**up(old, *rest), f"10.0.0.{new}": "down"})
            api.put(slice_of("api", endpoint(f"10.0.0.{old}", LEAVING), *pods(*rest, new)))
            await told.becomes({**up(*rest, new), f"10.0.0.{old}": "draining"})
            api.put(slice_of("api", *pods(*rest, new)))
            await told.becomes(up(*rest, new))
        usable = [sum(a.state == "up" for a in f.addresses) for s in told.states for f in s]
        assert min(usable) == 3


async def test_a_watch_that_breaks_goes_on_where_it_was(api: KubernetesApi) -> None:
    api.put(service("api", API), slice_of("api", *pods(1)))
    async with watching(api) as told:
        await told.becomes(up(1))
        for count, rest in enumerate((b"", b'{"type":"MODIFIED","object":{"metad', b"\n"), 2):
            await eventually(lambda: api.watches == 2)
            api.cut(rest)
            api.put(slice_of("api", *pods(*range(1, count + 1))))
            await told.becomes(up(*range(1, count + 1)))
        # nothing was listed again, and a break that heals at once is no news
        assert len(api.calls_of("list")) == 1
        assert told.said == []


async def test_the_server_ends_a_watch_in_time(api: KubernetesApi) -> None:
    api.put(service("api", API), slice_of("api", *pods(1)))
    async with watching(api, times=Times(watch=1, resync=0)) as told:
        await told.becomes(up(1))
        api.put(slice_of("other", *pods(9), namespace="elsewhere"))
        await eventually(lambda: len(api.calls_of("watch", "endpointslices")) >= 3)
        # bookmarks carry the version on, though nothing of these has changed
        versions = [int(c.version) for c in api.calls_of("watch", "endpointslices")]
        assert versions[-1] == api.store.version > versions[0]
        assert len(api.calls_of("list")) == 1
        assert told.said == []


@pytest.mark.parametrize("as_event", [True, False])
async def test_what_is_forgotten_is_listed_again(api: KubernetesApi, *, as_event: bool) -> None:
    api.gone_as_event = as_event
    api.put(service("api", API), slice_of("api", *pods(1, 2)), service("old", {"pool": "old"}))
    async with watching(api) as told:
        await told.becomes(up(1, 2))
        await eventually(lambda: api.watches == 2)
        api.cut()
        api.put(slice_of("api", *pods(2, 3)))
        api.delete("services", "shop", "old")  # nobody will be told of it
        api.compact()
        await told.becomes(up(2, 3))
        await eventually(lambda: len(told.last) == 1)
        assert len(api.calls_of("list", "endpointslices")) == 2
        assert all(told.states), "the copy is replaced in one step"
        assert told.said == []


async def test_the_server_is_gone_and_comes_back(api: KubernetesApi) -> None:
    api.put(service("api", API), slice_of("api", *pods(1)))
    async with watching(api) as told:
        await told.becomes(up(1))
        await api.stop()
        await told.says(api.url)
        assert told.addresses() == up(1)
        api.store.put(slice_of("api", *pods(1, 2)))
        await api.start()
        await told.becomes(up(1, 2))
        await told.says("")
        assert len(told.said) == 2, "said once, and once that it is well"


async def test_a_server_that_is_not_there_yet(api: KubernetesApi) -> None:
    api.put(service("api", API), slice_of("api", *pods(1)))
    await api.stop()
    async with watching(api) as told:
        await told.says(api.url)
        assert told.states == []
        await api.start()
        await told.becomes(up(1))
        await told.says("")


async def test_a_silent_server_is_left(api: KubernetesApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weirgate.shared.discovery.kubernetes_api._WATCH_SLACK_SECONDS", 0.5)
    api.put(service("api", API), slice_of("api", *pods(1)))
    async with watching(api, times=Times(watch=1, resync=0)) as told:
        await told.becomes(up(1))
        await eventually(lambda: api.watches == 2)
        api.mute = True
        await asyncio.sleep(0)
        api.put(slice_of("api", *pods(1, 2)))
        opened = len(api.calls_of("watch", "endpointslices"))
        await eventually(lambda: len(api.calls_of("watch", "endpointslices")) > opened)
        api.mute = False
        api.cut()
        await told.becomes(up(1, 2))


async def more_calls(api: KubernetesApi, count: int) -> None:
    seen = len(api.calls)
    await eventually(lambda: len(api.calls) >= seen + count)


async def test_tokens_are_rotated(api: KubernetesApi) -> None:
    api.put(service("api", API), slice_of("api", *pods(1)))
    async with watching(api, times=Times(watch=1, resync=0)) as told:
        await told.becomes(up(1))
        for _ in range(2):
            api.rotate()
            api.cut()
            # both watches are opened anew, with what the file holds now
            await more_calls(api, 2)
            api.expire()
        api.put(slice_of("api", *pods(1, 2)))
        await told.becomes(up(1, 2))
        assert {call.status for call in api.calls} == {200}
        api.tokens = {"another"}
        await told.says("401")
        assert told.addresses() == up(1, 2)


async def test_what_is_not_allowed_is_said(api: KubernetesApi) -> None:
    api.put(service("api", API), slice_of("api", *pods(1)))
    api.allowed = lambda _verb, _group, plural, _namespace: plural == "services"
    async with watching(api) as told:
        await told.says("not allowed to list and watch endpointslices in namespace shop")
        assert "system:serviceaccount:weirgate:edge" in told.said[-1]
        assert told.states == [], "a Service without its endpoints would look like an empty pool"
        api.allowed = lambda *_: True
        await told.becomes(up(1))
        await told.says("")


async def test_one_forbidden_namespace_keeps_no_other_back(api: KubernetesApi) -> None:
    api.put(service("api", API), slice_of("api", *pods(1)))
    api.put(service("api", API, namespace="secret"), slice_of("api", *pods(2), namespace="secret"))
    api.allowed = lambda _verb, _group, plural, namespace: "shop" in namespace or plural == SERVICES
    async with watching(api, namespace=["shop", "secret"]) as told:
        await told.becomes(up(1))
        await told.says("endpointslices in namespace secret")
        # of the other its Services are known, but half of it is nothing
        assert [found.name for found in told.last] == ["Service shop/api"]
        api.allowed = lambda *_: True
        await eventually(lambda: len(told.last) == 2)
        await told.says("")


async def test_all_namespaces(api: KubernetesApi) -> None:
    api.put(service("api", API), service("api", API, namespace="blue"))
    api.put(slice_of("api", *pods(1)), slice_of("api", *pods(2), namespace="blue"))
    async with watching(api, namespace="*") as told:
        await eventually(lambda: len(told.last) == 2)
        assert told.addresses("Service blue/api") == up(2)
        assert told.addresses("Service shop/api") == up(1)
        assert {call.namespace for call in api.calls} == {""}


async def test_a_selector_is_the_servers_to_judge(api: KubernetesApi) -> None:
    api.put(service("api", API, labels={"tier": "web"}), slice_of("api", *pods(1)))
    api.put(service("batch", {"pool": "batch"}, labels={"tier": "batch"}))
    async with watching(api, selector="tier=web") as told:
        await told.becomes(up(1))
        assert len(told.last) == 1
        api.put(service("api", API, labels={"tier": "batch"}))
        await eventually(lambda: not told.last)


async def test_the_older_service_comes_first(api: KubernetesApi) -> None:
    younger = service("api", API)
    younger["metadata"]["creationTimestamp"] = "2026-11-20T00:00:00Z"
    api.put(younger, service("web", API), service("cart", API))
    async with watching(api) as told:
        await eventually(lambda: len(told.last) == 3)
        names = [found.name for found in told.last]
        assert names == ["Service shop/cart", "Service shop/web", "Service shop/api"]


async def test_an_annotation_comes_and_goes(api: KubernetesApi) -> None:
    api.put(service("api"), slice_of("api", *pods(1)))
    async with watching(api) as told:
        await eventually(lambda: told.states == [()])
        api.put(service("api", API))
        await told.becomes(up(1))
        api.put(service("api", API | {"port": "metrics"}))
        await eventually(lambda: told.last[0].labels["port"] == "metrics")
        api.put(service("api"))
        await eventually(lambda: not told.last)


async def test_lists_come_in_pages(api: KubernetesApi) -> None:
    for number in range(620):
        api.store.put(service(f"s{number:03}", {"pool": f"p{number}"}))
    async with watching(api) as told:
        await eventually(lambda: len(told.last) == 620)
        assert api.longest_page == 100
        assert len(api.calls_of("list")) == 7
        assert [found.name for found in told.last] == sorted(found.name for found in told.last)


async def test_everything_is_listed_anew_from_time_to_time(api: KubernetesApi) -> None:
    api.put(service("api", API), slice_of("api", *pods(1)))
    async with watching(api, times=Times(watch=1, resync=1.5)) as told:
        await told.becomes(up(1))
        await eventually(lambda: len(api.calls_of("list")) >= 2)
        assert len(told.states) == 1


async def test_too_many_objects_are_refused(
    api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weirgate.shared.discovery.kubernetes_watch.MAX_OBJECTS", 2)
    api.put(service("api", API), slice_of("api", *pods(1)), service("two", {"pool": "two"}))
    async with watching(api) as told:
        await told.becomes(up(1))
        api.put(service("three", {"pool": "three"}))
        await told.says("more than 2 services in namespace shop")
        assert len(told.last) == 2


async def test_an_answer_without_an_end_is_refused(
    api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weirgate.shared.discovery.kubernetes_api.MAX_EVENT_BYTES", 10_000)
    api.put(service("api", API), slice_of("api", *pods(1)))
    async with watching(api) as told:
        await told.becomes(up(1))
        await eventually(lambda: api.watches == 2)

        def said() -> bool:
            api.cut(b"x" * 20_000)
            return any("an event beyond" in text for text in told.said)

        await eventually(said)  # once may be a mishap, and is not spoken of
        api.put(slice_of("api", *pods(1, 2)))
        await told.becomes(up(1, 2))


async def test_an_unknown_authority_is_not_trusted(api: KubernetesApi, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(other)
    async with watching(api, ca=str(other)) as told:
        await told.says("certificate verify failed")
        assert api.calls == [], "the token is shown to nobody unknown"
        other.write_bytes(api.ca_file.read_bytes())  # a renewed authority is read without a restart
        await eventually(lambda: told.states == [()])
        await told.says("")


async def test_without_a_token_or_a_cluster_it_says_so(api: KubernetesApi, tmp_path: Path) -> None:
    async with watching(api, token=str(tmp_path / "none")) as told:
        await told.says("no such file")
    source = KubernetesSource(KubernetesDiscovery(), environ={})
    told = Told()
    task = asyncio.create_task(source.watch(told.states.append, told.said.append))
    await told.says("KUBERNETES_SERVICE_HOST")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
