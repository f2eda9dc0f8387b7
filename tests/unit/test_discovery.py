"""From what sources tell to what is in force; the sources here say what the test wants."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from weirgate.shared.config import ConfigErrors, load
from weirgate.shared.config.discovered import LabelReader, with_discovered
from weirgate.shared.config.label_piece import Spelling
from weirgate.shared.config.label_rules import files_of
from weirgate.shared.config.labels import read_labels
from weirgate.shared.discovery import sources
from weirgate.shared.discovery.found import Changed, Found, FoundAddress, Said
from weirgate.shared.supervisor import discovery
from weirgate.shared.supervisor.discovery import Discoverer
from weirgate.shared.supervisor.plan import Plan, Planner
from weirgate.shared.supervisor.tasks import Tasks
from weirgate.shared.testing import eventually

FILE = 'listeners: {web: {bind: "127.0.0.1:80"}}\ndiscovery: {docker: {}}\n'
SECRET = "00" * 32
API = {"pool": "api", "route.api.match.path": "/api/*"}


def found(name: str, host: str = "10.0.0.1", state: Any = "up", **labels: str) -> Found:
    return Found(f"container {name}", labels or API, (FoundAddress(host, state),), 8000)


@pytest.fixture
def planner(tmp_path: Path) -> Planner:
    file = tmp_path / "weirgate.yaml"
    file.write_text(FILE)
    return Planner(file, {}, SECRET)


def addresses(plan: Plan, pool: str = "api") -> dict[str, int]:
    """Return the endpoints of a pool with their weights."""
    pools = {each["name"]: each for each in plan.value["pools"]}
    return {e["address"]: e["weight"] for e in pools[pool]["endpoints"]} if pool in pools else {}


class Scripted:
    """A source that a test speaks through."""

    kind = "docker"
    made = 0

    def __init__(self, _: Any) -> None:
        type(self).made += 1
        type(self).last = self

    last: "Scripted"
    changed: Changed
    said: Said

    async def watch(self, changed: Changed, said: Said) -> None:
        self.changed, self.said = changed, said
        await asyncio.Event().wait()


@contextlib.asynccontextmanager
async def discovering(
    planner: Planner, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Discoverer, Scripted]]:
    monkeypatch.setitem(sources._MAKERS, "docker", Scripted)
    tasks, made = Tasks(), Scripted.made
    discoverer = Discoverer(planner, tasks)
    discoverer.follow(planner.plan())
    await eventually(lambda: Scripted.made > made and hasattr(Scripted.last, "changed"))
    yield discoverer, Scripted.last
    await discoverer.close()
    await tasks.cancel()


# The supervisor.


@pytest.mark.anyio
async def test_changes_that_come_together_are_one_reload_and_equal_ones_none(
    planner: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[Plan] = []
    async with discovering(planner, monkeypatch) as (discoverer, source):

        async def reload() -> bool:
            plans.append(await asyncio.to_thread(planner.plan))
            discoverer.follow(plans[-1])
            return True

        discoverer.keep_telling(reload)
        for number in range(20):
            source.changed((found("a"), found("b", f"10.0.1.{number}")))
        await eventually(lambda: plans)
        source.changed((found("a"), found("b", "10.0.1.19")))
        source.changed((found("a"),))
        await eventually(lambda: len(plans) > 1)
        assert [addresses(plan) for plan in plans] == [
            {"10.0.0.1:8000": 1, "10.0.1.19:8000": 1},
            {"10.0.0.1:8000": 1},
        ]
        assert discoverer.figures() == {"docker": (True, 1, 0)}


@pytest.mark.anyio
async def test_a_refused_reload_is_tried_again_without_a_change(
    planner: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weirgate.shared.supervisor.changes.FIRST_RETRY_SECONDS", 0.01)
    answers = [True, False, False]
    async with discovering(planner, monkeypatch) as (discoverer, source):

        async def reload() -> bool:
            return answers.pop()

        discoverer.keep_telling(reload)
        source.changed((found("a"),))
        await eventually(lambda: not answers)


@pytest.mark.anyio
async def test_the_start_waits_for_first_answers_but_not_for_ever(
    planner: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with discovering(planner, monkeypatch) as (discoverer, source):
        finding = asyncio.create_task(discoverer.find(planner.plan()))
        source.changed((found("a"),))
        assert addresses(await finding) == {"10.0.0.1:8000": 1}
    monkeypatch.setattr(discovery, "_FIRST_ANSWERS_SECONDS", 0.05)
    planner.found.clear()
    async with discovering(planner, monkeypatch) as (discoverer, _):
        assert addresses(await discoverer.find(planner.plan())) == {}
        assert discoverer.status()[0]["state"] == "starting"
        assert discoverer.figures() == {"docker": (False, 0, 0)}


@pytest.mark.anyio
async def test_an_outage_is_said_once_and_takes_nothing_away(
    planner: Planner, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with discovering(planner, monkeypatch) as (discoverer, source):
        source.changed((found("a"),))
        for _ in range(3):
            source.said("engine: connection refused")
        source.said("engine: no such file")
        [shown] = discoverer.status()
        assert (shown["state"], shown["error"]) == ("error", "engine: no such file")
        assert (shown["objects"], shown["not_up"]) == (1, {})
        assert addresses(planner.plan()) == {"10.0.0.1:8000": 1}
        ill = FoundAddress("10.0.0.2", "down", "unhealthy")
        source.changed((found("a"), Found("container b", API, (ill,))))
        assert discoverer.status()[0]["not_up"] == {"container b": "down (unhealthy)"}
        since = shown["since"]
        source.said("")
        source.said("")
        [shown] = discoverer.status()
        assert (shown["state"], shown["error"]) == ("ok", None)
        assert shown["since"] >= since
    said = [record.message for record in caplog.records]
    assert said.count("discovery is not heard, what it last said holds") == 1
    assert said.count("discovery is heard again") == 1


@pytest.mark.anyio
async def test_another_section_is_another_source_and_none_forgets_all(
    planner: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with discovering(planner, monkeypatch) as (discoverer, source):
        source.changed((found("a"),))
        made = Scripted.made
        discoverer.follow(planner.plan())
        assert Scripted.made == made
        planner.path.write_text(FILE.replace("docker: {}", "docker: {prefix: lb}"))
        discoverer.follow(planner.plan())
        await eventually(lambda: Scripted.made > made and hasattr(Scripted.last, "changed"))
        assert planner.found["docker"], "until the new source has told"
        source.changed(())
        assert planner.found["docker"], "the old one has no say any more"
        planner.path.write_text(FILE.partition("discovery")[0])
        discoverer.follow(planner.plan())
        assert planner.found == {}
        assert discoverer.status() == []


@pytest.mark.anyio
async def test_objects_beyond_the_bound_are_left_out(
    planner: Planner, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(discovery, "MAX_OBJECTS", 2)
    async with discovering(planner, monkeypatch) as (_, source):
        for _ in range(2):
            source.changed(tuple(found(name) for name in "abc"))
        assert [each.name for each in planner.found["docker"]] == ["container a", "container b"]
    said = [record.message for record in caplog.records]
    assert said == ["more objects than can be taken in; the last ones are left out"]


# The planner.


def test_what_is_being_edited_is_not_put_in_force_by_a_container(planner: Planner) -> None:
    written = planner.plan().written
    planner.path.write_text("listeners: {")
    planner.found["docker"] = (found("a"),)
    assert addresses(planner.plan(written)) == {"10.0.0.1:8000": 1}
    with pytest.raises(ConfigErrors):
        planner.plan()


def test_errors_of_the_file_are_the_file_s(planner: Planner) -> None:
    planner.found["docker"] = (found("a"),)
    planner.path.write_text(FILE + "routes: [{match: {path: {regex: '('}}, respond: {}}]\n")
    with pytest.raises(ConfigErrors) as caught:
        planner.plan()
    assert [problem.line for problem in caught.value.problems] == [3]


@pytest.mark.parametrize("evil", [[], [0], [4], [2, 7], list(range(10))])
def test_where_no_label_is_to_blame_the_object_is_found_by_trying(
    planner: Planner, evil: list[int]
) -> None:
    loaded = load(planner.path, {})
    objects = [found(str(n), pool=f"p{n}") for n in range(10)]
    pieces = LabelReader().read(loaded, {"docker": objects})

    def judge(whole: Any) -> set[str]:
        if {f"p{n}" for n in evil} & whole.config.pools.keys():
            raise ConfigErrors([])
        return set(whole.config.pools)

    pools, discovered = with_discovered(loaded, pieces, judge)
    assert pools == {f"p{n}" for n in range(10) if n not in evil}
    problems = discovered.problems["docker"]
    assert list(problems) == [f"container {n}" for n in evil]
    assert all("refused as a whole" in each.got for [each] in problems.values())


# Labels.


@pytest.mark.parametrize(
    ("states", "weights"),
    [
        (["up", "up"], [1, 1]),
        (["up", "down"], [1]),
        (["up", "draining"], [1, 0]),
        (["draining", "draining"], [1, 1]),
        (["draining", "down"], [1]),
        (["down", "down"], []),
    ],
)
def test_what_is_down_is_left_out_and_what_drains_helps_out(
    planner: Planner, states: list[str], weights: list[int]
) -> None:
    planner.found["docker"] = tuple(
        found(str(n), f"10.0.0.{n}", state) for n, state in enumerate(states)
    )
    assert list(addresses(planner.plan()).values()) == weights


def test_one_address_in_several_objects_or_the_file_is_one_endpoint(planner: Planner) -> None:
    pool = 'pools: {api: {endpoints: ["10.0.0.1:8000", "10.0.0.9:1"]}}\n'
    planner.path.write_text(FILE + pool)
    planner.found["docker"] = (
        found("a", pool="api", **{"endpoint.weight": "9"}),
        found("b", "10.0.0.2", pool="api", **{"endpoint.weight": "7"}),
        found("c", "10.0.0.2", pool="api"),
        found("d", "10.0.0.3", "down", pool="api"),
        found("e", "10.0.0.3", pool="api"),
    )
    plan = planner.plan()
    assert addresses(plan) == {"10.0.0.1:8000": 1, "10.0.0.9:1": 1, "10.0.0.2:8000": 7,
                               "10.0.0.3:8000": 1}  # fmt: skip
    assert plan.discovered.problems["docker"] == {}


def test_the_word_of_the_older_holds_and_the_younger_waits_for_its_end(planner: Planner) -> None:
    old, new = found("z", **API), found("a", "10.0.0.2", **{**API, "pool.retries": "5"})
    other = found("b", "10.0.0.3", **{**API, "pool.retries": "6"})
    planner.found["docker"] = (old, new, other)
    plan = planner.plan()
    assert addresses(plan) == {"10.0.0.1:8000": 1, "10.0.0.2:8000": 1}, "silence agrees"
    assert list(plan.discovered.problems["docker"]) == ["container b"]
    planner.found["docker"] = (old, other)
    plan = planner.plan()
    assert addresses(plan) == {"10.0.0.1:8000": 1, "10.0.0.3:8000": 1}
    assert plan.discovered.problems["docker"] == {}


def test_pools_have_a_most_of_endpoints(planner: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weirgate.shared.config.discovered_tree.MAX_ENDPOINTS", 2)
    planner.found["docker"] = tuple(found(str(n), f"10.0.0.{n}") for n in range(4))
    plan = planner.plan()
    assert len(addresses(plan)) == 2
    assert list(plan.discovered.problems["docker"]) == ["container 2", "container 3"]


def test_an_error_of_our_own_with_one_object_is_that_object_s(
    planner: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    from weirgate.shared.config import discovered

    def fails_for_b(name: str, *rest: Any) -> Any:
        if name == "container b":
            raise ZeroDivisionError("oops")
        return read_labels(name, *rest)

    monkeypatch.setattr(discovered, "read_labels", fails_for_b)
    planner.found["docker"] = (found("a"), found("b", "10.0.0.2"))
    plan = planner.plan()
    assert addresses(plan) == {"10.0.0.1:8000": 1}
    [problem] = plan.discovered.problems["docker"]["container b"]
    assert "ZeroDivisionError: oops" in problem.render()


def test_exactly_the_keys_with_files_are_closed_to_labels() -> None:
    assert files_of("pool") == {("tls", "ca"), ("tls", "certificate", "cert"),
                                ("tls", "certificate", "key")}  # fmt: skip
    assert files_of("route") == frozenset()


def test_labels_that_have_not_changed_are_not_read_again(planner: Planner) -> None:
    loaded, reader = load(planner.path, {}), LabelReader()
    [(_, first)] = reader.read(loaded, {"docker": [found("a")]})["docker"]
    [(_, again)] = reader.read(loaded, {"docker": [found("a", "10.0.0.2")]})["docker"]
    [(_, other)] = reader.read(loaded, {"docker": [found("a", pool="x")]})["docker"]
    assert first is again
    assert other is not first


def test_a_label_is_written_as_its_source_writes_it() -> None:
    spelling = Spelling("annotation", "weirgate.io", "/")
    piece = read_labels("Service a/b", {"pol": "x", "pool": "api"}, spelling)
    assert piece.problems[0].render().startswith(
        'Service a/b: annotation weirgate.io/pol: error WG-C012: got the unknown annotation '
        '"weirgate.io/pol", wanted one of weirgate.io/enable'
    )  # fmt: skip


@pytest.mark.parametrize(
    "label",
    [
        {"pool.health.path": "/x", "pool.health.headers.x": r'"\ud800"'},
        {"route.bad.filters.0.request_headers.set.x": r'"\ud800"', "route.bad.match.path": "/b"},
    ],
)
def test_what_cannot_be_written_down_disturbs_nobody_else(
    planner: Planner, label: dict[str, str]
) -> None:
    planner.found["docker"] = (
        found("bad", "10.0.0.2", **{"pool": "bad", **label}),
        found("good"),
    )
    plan = planner.plan()
    assert addresses(plan) == {"10.0.0.1:8000": 1}


def test_a_fault_of_our_own_in_the_whole_is_found_by_trying(planner: Planner) -> None:
    def judge(loaded: Any) -> Any:
        if "bad" in loaded.config.pools:
            raise UnicodeEncodeError("utf-8", "x", 0, 1, "nobody had thought of it")
        return loaded

    written = load(planner.path, {})
    objects = {"docker": (found("good"), found("bad", "10.0.0.2", pool="bad"))}
    pieces = LabelReader().read(written, objects)
    whole, seen = with_discovered(written, pieces, judge)
    assert set(whole.config.pools) == {"api"}
    assert list(seen.problems["docker"]) == ["container bad"]


@pytest.mark.parametrize(
    "text", ['"\\nfile:/etc/passwd"', '"\\x66ile:/etc/passwd"', '"\\x24{HOME}"']
)
def test_escapes_hide_nothing(planner: Planner, text: str) -> None:
    bad = found("bad", "10.0.0.2", **{"pool": "bad", "pool.health.path": text})
    planner.found["docker"] = (bad,)
    plan = planner.plan()
    (problem,) = plan.discovered.problems["docker"]["container bad"]
    assert "file" in problem.wanted or "environment" in problem.wanted
    assert addresses(plan, "bad") == {}
