"""Findings of the data plane, which knows the snapshot only, → problems in the user's file."""

from collections.abc import Iterator, Sequence

from weirgate.shared.config import codes
from weirgate.shared.config.loader import Loaded
from weirgate.shared.config.match import Match, ValueRule
from weirgate.shared.config.problem import PathStep, Problem
from weirgate.shared.config.schema import Config
from weirgate.shared.config.tree import Report

_WRITTEN = {
    "accept_proxy_from": "proxy_protocol",
    "ca_pem": "ca",
    "certificate_pem": "cert",
    "cookies": "cookie",
    "crl_pem": "crl",
    "headers": "header",
    "hosts": "host",
    "jitter_percent": "jitter",
    "key_pem": "key",
    "listeners": "listener",
    "location": "to",
    "methods": "method",
    "paths": "path",
    "per_second": "rate",
    "queries": "query",
    "sources": "source",
    "verify": "danger_skip_verify",
}
_IN_LIMITS = {
    "body_bytes": "body_bytes",
    "header_bytes": "header_bytes",
    "header_count": "header_count",
    "uri_bytes": "uri_bytes",
    "max_connections": "connections",
    "max_idle_connections": "idle_connections",
}
_BY_NAME = {"headers": "header", "queries": "query", "cookies": "cookie"}


def problems_from_native(loaded: Loaded, findings: Sequence[tuple[str, str]]) -> list[Problem]:
    """Give each finding, a path in the snapshot and a message, its place in the file."""
    problems = []
    for path, message in findings:
        # A report of its own: two findings at one place are both worth reading.
        report = Report(loaded.tree)
        steps = _steps(path)
        candidate = max(
            _candidates(loaded.config, steps), key=lambda p: len(loaded.tree.nearest(p)[0])
        )
        written, _ = loaded.tree.nearest(candidate)
        # A default is written nowhere: then the message alone must say which value it is.
        got = message if written else f"{path}: {message}"
        report.add(codes.NATIVE, written, got=got, wanted="what the data plane can run")
        problems += report.problems
    return problems


def _steps(path: str) -> list[PathStep]:
    return [int(step) if step.isdigit() else step for step in path.split(".") if step]


def _candidates(config: Config, steps: list[PathStep]) -> Iterator[tuple[PathStep, ...]]:
    """Yield the places where the value may be written; the deepest that exists is right."""
    yield ()
    if not steps:
        return
    head, rest = _head(config, steps)
    yield head
    for length in range(1, len(rest) + 1):
        yield from _tails(config, head, rest[:length])


def _head(config: Config, steps: list[PathStep]) -> tuple[tuple[PathStep, ...], list[PathStep]]:
    """Replace the index of a listener or pool by its name."""
    section = steps[0]
    names = list(config.listeners if section == "listeners" else config.pools)
    if section in {"listeners", "pools"} and len(steps) > 1 and isinstance(steps[1], int):
        if steps[1] < len(names):
            return (section, names[steps[1]]), steps[2:]
        return (section,), []
    if section == "routes":
        return tuple(steps[:2]), steps[2:]
    return (section,), steps[1:]


def _tails(
    config: Config, head: tuple[PathStep, ...], rest: list[PathStep]
) -> Iterator[tuple[PathStep, ...]]:
    plain = tuple(rest)
    yield (*head, *plain)
    renamed = tuple(_rename(step) for step in rest)
    yield (*head, *renamed)
    last = renamed[-1]
    key = str(rest[-1])
    if key in _IN_LIMITS:
        yield (*head, "limits", _IN_LIMITS[key])
    if key.endswith("_ms"):
        yield (*head, "timeouts", last)
    if key.startswith("expect_"):
        yield (*head, *renamed[:-1], "expect", key.removeprefix("expect_"))
    if rest[0] == "filters" and len(rest) > 1:
        yield from _in_filter(config, head, rest, renamed)
    if rest[:2] == ["match", "paths"]:
        yield (*head, "match", "grpc", *rest[2:3])
    if rest[0] == "match" and len(rest) > 2 and rest[1] in _BY_NAME:
        yield from _in_rules(config, head, rest)
    if rest[0] == "action":
        for key in ("pool", "respond", "redirect"):
            yield (*head, key, *renamed[1:])
    if rest[0] == "server_names" and len(rest) > 2:
        # A server name has dots, which separate steps.
        names = rest[1] == "pools"
        yield (*head, "sni", ".".join(map(str, rest[2:]))) if names else (*head, str(rest[1]))
    if rest[0] in {"access_to", "access_format"}:
        yield (*head, "access", str(rest[0]).removeprefix("access_"))


def _in_filter(
    config: Config, head: tuple[PathStep, ...], rest: list[PathStep], renamed: tuple[PathStep, ...]
) -> Iterator[tuple[PathStep, ...]]:
    filters = config.routes[int(head[1])].filters
    index = int(rest[1])
    if index < len(filters):
        yield (*head, "filters", index, filters[index].kind, *renamed[2:])


def _in_rules(
    config: Config, head: tuple[PathStep, ...], rest: list[PathStep]
) -> Iterator[tuple[PathStep, ...]]:
    key = _BY_NAME[str(rest[1])]
    written = _rules(config.routes[int(head[1])].match, key)
    index = int(rest[2])
    if index < len(written):
        name, rule = written[index]
        yield (*head, "match", key, name, rule.kind)


def _rules(match: Match, key: str) -> list[tuple[str, ValueRule]]:
    rules = {"header": match.header, "query": match.query, "cookie": match.cookie}
    return list(rules[key].items())


def _rename(step: PathStep) -> PathStep:
    if isinstance(step, int):
        return step
    return _WRITTEN.get(step, step.removesuffix("_ms"))
