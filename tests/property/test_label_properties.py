"""Laws of labels: they say what the file would say, and nonsense harms nobody but its object."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.property.test_config_properties import KEYS, ROOT, WORDS
from weirgate.shared import native
from weirgate.shared.config import (
    ConfigErrors,
    Loaded,
    compile_snapshot,
    load,
    problems_from_native,
)
from weirgate.shared.config.discovered import Discovered, LabelReader, with_discovered
from weirgate.shared.config.document import scalar
from weirgate.shared.discovery.found import Found, FoundAddress

SECRET = "00" * 32
LISTENER = 'listeners: {web: {bind: "127.0.0.1:80"}}\n'
DISCOVERY = LISTENER + "discovery: {docker: {}}\n"
GOLDEN = {
    name: yaml.safe_load((ROOT / f"tests/golden/config/{name}.yaml").read_text(encoding="utf-8"))
    for name in ("pools", "balance", "routes", "grpc")
}
#: Everything that a pool can say without naming a file, and that a route can say.
SETTINGS = [
    (key, value)
    for name in ("pools", "balance")
    for pool in GOLDEN[name]["pools"].values()
    for key, value in pool.items()
    if key not in {"endpoints", "tls"}
] + [("tls", {}), ("tls", {"server_name": "a.example"})]
ROUTES = [
    {key: value for key, value in route.items() if key not in {"name", "pool"}}
    for name in ("routes", "grpc")
    for route in GOLDEN[name]["routes"]
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("labels")


def loaded(directory: Path, text: str) -> Loaded:
    path = directory / "weirgate.yaml"
    path.write_text(text, encoding="utf-8")
    return load(path, {})


def judge(whole: Loaded) -> dict[str, Any]:
    snapshot = compile_snapshot(whole, cookie_secret=SECRET)
    refused = problems_from_native(whole, native.validate(snapshot.data))
    if refused:
        raise ConfigErrors(refused)
    return snapshot.value


def judged(directory: Path, text: str) -> tuple[dict[str, Any] | None, set[str]]:
    """Return what comes of a file, or the codes of what is wrong with it."""
    try:
        return judge(loaded(directory, text)), set()
    except ConfigErrors as error:
        return None, {problem.code for problem in error.problems}


def discover(file: Loaded, objects: list[Found]) -> tuple[dict[str, Any], Discovered]:
    return with_discovered(file, LabelReader().read(file, {"docker": objects}), judge)


def container(name: str, labels: Mapping[str, str], number: int) -> Found:
    return Found(f"container {name}", labels, (FoundAddress(f"10.0.0.{number}"),), 8000)


def flat(value: Any, path: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Write a part of a file as labels."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            assume("." not in str(key))
            yield from flat(inner, (*path, str(key)))
    elif isinstance(value, list) and value:
        for index, inner in enumerate(value):
            yield from flat(inner, (*path, str(index)))
    elif isinstance(value, str) and (scalar(value) != value or value != value.strip()):
        yield ".".join(path), json.dumps(value)
    elif isinstance(value, str):
        yield ".".join(path), value
    else:
        yield ".".join(path), json.dumps(value)


@settings(max_examples=200)
@given(
    chosen=st.lists(st.sampled_from(SETTINGS), max_size=6, unique_by=lambda item: item[0]),
    routes=st.lists(st.sampled_from(ROUTES), max_size=4),
)
def test_labels_are_the_file_in_other_words(
    directory: Path, chosen: list[tuple[str, Any]], routes: list[dict[str, Any]]
) -> None:
    pool = dict(chosen)
    named = {f"r{index}": route for index, route in enumerate(routes)}
    labels = {"pool": "app", **dict(flat(pool, ("pool",)))} if pool else {"pool": "app"}
    for name, route in named.items():
        labels |= dict(flat(route, ("route", name)))
        assume(route)
    without_action = {"respond", "redirect"}
    written = {
        **yaml.safe_load(LISTENER),
        "pools": {"app": {"endpoints": ["10.0.0.1:8000"], **pool}},
        "routes": [
            {"name": name, **({} if without_action & route.keys() else {"pool": "app"}), **route}
            for name, route in named.items()
        ],
    }
    value, discovered = discover(loaded(directory, DISCOVERY), [container("a", labels, 1)])
    problems = [p for each in discovered.problems["docker"].values() for p in each]
    errors = [p for p in problems if p.severity == "error"]
    wanted, refused = judged(directory, yaml.safe_dump(written, allow_unicode=True))
    if wanted is None:
        assert errors
        assert {p.code for p in errors} <= refused
        return
    assert errors == []
    assert value["pools"] == wanted["pools"]
    by_name = {route["name"]: route for route in value["routes"]}
    assert by_name == {route["name"]: route for route in wanted["routes"]}


NAMES = st.sampled_from(["api", "other", "x"])
KEY = st.one_of(
    st.sampled_from(KEYS), st.sampled_from(["0", "1", "17"]), st.text(max_size=6).filter(bool)
)
BEGINNINGS = st.sampled_from(
    ["pool", "port", "endpoint", "route.api", "route.x", "route", "gateway", "enable", "listeners"]
)
LABELS = st.dictionaries(
    st.one_of(
        st.sampled_from(["pool", "port", "gateway", "enable", "route.api.match.path"]),
        st.builds(lambda start, rest: ".".join([start, *rest]), BEGINNINGS, st.lists(KEY)),
    ),
    st.one_of(st.sampled_from(WORDS), NAMES, st.text(max_size=20), st.just("${HOME}")),
    max_size=8,
)
GOOD = {"pool": "api", "pool.slow_start": "1s", "route.api.match.path": "/api/*"}


@settings(max_examples=400)
@given(strange=st.lists(LABELS, max_size=3))
def test_no_labels_of_others_change_what_is_in_force(
    directory: Path, strange: list[dict[str, str]]
) -> None:
    file = loaded(directory, DISCOVERY)
    objects = [container("good", GOOD, 1)]
    objects += [container(f"odd-{n}", labels, n) for n, labels in enumerate(strange, 2)]
    value, discovered = discover(file, objects)
    [pool] = [pool for pool in value["pools"] if pool["name"] == "api"]
    assert pool["slow_start_ms"] == 1000
    assert "10.0.0.1:8000" in {endpoint["address"] for endpoint in pool["endpoints"]}
    [route] = [route for route in value["routes"] if route["name"] == "api"]
    assert route["match"]["paths"] == [{"kind": "prefix", "value": "/api"}]
    assert "container good" not in discovered.problems["docker"]
    assert value["listeners"] == judge(file)["listeners"]
    for found in discovered.problems["docker"].values():
        assert all(problem.render().startswith("container odd-") for problem in found)
