"""Configuration → snapshot: every default filled in, every file embedded, one hash."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from weirgate.shared.config.certificates import CertificateFiles
from weirgate.shared.config.embed import Files
from weirgate.shared.config.gateway import Gateway, Logs
from weirgate.shared.config.health import Health
from weirgate.shared.config.listeners import Listener
from weirgate.shared.config.lists import PrefixFiles
from weirgate.shared.config.loader import Loaded
from weirgate.shared.config.match import ClientCertificateMatch, Match, ValueRule
from weirgate.shared.config.nodes import LISTENER, POOL, Role
from weirgate.shared.config.pool_tls import PoolTls
from weirgate.shared.config.pools import Balance, Endpoint
from weirgate.shared.config.problem import ConfigErrors, PathStep
from weirgate.shared.config.roles import node_pool
from weirgate.shared.config.routes import Filter, HeaderEdit, Route
from weirgate.shared.config.scalars import ByteRate, Rate, duration, to_ms
from weirgate.shared.config.schema import Config, relayed_only_pools, route_name
from weirgate.shared.config.sockets import socket_options
from weirgate.shared.config.sources import SourcePrefix
from weirgate.shared.config.tree import Report
from weirgate.shared.config.watched import Signature, WatchedFiles

FORMAT = 1
_STREAM_IDLE_TIMEOUT = duration("10m")
_SESSION_IDLE_TIMEOUT = duration("1m")
_HEX_SECRET = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One compiled, immutable configuration: canonical bytes, their SHA-256, and the value."""

    data: bytes = field(repr=False)
    hash: str
    value: dict[str, Any] = field(repr=False, compare=False)
    #: The files that were read, as they were then.
    files: Mapping[Path, Signature] = field(default_factory=dict, repr=False, compare=False)


def compile_snapshot(loaded: Loaded, *, cookie_secret: str) -> Snapshot:
    """Compile what the data planes run; files that it names are read now.

    Args:
        loaded: A loaded configuration.
        cookie_secret: 64 hex digits, used where the configuration has none of its own.

    Raises:
        ConfigErrors: A certificate, key, authority or list cannot be read or is not one.
        ValueError: ``cookie_secret`` is not 64 lower-case hex digits.
    """
    if not _HEX_SECRET.fullmatch(cookie_secret):
        raise ValueError("cookie_secret: wanted 64 lower-case hex digits")
    config = loaded.config
    report = Report(loaded.tree)
    watched = WatchedFiles()
    files = Files(loaded.tree, report, watched)
    certificates = CertificateFiles(files, report)
    lists = PrefixFiles(loaded.tree, report, watched)
    relayed_only = relayed_only_pools(config)
    value = {
        "format": FORMAT,
        "listeners": [
            _listener(n, v, certificates, lists) | _from_edges(loaded, n)
            for n, v in config.listeners.items()
        ],
        "pools": [
            _pool(n, config, files, relayed=n in relayed_only) | _of_gateways(loaded, n)
            for n in config.pools
        ],
        "routes": [_route(config, index) for index in range(len(config.routes))],
        "gateway": _gateway(config.gateway, cookie_secret, loaded),
        "logs": _logs(config.logs, loaded),
    }
    if report.problems:
        raise ConfigErrors(report.problems, watched.seen)
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    data = text.encode()
    return Snapshot(data, hashlib.sha256(data).hexdigest(), value, watched.seen)


def endpoint_id(pool: str, address: str) -> str:
    """Return the identity that an endpoint keeps across every change."""
    return hashlib.sha256(f"{pool}\0{address}".encode()).hexdigest()[:16]


def _from_edges(loaded: Loaded, listener: str) -> dict[str, Any]:
    own = loaded.role is Role.GATEWAY and listener == LISTENER
    return {"from_edges": True} if own else {}


def _of_gateways(loaded: Loaded, pool: str) -> dict[str, Any]:
    nodes = loaded.config.gateway.nodes
    own = loaded.role is Role.EDGE and pool == POOL
    return node_pool(nodes) if own and nodes else {}


def _listener(
    name: str, listener: Listener, certificates: CertificateFiles, lists: PrefixFiles
) -> dict[str, Any]:
    proxies = listener.proxy_protocol
    return {
        "name": name,
        "bind": list(listener.bind),
        "protocol": listener.protocol,
        "pool": listener.pool,
        "server_names": _server_names(listener) if listener.protocol == "tls" else None,
        "tls": listener.tls and certificates.listener(name, listener.tls),
        "accept_proxy_from": list(proxies.sources) if proxies else [],
        "trusted_proxies": list(listener.trusted_proxies),
        "allow": lists.expand(("listeners", name, "allow"), listener.allow, needed=True),
        "deny": lists.expand(("listeners", name, "deny"), listener.deny),
        "connections_per_source": listener.connections_per_source,
        "max_connections": listener.max_connections,
        "hello_timeout_ms": to_ms(listener.hello_timeout),
        "idle_timeout_ms": to_ms(_idle_timeout(listener)),
        "connect_timeout_ms": to_ms(listener.connect_timeout),
        "new_connections": _rate(listener.new_connections),
        "new_connections_per_source": _rate(listener.new_connections_per_source),
        "datagrams_per_source": _rate(listener.datagrams_per_source),
        "bytes_in_per_source": _byte_rate(listener.bytes_in_per_source),
        "bytes_out_per_source": _byte_rate(listener.bytes_out_per_source),
        "source_prefix": _source_prefix(listener.source_prefix),
        "max_sessions": listener.max_sessions,
        "responses": listener.responses,
        "socket": None
        if listener.protocol == "udp"
        else socket_options(listener.backlog, listener.tcp),
    }


def _rate(rate: Rate | None) -> dict[str, Any] | None:
    return None if rate is None else {"per_second": rate.per_second, "burst": rate.burst}


def _byte_rate(rate: ByteRate | None) -> dict[str, Any] | None:
    if rate is None:
        return None
    return {"per_second": rate.per_second, "burst_bytes": rate.burst_bytes}


def _source_prefix(prefix: SourcePrefix) -> dict[str, int]:
    return {"ipv4": prefix.ipv4, "ipv6": prefix.ipv6}


def _idle_timeout(listener: Listener) -> timedelta:
    if listener.idle_timeout is not None:
        return listener.idle_timeout
    return _SESSION_IDLE_TIMEOUT if listener.protocol == "udp" else _STREAM_IDLE_TIMEOUT


def _server_names(listener: Listener) -> dict[str, Any]:
    default: dict[str, Any] = {"kind": "refuse"}
    if "*" in listener.terminate:
        default = {"kind": "terminate"}
    elif listener.default is not None:
        default = {"kind": "pool", "pool": listener.default}
    return {
        "pools": dict(listener.sni),
        "terminate": [name for name in listener.terminate if name != "*"],
        "default": default,
    }


def _pool(name: str, config: Config, files: Files, *, relayed: bool) -> dict[str, Any]:
    pool = config.pools[name]
    return {
        "name": name,
        "balance": _balance(pool.balance, relayed=relayed),
        "endpoints": [_endpoint(name, e, config.node.zone) for e in pool.endpoints],
        "all_down": pool.all_down,
        "on_down": pool.on_down,
        "minimum_healthy_percent": pool.minimum_healthy_percent,
        "slow_start_ms": to_ms(pool.slow_start),
        "eject": {
            "max_percent": pool.eject.max_percent,
            "early_close_ms": to_ms(pool.eject.early_close),
        },
        "connect_timeout_ms": to_ms(pool.connect_timeout),
        "retries": pool.retries,
        "max_connections": pool.limits.connections,
        "queue_size": pool.queue.size,
        "queue_timeout_ms": to_ms(
            pool.connect_timeout if pool.queue.timeout is None else pool.queue.timeout
        ),
        "max_idle_connections": pool.limits.idle_connections,
        "idle_timeout_ms": to_ms(pool.idle_timeout),
        "protocol": pool.protocol,
        "max_streams": pool.limits.streams,
        "max_requests": pool.limits.requests,
        "connection_age_ms": to_ms(pool.connection_age),
        "tls": pool.tls and _pool_tls(name, pool.tls, files),
        "proxy_protocol": pool.proxy_protocol,
        "health": pool.health and _health(pool.health),
    }


def _pool_tls(name: str, tls: PoolTls, files: Files) -> dict[str, Any]:
    path = ("pools", name, "tls")
    own = tls.certificate
    return {
        "server_name": tls.server_name,
        "ca_pem": tls.ca and files.certificate((*path, "ca"), tls.ca),
        "verify": not tls.danger_skip_verify,
        "certificate": own
        and {
            "certificate_pem": files.certificate((*path, "certificate", "cert"), own.cert),
            "key_pem": files.key((*path, "certificate", "key"), own.key),
        },
        "pins": list(tls.pins),
    }


def _balance(balance: Balance | None, *, relayed: bool) -> dict[str, Any]:
    if balance is None:
        return {"policy": "least_connections" if relayed else "least_request"}
    if balance.policy != "maglev":
        return {"policy": balance.policy}
    whole_address = balance.ipv4_prefix == 32 and balance.ipv6_prefix == 128
    return {
        "policy": "maglev",
        "key": balance.key or ("source_port" if relayed and whole_address else "source"),
        "ipv4_prefix": balance.ipv4_prefix,
        "ipv6_prefix": balance.ipv6_prefix,
        "max_load_percent": balance.max_load_percent or 0,
    }


def _endpoint(pool: str, endpoint: Endpoint, own_zone: str | None) -> dict[str, Any]:
    return {
        "id": endpoint_id(pool, endpoint.address),
        "address": endpoint.address,
        "weight": endpoint.weight,
        "priority": endpoint.priority,
        "remote": own_zone is not None and endpoint.zone != own_zone,
    }


def _health(health: Health) -> dict[str, Any]:
    common = {
        "interval_ms": to_ms(health.interval),
        "timeout_ms": to_ms(health.timeout),
        "rise": health.rise,
        "fall": health.fall,
        "jitter_percent": health.jitter,
        "port": health.port,
    }
    if health.tcp:
        return {"kind": "tcp", **common}
    if health.grpc is not None:
        headers = dict(health.headers)
        return {
            "kind": "grpc",
            "service": health.grpc,
            "host": health.host,
            "headers": headers,
            **common,
        }
    return {
        "kind": "http",
        "path": health.path,
        "method": health.method,
        "host": health.host,
        "headers": dict(health.headers),
        "expect_status": [list(r) for r in health.expect.status],
        "expect_headers": dict(health.expect.headers),
        "expect_body": health.expect.body,
        **common,
    }


def _route(config: Config, index: int) -> dict[str, Any]:
    route = config.routes[index]
    limits, timeouts = config.gateway.limits, config.gateway.timeouts

    def time_ms(key: str) -> int:
        own = getattr(route.timeouts, key)
        return to_ms(getattr(timeouts, key) if own is None else own)

    own_body = route.limits.body_bytes
    return {
        "name": route_name(config, index),
        "match": _match(route.match.spelled_out()),
        "filters": [_filter(item) for item in route.filters],
        "action": _action(route),
        "body_bytes": limits.body_bytes if own_body is None else own_body,
        "response_head_ms": time_ms("response_head"),
        "between_bytes_ms": time_ms("between_bytes"),
        "total_ms": time_ms("total"),
        "upgrade_idle_ms": time_ms("upgrade_idle"),
        "upgrade_total_ms": time_ms("upgrade_total"),
    }


def _match(match: Match) -> dict[str, Any]:
    return {
        "hosts": list(match.host),
        "paths": [{"kind": path.kind, "value": path.value} for path in match.path],
        "methods": list(match.method),
        "headers": _rules(match.header),
        "queries": _rules(match.query),
        "cookies": _rules(match.cookie),
        "sources": list(match.source),
        "client_certificate": match.client_certificate
        and _client_certificate(match.client_certificate),
    }


def _client_certificate(match: ClientCertificateMatch) -> dict[str, Any]:
    return {
        "subject": match.subject and _rule(match.subject),
        "san": match.san and _rule(match.san),
        "fingerprints": list(match.fingerprint),
    }


def _rule(rule: ValueRule) -> dict[str, Any]:
    return {"kind": rule.kind, "value": rule.value, "invert": rule.invert}


def _rules(rules: Mapping[str, ValueRule]) -> list[dict[str, Any]]:
    return [{"name": name, **_rule(rule)} for name, rule in rules.items()]


def _filter(item: Filter) -> dict[str, Any]:
    fields: dict[str, Any]
    if item.rewrite_prefix is not None:
        fields = {"prefix": item.rewrite_prefix}
    elif item.rate_limit is not None:
        rate = item.rate_limit.rate
        fields = {
            "per_second": rate.per_second,
            "burst": item.rate_limit.burst or rate.burst,
            "source_prefix": _source_prefix(item.rate_limit.source_prefix),
        }
    elif item.sticky is not None:
        sticky = item.sticky
        fields = {
            "cookie": sticky.cookie,
            "max_age_ms": to_ms(sticky.max_age),
            "secure": sticky.secure,
            "path": sticky.path,
        }
    elif item.grpc_web is not None:
        fields = {}
    else:
        fields = _header_edit(item.request_headers or item.response_headers or HeaderEdit())
    return {"kind": item.kind, **fields}


def _header_edit(edit: HeaderEdit) -> dict[str, Any]:
    return {"set": _pairs(edit.set), "add": _pairs(edit.add), "remove": list(edit.remove)}


def _pairs(headers: Mapping[str, str]) -> list[list[str]]:
    return [[name, value] for name, value in headers.items()]


def _action(route: Route) -> dict[str, Any]:
    if route.respond is not None:
        respond = route.respond
        headers = _pairs(respond.headers)
        return {
            "kind": "respond",
            "status": respond.status,
            "headers": headers,
            "body": respond.body,
        }
    if route.redirect is not None:
        redirect = route.redirect
        return {"kind": "redirect", "status": redirect.status, "location": redirect.to}
    return {"kind": "pool", "pool": route.pool}


def _gateway(gateway: Gateway, cookie_secret: str, loaded: Loaded) -> dict[str, Any]:
    own = gateway.cookie_secret
    return {
        "header_bytes": gateway.limits.header_bytes,
        "header_count": gateway.limits.header_count,
        "uri_bytes": gateway.limits.uri_bytes,
        "request_head_ms": to_ms(gateway.timeouts.request_head),
        "idle_ms": to_ms(gateway.timeouts.idle),
        "tls_handshake_ms": to_ms(gateway.timeouts.tls_handshake),
        "http2_cleartext": gateway.http2.cleartext,
        "http2_streams": gateway.http2.streams,
        "http2_stream_window_bytes": gateway.http2.stream_window,
        "http2_connection_window_bytes": gateway.http2.connection_window,
        "http2_control_frames": gateway.http2.control_frames,
        "merge_slashes": gateway.paths.merge_slashes,
        "encoded_slashes": gateway.paths.encoded_slashes,
        "http2_extended_connect": gateway.http2.extended_connect,
        "http2_ping_interval_ms": to_ms(gateway.http2.ping_interval),
        "http2_ping_timeout_ms": to_ms(gateway.http2.ping_timeout),
        "connection_age_ms": to_ms(gateway.timeouts.connection_age),
        "key_log": gateway.danger_key_log
        and _absolute(("gateway", "danger_key_log"), gateway.danger_key_log, loaded),
        "cookie_secret": cookie_secret if own is None else own.get_secret_value(),
    }


def _logs(logs: Logs, loaded: Loaded) -> dict[str, Any]:
    target = logs.access.to
    if "/" in target:
        target = _absolute(("logs", "access", "to"), target, loaded)
    return {"access_to": target, "access_format": logs.access.format, "level": logs.level}


def _absolute(path: tuple[PathStep, ...], name: str, loaded: Loaded) -> str:
    """Return the path of a file that data planes write, seen from the file that names it."""
    _, spot = loaded.tree.nearest(path)
    return str(Path.cwd() / spot.file.parent / name)
