"""The ``pools`` section: endpoints, how load is spread over them, and connections to them."""

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, Field, model_validator

from weirgate.shared.config import codes
from weirgate.shared.config.addresses import EndpointAddress
from weirgate.shared.config.base import Many, Section, Shorthand, refusal
from weirgate.shared.config.health import Health
from weirgate.shared.config.pool_tls import PoolTls
from weirgate.shared.config.scalars import (
    Count,
    Duration,
    Name,
    duration,
)

Policy = Literal["round_robin", "least_request", "least_connections", "random", "maglev"]
_MAGLEV_ONLY = frozenset({"key", "ipv4_prefix", "ipv6_prefix", "max_load_percent"})
_PREFIXES = frozenset({"ipv4_prefix", "ipv6_prefix"})
MAX_QUEUE = 100_000


class Endpoint(Section):
    """One address and port of one application."""

    address: EndpointAddress = Field(
        description="`host:port`. A name is resolved by the supervisor again and again; all its "
        "addresses are used."
    )
    weight: int = Field(
        default=1,
        ge=0,
        le=256,
        description="Share of the load, relative to the others. 0 = drained: gets nothing new.",
    )
    priority: Annotated[int, Field(ge=0, le=7)] = Field(
        default=0,
        description="Those with a higher number are backups: they get traffic only when too little "
        "of the lower numbers is usable (`minimum_healthy_percent`).",
    )
    zone: Name | None = Field(
        default=None,
        description="Where it runs. With `node.zone` set, endpoints of that zone come first, as if "
        "the others of their priority were their backups. Only for zones that can each carry the "
        "load that arrives in them.",
    )


class Balance(Section):
    """How a pool chooses among its endpoints."""

    policy: Policy = Field(
        description="`least_request` (two endpoints are drawn by weight, the one with fewer "
        "requests or streams in flight wins), `least_connections` (the least loaded of all; looks "
        "at every endpoint), `round_robin` (even by number, blind to load), `random` (by weight "
        "and chance, blind to load) or `maglev` (the same client gets the same endpoint, by a "
        "consistent hash that all nodes share). All are weighted."
    )
    key: Literal["source", "source_port"] | None = Field(
        default=None,
        description="maglev: what makes two connections alike. `source`: the client's address "
        "(in a gateway: also the one that a trusted proxy names); `source_port`: that and its "
        "port, which spreads the connections of one client. Default: `source_port` for a pool that "
        "only tcp, tls and udp listeners use, without a prefix; otherwise `source`.",
    )
    ipv4_prefix: Annotated[int, Field(ge=0, le=32)] = Field(
        default=32,
        description="maglev by source: leading bits of an IPv4 address that count. 24 keeps the "
        "clients of one network together.",
    )
    ipv6_prefix: Annotated[int, Field(ge=0, le=128)] = Field(
        default=128, description="maglev by source: the same for IPv6; 56 or 64 is one household."
    )
    max_load_percent: Annotated[int, Field(ge=101, le=1000)] | None = Field(
        default=None,
        description="maglev: the most that one endpoint may have in flight, in percent of its fair "
        "share; beyond it clients go on to their next choice. 125 is usual. It looks at every "
        "endpoint, and each process counts for itself. Default: no bound.",
    )

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.policy != "maglev" and self.model_fields_set & _MAGLEV_ONLY:
            extra = min(self.model_fields_set & _MAGLEV_ONLY)
            raise refusal(codes.BALANCE, f"{extra} only with policy: maglev")
        if self.key == "source_port" and self.model_fields_set & _PREFIXES:
            extra = min(self.model_fields_set & _PREFIXES)
            raise refusal(codes.BALANCE, f"{extra} only with key: source")
        return self


class Eject(Section):
    """When failed connections take an endpoint out, each process for itself."""

    max_percent: Annotated[int, Field(ge=0, le=100)] = Field(
        default=50,
        description="The most of the pool's endpoints that may be out at once, though one always "
        "may; the others stay in, failing or not, until a health check takes them out. 0 = none "
        "is ever ejected.",
    )
    early_close: Duration = Field(
        default=duration("0"),
        description="tcp listeners: an endpoint that ends a stream within this time, before it "
        "sent a byte and while the client was still there, has failed; the third in a row ejects "
        "it. Finds applications that are dead behind a proxy that accepts. 0 = not counted: "
        "where endpoints hang up on bad clients, those could eject them.",
    )


class PoolLimits(Section):
    """Bounds on connections, per endpoint and process (each gateway, and the edge)."""

    connections: Count = Field(
        default=0,
        description="Open at once to one endpoint. 0 = no limit. At the limit the next endpoint is "
        "taken; if all that are up are full, requests and connections wait in the `queue`, and "
        "UDP sessions are refused.",
    )
    idle_connections: Count = Field(
        default=256,
        description="Kept open for reuse; 0 = none. More saves handshakes and costs a descriptor "
        "each, here and there. HTTP/2 connections are kept whatever it says.",
    )
    streams: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=100,
        description="Requests at once on one HTTP/2 connection, less if the endpoint says so; "
        "beyond them a further connection is opened. Fewer spread one client's load over more of "
        "the endpoint's workers.",
    )
    requests: Count = Field(
        default=0,
        description="Requests that one connection carries; then it is replaced. 0 = any number.",
    )


class PoolQueue(Section):
    """Where requests, and connections of tcp and tls listeners, wait for a place at an endpoint."""

    size: Annotated[int, Field(ge=0, le=MAX_QUEUE)] = Field(
        default=1024,
        description="How many may wait, in each process. Further ones are refused at once: 503, "
        "or a reset. 0 = nobody waits. Each that waits holds a descriptor.",
    )
    timeout: Duration | None = Field(
        default=None,
        description="How long one waits; then it is refused, too. 0 = as long as the client does. "
        "Default: the pool's `connect_timeout`.",
    )


def _off(value: Any) -> Any:
    return None if value == "off" else value


def _endpoint(value: Any) -> Any:
    return {"address": value} if isinstance(value, str) else value


def _balance(value: Any) -> Any:
    return {"policy": value} if isinstance(value, str) else value


BalanceItem = Annotated[
    Balance, BeforeValidator(_balance), Shorthand({"enum": list(get_args(Policy))})
]
EndpointItem = Annotated[Endpoint, BeforeValidator(_endpoint), Shorthand({"type": "string"})]


class Pool(Section):
    """A named set of endpoints that can stand in for each other."""

    endpoints: Many[EndpointItem] = Field(
        description='`"host:port"`, or `{address, weight, …}`. May be empty: every request is then '
        "answered with 503."
    )
    balance: BalanceItem | None = Field(
        default=None,
        description="A policy, or `{policy: …}` with its settings. Default: `least_connections` "
        "for a pool that only tcp, tls and udp listeners use, otherwise `least_request`.",
    )
    minimum_healthy_percent: Annotated[int, Field(ge=0, le=100)] = Field(
        default=50,
        description="With priorities or zones: when less than this of the weight of the first "
        "endpoints is usable, the next ones share the load with them, until it is reached. 0 = "
        "only when none is left.",
    )
    slow_start: Duration = Field(
        default=duration("0"),
        description="How long the share of an endpoint grows, from a tenth to the whole, after it "
        "came from down to up or joined a running pool. For applications that must warm up. "
        "0 = none. Not with maglev, where it would move clients twice.",
    )
    eject: Eject = Field(
        default=Eject(), description="When failed connections take an endpoint out."
    )
    all_down: Literal["fail_open", "fail_closed"] = Field(
        default="fail_open",
        description="When the checks say that all are down: `fail_open` sends to all (checks can "
        "be wrong), `fail_closed` answers 503.",
    )
    on_down: Literal["keep", "close"] = Field(
        default="keep",
        description="Established streams of `tcp` listeners when the checks say that their "
        "endpoint is down: `keep` lets them go on (a check can be wrong), `close` resets them, so "
        "that clients come back to another endpoint at once.",
    )
    connect_timeout: Duration = Field(
        default=duration("2s"),
        description="For each address of an endpoint; a TLS handshake has twice that on top. Then "
        "the next endpoint is tried.",
    )
    retries: Annotated[int, Field(ge=0, le=10)] = Field(
        default=2,
        description="Further endpoints tried when the request provably never reached one. A GET, "
        "HEAD or OPTIONS without a body is also sent again when not a byte of an answer had come.",
    )
    limits: PoolLimits = Field(default=PoolLimits(), description="Bounds on connections.")
    queue: PoolQueue = Field(
        default=PoolQueue(),
        description="With `limits.connections`: who waits for a place when all endpoints are full, "
        "those of tcp and tls listeners first come, first served.",
    )
    idle_timeout: Duration = Field(
        default=duration("30s"),
        description="How long an unused connection is kept. Stay below the endpoints' own "
        "keep-alive timeout.",
    )
    connection_age: Duration = Field(
        default=duration("0"),
        description="How old a connection may get; then it takes no further request and ends with "
        "its last one. Lets endpoints behind a name or a balancer of their own get their share of "
        "long-lived connections. 0 = any age.",
    )
    protocol: Literal["http1", "h2", "h2c", "auto"] = Field(
        default="http1",
        description="What its endpoints speak, for routes and for checks by HTTP: `http1`, `h2` "
        "(HTTP/2 under TLS), `h2c` (HTTP/2 in cleartext, with prior knowledge) or `auto` (what the "
        "endpoint chooses in the TLS handshake; WebSocket goes over HTTP/1.1). gRPC needs HTTP/2. "
        "With `h2` and `h2c` a WebSocket needs endpoints that take it over HTTP/2 (RFC 8441).",
    )
    tls: PoolTls | None = Field(
        default=None, description="Speak TLS with the endpoints; `{}` = with all defaults."
    )
    proxy_protocol: Literal["off", "v1", "v2"] = Field(
        default="off",
        description="Tell the endpoints who the client is, by a PROXY header in front of each "
        "connection, or (`udp`, `v2` only) of each datagram, which makes it 28 bytes longer, 52 "
        "with IPv6. Not for routes, whose connections serve many clients. On streams `v2` also "
        "tells the connection id (UNIQUE_ID), the server name (AUTHORITY) and the protocol (ALPN) "
        "where they are known, with a checksum. Checks send a header, too. The endpoints must "
        "expect one, and must take it from Weirgate only.",
    )
    health: Annotated[Health | None, BeforeValidator(_off), Shorthand({"const": "off"})] = Field(
        default=None,
        description="Active check. Without it, or `off`: none; an endpoint is taken out only for "
        "failed connects.",
    )

    @model_validator(mode="after")
    def _slow_start_with_load(self) -> Self:
        if self.balance and self.balance.policy == "maglev" and self.slow_start:
            raise refusal(codes.BALANCE, "slow_start only with another policy than maglev")
        return self

    @model_validator(mode="after")
    def _protocol_and_tls(self) -> Self:
        if self.protocol in {"h2", "auto"} and self.tls is None:
            hint = "HTTP/2 in cleartext is protocol: h2c" if self.protocol == "h2" else ""
            raise refusal(codes.POOL_PROTOCOL, f"tls: {{…}} beside protocol: {self.protocol}", hint)
        if self.protocol == "h2c" and self.tls is not None:
            raise refusal(
                codes.POOL_PROTOCOL, "no tls beside protocol: h2c", "HTTP/2 under TLS is h2"
            )
        return self

    @model_validator(mode="after")
    def _queue_for_places(self) -> Self:
        if "queue" in self.model_fields_set and not self.limits.connections:
            raise refusal(codes.QUEUE, "limits: {connections: …} beside queue")
        return self
