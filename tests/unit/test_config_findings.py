"""What the data plane finds in a snapshot is shown where the user wrote it."""

from pathlib import Path

import pytest

from weirgate.shared.config import load, problems_from_native

TEXT = """\
listeners:
  web:
    bind: ["127.0.0.1:8080", "127.0.0.1:8081"]
    proxy_protocol: {from: [10.0.0.0/8]}
  mixed:
    bind: "127.0.0.1:8443"
    protocol: tls
    sni: {a.example: first, "*.b.example": first}
    default: first
    hello_timeout: 1s
    connections_per_source: 1
pools:
  first: {endpoints: ["10.0.0.1:80"]}
  second:
    endpoints: ["10.0.0.1:80", {address: "10.0.0.2:80", weight: 2}]
    limits: {idle_connections: 3}
    tls: {danger_skip_verify: true}
    health: {path: /, expect: {status: 200}, jitter: 3}
routes:
  - match: {path: /only, host: [a.example, b.example]}
    filters: [{sticky: {max_age: 1h}}, {request_headers: {set: {X-A: b}}}]
    limits: {body_bytes: 1KiB}
    pool: first
  - {match: {query: {q: {regex: "["}}}, respond: {status: 200}}
  - {pool: second}
  - {match: {grpc: [shop.Cart, shop.Order/Pay]}, pool: second}
gateway: {limits: {uri_bytes: 1KiB}, timeouts: {idle: 1s}}
logs: {access: {format: json}}
"""


@pytest.mark.parametrize(
    ("path", "written", "line"),
    [
        ("listeners.0.bind.1", "listeners.web.bind[1]", 3),
        ("listeners.0.accept_proxy_from.0", "listeners.web.proxy_protocol", 4),
        ("listeners.0.idle_timeout_ms", "listeners.web", 3),
        ("listeners.9", "listeners", 2),
        ("listeners.1.server_names.pools.a.example", 'listeners.mixed.sni["a.example"]', 8),
        ("listeners.1.server_names.pools.*.b.example", 'listeners.mixed.sni["*.b.example"]', 8),
        ("listeners.1.server_names.default.pool", "listeners.mixed.default", 9),
        ("listeners.1.hello_timeout_ms", "listeners.mixed.hello_timeout", 10),
        ("pools.1.endpoints.1.address", "pools.second.endpoints[1].address", 15),
        ("pools.1.endpoints.0.address", "pools.second.endpoints[0]", 15),
        ("pools.1.max_idle_connections", "pools.second.limits.idle_connections", 16),
        ("pools.1.tls.verify", "pools.second.tls.danger_skip_verify", 17),
        ("pools.1.health.expect_status.0", "pools.second.health.expect.status", 18),
        ("pools.1.health.jitter_percent", "pools.second.health.jitter", 18),
        ("routes.0.match.paths.0.value", "routes[0].match.path", 20),
        ("routes.3.match.paths.1.value", "routes[3].match.grpc[1]", 26),
        ("routes.3.match.methods.0", "routes[3].match", 26),
        ("routes.0.match.hosts.1", "routes[0].match.host[1]", 20),
        ("routes.0.filters.0.max_age_ms", "routes[0].filters[0].sticky.max_age", 21),
        ("routes.0.filters.1.set.0.1", "routes[0].filters[1].request_headers.set", 21),
        ("routes.0.filters.7.set", "routes[0].filters", 21),
        ("routes.0.body_bytes", "routes[0].limits.body_bytes", 22),
        ("routes.0.action.pool", "routes[0].pool", 23),
        ("routes.1.match.queries.0.value", "routes[1].match.query.q.regex", 24),
        ("routes.1.action.status", "routes[1].respond.status", 24),
        ("routes.77.match", "routes", 20),
        ("gateway.uri_bytes", "gateway.limits.uri_bytes", 27),
        ("gateway.idle_ms", "gateway.timeouts.idle", 27),
        ("logs.access_format", "logs.access.format", 28),
        ("", "", 1),
    ],
)
def test_a_finding_is_placed_at_the_closest_written_node(
    tmp_path: Path, path: str, written: str, line: int
) -> None:
    file = tmp_path / "weirgate.yaml"
    file.write_text(TEXT, encoding="utf-8")
    (problem,) = problems_from_native(load(file, {}), [(path, "no good")])
    assert (problem.path, problem.line, problem.code) == (written, line, "WG-C060")
    assert "no good" in problem.got


def test_two_findings_at_one_place_are_both_kept(tmp_path: Path) -> None:
    file = tmp_path / "weirgate.yaml"
    file.write_text(TEXT, encoding="utf-8")
    findings = [("routes.0.match.hosts.0", "one"), ("routes.0.match.hosts.0", "two")]
    problems = problems_from_native(load(file, {}), findings)
    assert [problem.got for problem in problems] == ["one", "two"]
