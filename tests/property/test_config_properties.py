"""Laws of the configuration: it never crashes, never leaks, and its warnings are sound."""

import copy
import ipaddress
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from weirgate.shared.config import (
    ConfigErrors,
    Problem,
    compile_snapshot,
    load,
    problems_from_native,
)
from weirgate.shared.config.match import Match, ValueRule
from weirgate.shared.config.scalars import (
    MAX_BYTES,
    MAX_DURATION,
    ByteRate,
    Rate,
    format_duration,
    format_size,
    parse_byte_rate,
    parse_duration,
    parse_rate,
    parse_size,
    to_ms,
)
from weirgate.shared.config.shadow import contains, shadowed_routes

settings.register_profile("dev", deadline=None, max_examples=100)
settings.register_profile("nightly", deadline=None, max_examples=5000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))

ROOT = Path(__file__).parents[2]
TOKEN = "q7Zk-environment-secret-q7Zk"
ENVIRON = {"TOKEN": TOKEN, "PORT": "8080", "EMPTY": "", "NOT_UTF8": "\udcff"}
SEEDS = [
    yaml.safe_load((ROOT / "tests/golden/config" / name).read_text(encoding="utf-8"))
    for name in ("listeners.yaml", "pools.yaml", "routes.yaml", "gateway.yaml", "warnings.yaml")
]


def every_key(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield str(key)
            yield from every_key(value)
    elif isinstance(node, list):
        for item in node:
            yield from every_key(item)


KEYS = sorted({key for seed in SEEDS for key in every_key(seed)} | {"include", "<<", "", "a\nb"})
WORDS = [
    "off", "auto", "tcp", "http", "udp", "0.0.0.0:80", "[::]:80", "unix:/a", "10.0.0.0/8", "app",
    "5s", "0", "10MiB", "1/s", "/", "/*", "/a/*", "*.a.example", "${TOKEN}", "x${TOKEN}", "${PORT}",
    "${EMPTY:-5s}", "${UNSET}", "${", "${NOT_UTF8}", "file:nowhere",
    "file:${TOKEN}", "${TOKEN}/*.yaml",
    "GET", "200-399", "https://{host}{path}", "\0", "\ud83d\ude00", "a\r\nb",
    "bücher.example", "*.☃.example",
]  # fmt: skip
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-2, 600),
    st.floats(),
    st.sampled_from(WORDS),
    st.text(max_size=20),
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    ),
    max_leaves=20,
)


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items: Any = ()
    if isinstance(node, dict):
        items = node.items()
    elif isinstance(node, list):
        items = enumerate(node)
    for step, child in items:
        yield from places(child, (*path, step))


@st.composite
def nearly_good(draw: st.DrawFn) -> Any:
    """A good configuration with some of its nodes replaced, removed or added."""
    data = copy.deepcopy(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 4))):
        *parents, last = draw(st.sampled_from([p for p in places(data) if p] or [("listeners",)]))
        node = data
        for step in parents:
            node = node[step]
        change = draw(st.sampled_from(["replace", "remove", "add"]))
        if change == "remove":
            del node[last]
        elif change == "add" and isinstance(node, dict):
            node[draw(st.sampled_from(KEYS))] = draw(TREES)
        else:
            node[last] = draw(TREES)
    return data


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("config")


def run(directory: Path, text: str) -> str:
    """Load and compile; return all that would be shown."""
    path = directory / "weirgate.yaml"
    path.write_text(text, encoding="utf-8", errors="replace", newline="")
    refused: list[Problem] = []
    shown = ""
    try:
        loaded = load(path, ENVIRON)
        shown = repr(loaded.warnings)
        findings = [("routes.0.match.paths.0.value", "no"), ("pools.0.limits", "no"), ("x", "no")]
        shown += repr([p.render() for p in problems_from_native(loaded, findings)])
        snapshot = compile_snapshot(loaded, cookie_secret="00" * 32)
    except ConfigErrors as error:
        refused = error.problems
    else:
        assert json.loads(snapshot.data) == snapshot.value
        return shown
    assert refused
    assert all(p.line >= 1 and p.column >= 1 and p.wanted for p in refused)
    return shown + "".join(problem.render() for problem in refused)


@given(data=TREES)
def test_no_tree_raises_anything_but_config_errors(directory: Path, data: Any) -> None:
    run(directory, yaml.safe_dump(data, allow_unicode=True))


@given(data=nearly_good())
def test_no_mistake_in_a_good_configuration_raises_anything_else_or_shows_the_environment(
    directory: Path, data: Any
) -> None:
    assert TOKEN not in run(directory, yaml.safe_dump(data, allow_unicode=True, sort_keys=False))


@given(text=st.one_of(st.text(), st.text(alphabet="ab:- \n\t{}[],&*!?|>'\"#%@<${}0", max_size=80)))
def test_no_text_raises_anything_but_config_errors(directory: Path, text: str) -> None:
    run(directory, text)


@given(data=st.binary(max_size=80))
def test_no_bytes_raise_anything_but_config_errors(directory: Path, data: bytes) -> None:
    path = directory / "bytes.yaml"
    path.write_bytes(data)
    with pytest.raises(ConfigErrors):
        load(path, ENVIRON)


@given(st.timedeltas(min_value=MAX_DURATION * 0, max_value=MAX_DURATION))
def test_durations_survive_being_written(value: Any) -> None:
    text = format_duration(value)
    parsed = parse_duration(text)
    assert parsed is not None
    assert to_ms(parsed) == to_ms(value)
    assert format_duration(parsed) == text


@given(st.integers(0, MAX_BYTES))
def test_sizes_survive_being_written(value: int) -> None:
    assert parse_size(format_size(value)) == value
    assert parse_size(str(value)) == value


@given(st.integers(1, 10**9), st.sampled_from("smh"))
def test_rates_survive_being_written(count: int, unit: str) -> None:
    rate = Rate(count, unit)
    assert parse_rate(str(rate)) == rate
    assert rate.burst >= max(1.0, rate.per_second)


@given(st.integers(1, MAX_BYTES), st.sampled_from("smh"))
def test_byte_rates_survive_being_written(size_bytes: int, unit: str) -> None:
    rate = ByteRate(size_bytes, unit)
    assert parse_byte_rate(str(rate)) == rate
    assert rate.burst_bytes >= max(65_536, rate.per_second)


# Small vocabularies, so that matches and requests meet.
HOSTS = ["a.example", "b.a.example", "c.b.a.example", "example", "*.example", "*.a.example"]
PATHS = ["/", "/x", "/x/", "/x/y", "/xy", "/x/y/z"]
PATTERNS = [*PATHS, "/*", "/x/*", "/x/y/*", {"regex": "^/x"}, {"regex": "y$"}]
METHODS = ["GET", "POST"]
NETWORKS = ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "2001:db8::/32", "2001:db8::1/128"]
SOURCES = ["10.1.2.3", "10.9.9.9", "192.0.2.1", "2001:db8::1", "2001:db8::2"]
LISTENERS = ["plain", "secure"]
VALUES = ["", "g", "go", "gold"]
KINDS = st.one_of(
    st.tuples(st.just("exact"), st.sampled_from(VALUES)),
    st.tuples(st.just("prefix"), st.sampled_from(VALUES[1:])),
    st.tuples(st.just("regex"), st.sampled_from(["g", "go", "old$"])),
    st.tuples(st.just("present"), st.booleans()),
)
RULES = st.one_of(
    st.sampled_from(VALUES),
    st.booleans(),
    st.builds(lambda kind, negate: {kind[0]: kind[1], "not": negate}, KINDS, st.booleans()),
)


def some(values: list[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.sampled_from(values), max_size=3)


FINGERPRINTS = ["ab" * 32, "cd" * 32, "ef" * 32]
CERTIFICATES = st.one_of(
    st.just("present"),
    st.fixed_dictionaries(
        {}, optional={"subject": RULES, "san": RULES, "fingerprint": some(FINGERPRINTS)}
    ),
)
NAMED_RULES = st.dictionaries(st.sampled_from(["a", "b"]), RULES, max_size=2)
MATCHES = st.builds(
    Match.model_validate,
    st.fixed_dictionaries(
        {},
        optional={
            "host": some(HOSTS),
            "path": some(PATTERNS),
            "method": some(METHODS),
            "header": NAMED_RULES,
            "query": NAMED_RULES,
            "cookie": NAMED_RULES,
            "source": some(NETWORKS),
            "listener": some(LISTENERS),
            "client_certificate": CERTIFICATES,
        },
    ),
)


@dataclass(frozen=True)
class Request:
    """What a naive matcher looks at."""

    host: str
    path: str
    method: str
    source: str
    listener: str
    header: dict[str, str]
    query: dict[str, str]
    cookie: dict[str, str]
    #: Subject, alternative name (at most one here) and fingerprint.
    certificate: tuple[str, str | None, str] | None


PRESENT = st.dictionaries(st.sampled_from(["a", "b"]), st.sampled_from(VALUES), max_size=2)
REQUESTS = st.builds(
    Request,
    st.sampled_from([host for host in HOSTS if "*" not in host]),
    st.sampled_from(PATHS),
    st.sampled_from(METHODS),
    st.sampled_from(SOURCES),
    st.sampled_from(LISTENERS),
    PRESENT,
    PRESENT,
    PRESENT,
    st.none()
    | st.tuples(
        st.sampled_from(VALUES),
        st.none() | st.sampled_from(VALUES),
        st.sampled_from(FINGERPRINTS),
    ),
)


def host_matches(pattern: str, host: str) -> bool:
    return host.endswith(pattern[1:]) if pattern.startswith("*") else host == pattern


def path_matches(kind: str, value: str, path: str) -> bool:
    if kind == "regex":
        return re.search(value, path) is not None
    if kind == "prefix":
        return path == value or path.startswith(value + "/")
    return path == value


def rule_matches(rule: ValueRule, value: str | None) -> bool:
    holds = value is not None
    if value is not None and rule.exact is not None:
        holds = value == rule.exact
    elif value is not None and rule.prefix is not None:
        holds = value.startswith(rule.prefix)
    elif value is not None and rule.regex is not None:
        holds = re.search(rule.regex, value) is not None
    elif rule.present is False:
        holds = value is None
    return holds != rule.negate


def certificate_matches(match: Match, shown: tuple[str, str | None, str] | None) -> bool:
    wanted = match.client_certificate
    if wanted is None or shown is None:
        return wanted is None
    subject, name, fingerprint = shown
    return (
        (wanted.subject is None or rule_matches(wanted.subject, subject))
        and (wanted.san is None or rule_matches(wanted.san, name))
        and (not wanted.fingerprint or fingerprint in wanted.fingerprint)
    )


def matches(match: Match, request: Request) -> bool:
    """The naive matcher, written from contracts.md."""
    address = ipaddress.ip_address(request.source)
    named = [
        (match.header, request.header),
        (match.query, request.query),
        (match.cookie, request.cookie),
    ]
    return (
        (not match.host or any(host_matches(host, request.host) for host in match.host))
        and (not match.path or any(path_matches(p.kind, p.value, request.path) for p in match.path))
        and (not match.method or request.method in match.method)
        and (not match.source or any(address in ipaddress.ip_network(n) for n in match.source))
        and (not match.listener or request.listener in match.listener)
        and all(rule_matches(r, have.get(n)) for rules, have in named for n, r in rules.items())
        and certificate_matches(match, request.certificate)
    )


@settings(max_examples=500)
@given(MATCHES, MATCHES, st.lists(REQUESTS, min_size=10, max_size=30))
def test_what_contains_another_match_matches_all_that_it_matches(
    outer: Match, inner: Match, requests: list[Request]
) -> None:
    if contains(outer, inner):
        assert all(matches(outer, request) for request in requests if matches(inner, request))


@given(MATCHES)
def test_every_match_contains_itself_and_is_in_the_empty_one(match: Match) -> None:
    assert contains(match, match)
    assert contains(Match(), match)


@given(st.lists(MATCHES, max_size=8), st.lists(REQUESTS, max_size=20))
def test_a_route_that_is_called_shadowed_never_gets_a_request(
    routes: list[Match], requests: list[Request]
) -> None:
    shadowed = dict(shadowed_routes(routes))
    for request in requests:
        first = next((i for i, match in enumerate(routes) if matches(match, request)), None)
        assert first not in shadowed


@given(st.lists(MATCHES, max_size=8))
def test_the_index_finds_what_comparing_all_pairs_finds(routes: list[Match]) -> None:
    pairs = {
        later
        for later, inner in enumerate(routes)
        if any(contains(outer, inner) for outer in routes[:later])
    }
    assert {later for later, _ in shadowed_routes(routes)} == pairs
