"""The listeners' part of the snapshot."""

from datetime import timedelta
from typing import Any

from weirgate.shared.config.certificates import CertificateFiles
from weirgate.shared.config.listeners import Listener
from weirgate.shared.config.lists import PrefixFiles
from weirgate.shared.config.loader import Loaded
from weirgate.shared.config.nodes import LISTENER, Role
from weirgate.shared.config.scalars import ByteRate, Rate, duration, to_ms
from weirgate.shared.config.sockets import socket_options
from weirgate.shared.config.sources import SourcePrefix

_STREAM_IDLE_TIMEOUT = duration("10m")
_SESSION_IDLE_TIMEOUT = duration("1m")


def compile_listeners(
    loaded: Loaded, certificates: CertificateFiles, lists: PrefixFiles
) -> list[dict[str, Any]]:
    """Compile every listener; files that are wrong are reported."""
    return [
        _listener(name, listener, certificates, lists) | _from_edges(loaded, name)
        for name, listener in loaded.config.listeners.items()
    ]


def _from_edges(loaded: Loaded, listener: str) -> dict[str, Any]:
    own = loaded.role is Role.GATEWAY and listener == LISTENER
    return {"from_edges": True} if own else {}


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
        "source_prefix": source_prefix(listener.source_prefix),
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


def source_prefix(prefix: SourcePrefix) -> dict[str, int]:
    """Return how much of an address tells sources apart."""
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
