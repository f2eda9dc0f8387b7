"""The pools' part of the snapshot, with their endpoints and health checks."""

import hashlib
from typing import Any

from weirgate.shared.config.embed import Files
from weirgate.shared.config.health import Health
from weirgate.shared.config.loader import Loaded
from weirgate.shared.config.nodes import POOL, Role
from weirgate.shared.config.pool_tls import PoolTls
from weirgate.shared.config.pools import Balance, Endpoint
from weirgate.shared.config.roles import node_pool
from weirgate.shared.config.scalars import to_ms
from weirgate.shared.config.schema import Config, relayed_only_pools


def compile_pools(loaded: Loaded, files: Files) -> list[dict[str, Any]]:
    """Compile every pool; files that are wrong are reported."""
    config = loaded.config
    relayed_only = relayed_only_pools(config)
    return [
        _pool(name, config, files, relayed=name in relayed_only) | _of_gateways(loaded, name)
        for name in config.pools
    ]


def endpoint_id(pool: str, address: str) -> str:
    """Return the identity that an endpoint keeps across every change."""
    return hashlib.sha256(f"{pool}\0{address}".encode()).hexdigest()[:16]


def _of_gateways(loaded: Loaded, pool: str) -> dict[str, Any]:
    nodes = loaded.config.gateway.nodes
    own = loaded.role is Role.EDGE and pool == POOL
    return node_pool(nodes) if own and nodes else {}


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
