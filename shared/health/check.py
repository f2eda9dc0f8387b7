"""What one health check does, read from the snapshot's ``pools[].health``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Pairs = tuple[tuple[str, str], ...]
#: The names of the HTTP versions in ALPN (RFC 7301).
HTTP1, HTTP2 = "http/1.1", "h2"


@dataclass(frozen=True, slots=True)
class Tls:
    """How to speak TLS to an endpoint."""

    server_name: str | None
    ca_pem: str | None
    verify: bool
    #: What is shown to endpoints that ask; empty = nothing.
    certificate_pem: str = ""
    key_pem: str = field(default="", repr=False)
    #: SHA-256 of public keys, in base64; empty = any key.
    pins: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Check:
    """One pool's check; equal checks are the same check across reloads."""

    kind: str
    interval: float
    timeout: float
    rise: int
    fall: int
    jitter: float
    port: int | None
    path: str
    method: str
    host: str | None
    headers: Pairs
    expect_status: tuple[tuple[int, int], ...]
    expect_headers: Pairs
    expect_body: bytes | None
    tls: Tls | None
    proxy_protocol: str = "off"
    #: gRPC: whom to ask about; empty = the server as a whole.
    service: str = ""
    #: What the pool's endpoints speak: http1, h2, h2c, or auto for what they choose.
    protocol: str = "http1"

    @property
    def alpn(self) -> tuple[str, ...]:
        """The protocols that TLS offers, best first; none where it does not matter.

        A single one must be agreed on; of several the endpoint may choose, or choose none.
        """
        if self.kind == "grpc" or (self.kind == "http" and self.protocol == "h2"):
            return (HTTP2,)
        return (HTTP2, HTTP1) if self.kind == "http" and self.protocol == "auto" else ()


@dataclass(frozen=True, slots=True)
class Target:
    """One endpoint and the check that it gets."""

    endpoint_id: str
    address: str
    check: Check


def from_pool(pool: Mapping[str, Any]) -> Check | None:
    """Read a pool's check; None where it has no active one."""
    health = pool.get("health")
    if health is None:
        return None
    body = health.get("expect_body")
    return Check(
        kind=health["kind"],
        interval=health["interval_ms"] / 1000,
        timeout=health["timeout_ms"] / 1000,
        rise=health["rise"],
        fall=health["fall"],
        jitter=health["jitter_percent"] / 100,
        port=health.get("port"),
        path=health.get("path") or "/",
        method=health.get("method") or "GET",
        host=health.get("host"),
        headers=_pairs(health.get("headers")),
        expect_status=tuple((low, high) for low, high in health.get("expect_status") or ()),
        expect_headers=_pairs(health.get("expect_headers")),
        expect_body=body.encode() if body else None,
        tls=_tls(pool.get("tls")),
        proxy_protocol=pool.get("proxy_protocol", "off"),
        service=health.get("service") or "",
        protocol=pool.get("protocol", "http1"),
    )


def _pairs(headers: Mapping[str, str] | None) -> Pairs:
    return tuple(sorted((headers or {}).items()))


def _tls(tls: Mapping[str, Any] | None) -> Tls | None:
    if tls is None:
        return None
    own = tls.get("certificate") or {}
    return Tls(
        tls.get("server_name"),
        tls.get("ca_pem"),
        tls.get("verify", True),
        own.get("certificate_pem", ""),
        own.get("key_pem", ""),
        tuple(tls.get("pins") or ()),
    )
