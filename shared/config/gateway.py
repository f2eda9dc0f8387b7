"""The ``gateway``, ``edge``, ``logs``, ``admin`` and ``drain`` sections: the processes."""

import os
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from weirgate.shared.config import codes
from weirgate.shared.config.addresses import AdminBind
from weirgate.shared.config.base import KIND, Section, refusal
from weirgate.shared.config.nodes import GatewayNodes
from weirgate.shared.config.scalars import (
    AbsolutePath,
    ByteSize,
    Duration,
    FileName,
    Name,
    PositiveDuration,
    Secret,
    Token,
    duration,
)
from weirgate.shared.config.suggest import explain_word

MAX_WORKERS = 256
MAX_EDGES = 16
_STREAMS = ("off", "stdout", "stderr")


def _one_per_cpu() -> int:
    return min(len(os.sched_getaffinity(0)), MAX_WORKERS)


def _workers(value: Any) -> int:
    if value == "auto":
        return _one_per_cpu()
    if isinstance(value, int) and not isinstance(value, bool):
        if 1 <= value <= MAX_WORKERS:
            return value
        raise refusal(codes.RANGE, f'"auto" or a number from 1 to {MAX_WORKERS}')
    raise refusal(codes.TYPE, f'"auto" or a number from 1 to {MAX_WORKERS}')


def _log_target(text: str) -> str:
    if text not in _STREAMS and ("/" not in text or "\0" in text):
        wanted = "off, stdout, stderr or the path of a file (with a / in it)"
        raise refusal(codes.PATH, wanted, explain_word(text, _STREAMS))
    return text


class GatewayLimits(Section):
    """Bounds for every request, before a route is known."""

    header_bytes: Annotated[ByteSize, Field(ge=256, le=16 * 2**20)] = Field(
        default=32 * 2**10,
        description="Longest head of a request; beyond it 431. A connection can hold so much "
        "memory before it is known to be good. A response's head may have 64 KiB; beyond it 502.",
    )
    header_count: Annotated[int, Field(ge=1, le=256)] = Field(
        default=100, description="Most header lines in a request's head; beyond it 431."
    )
    uri_bytes: Annotated[ByteSize, Field(ge=64, le=16 * 2**20)] = Field(
        default=8 * 2**10, description="Longest request target; beyond it 414."
    )
    body_bytes: ByteSize = Field(
        default=2**30,
        description="Longest request body; beyond it 413. 0 = no limit. Bodies are streamed, so "
        "this protects the endpoints' disks rather than memory here.",
    )


class GatewayTimeouts(Section):
    """Times for every connection; a route has some of its own."""

    request_head: Duration = Field(
        default=duration("10s"),
        description="For a whole request head, from its first byte. Stops slow-loris clients.",
    )
    idle: Duration = Field(
        default=duration("60s"),
        description="Between two requests of a client's connection. Longer saves handshakes and "
        "costs memory.",
    )
    tls_handshake: Duration = Field(
        default=duration("10s"), description="For a client's TLS handshake."
    )
    response_head: Duration = Field(
        default=duration("60s"),
        description="From the request sent to the response's head. Then 504.",
    )
    between_bytes: Duration = Field(
        default=duration("60s"),
        description="Between two pieces of a body, in either direction.",
    )
    total: Duration = Field(
        default=duration("0"),
        description="For the whole exchange. 0 = no limit: a long download is no failure.",
    )
    upgrade_idle: Duration = Field(
        default=duration("1h"),
        description="For an upgraded connection (WebSocket), an event stream or a gRPC call "
        "without a byte in either direction. These are not held to `between_bytes`, and a gRPC "
        "call is not held to `response_head`: silence is no failure there.",
    )
    upgrade_total: Duration = Field(
        default=duration("0"),
        description="How long an upgraded connection (WebSocket) may last. 0 = without end.",
    )
    connection_age: Duration = Field(
        default=duration("0"),
        description="How old a client's connection may get, less up to a tenth by chance so that "
        "those opened together do not all come back together. Then the client is told that it "
        "takes no further request (`Connection: close`, or GOAWAY), and what is open may end. "
        "Spreads long-lived connections over gateways anew. 0 = any age.",
    )


class Paths(Section):
    """How request paths are normalised: what is matched is what is forwarded.

    Dot segments, plain or encoded, are always removed; a path above the root is refused.
    """

    merge_slashes: bool = Field(
        default=False,
        description="true: `//a///b` is `/a/b`. For applications that do so themselves: otherwise "
        "`//admin` passes a route for `/admin` and reaches it all the same.",
    )
    encoded_slashes: Literal["keep", "reject", "decode"] = Field(
        default="keep",
        description="`%2F` in a path: `keep` (a byte of its segment, forwarded as it came), "
        "`reject` (400) or `decode` (a slash, for matching and forwarding). For applications that "
        "decode before they look, `keep` lets `/public%2F..%2Fadmin` pass a route for `/public/*`.",
    )


_WINDOW = Field(ge=65_535, le=2**31 - 1)


class Http2(Section):
    """HTTP/2 from clients. It is offered where a listener's `tls.alpn` has `h2`."""

    cleartext: bool = Field(
        default=True,
        description="Take HTTP/2 without TLS from clients that begin with it (prior knowledge, "
        "RFC 9113 §3.3). An upgrade from HTTP/1.1 is never taken.",
    )
    streams: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=100, description="Most requests at once on one connection."
    )
    stream_window: Annotated[ByteSize, _WINDOW] = Field(
        default=256 * 2**10,
        description="Bytes of a request's body that a client may send before the endpoint has "
        "taken any. More is faster over long distances; every stream can hold so much memory.",
    )
    connection_window: Annotated[ByteSize, _WINDOW] = Field(
        default=2**20, description="The same for all requests of a connection together."
    )
    control_frames: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        default=500,
        description="PING, SETTINGS, PRIORITY, RST_STREAM and other frames that move nothing, in a "
        "second on average, with bursts of four times as many. Beyond it the connection is closed "
        "(ENHANCE_YOUR_CALM, `http2_flood`). Stops rapid resets and the like. 0 = no limit.",
    )
    extended_connect: bool = Field(
        default=True,
        description="Take WebSocket over HTTP/2 (RFC 8441) from clients. No other use of CONNECT "
        "is ever taken.",
    )
    ping_interval: Duration = Field(
        default=duration("60s"),
        description="After so long without a frame from a client or an endpoint it is asked by "
        "PING whether it is still there. Finds vanished ones under long calls. 0 = never.",
    )
    ping_timeout: PositiveDuration = Field(
        default=duration("20s"),
        description="For the answer; without one the connection is closed.",
    )


class Attach(Section):
    """Gateways in other containers of this host, which attach themselves."""

    socket: AbsolutePath = Field(
        description="A Unix socket that `weirgate up` makes, in a directory that the containers "
        "share. `weirgate attach SOCKET` in another container runs one gateway for this node. Only "
        "processes of the same user (or root) are let in: they are given private keys. "
        "`run_directory` must be shared, too; its default is `node` beside the socket.",
    )
    seats: Annotated[int, Field(ge=1, le=MAX_WORKERS)] = Field(
        default=16, description="How many may attach at once. One more is refused."
    )


class Gateway(Section):
    """The L7 tier."""

    workers: Annotated[
        int,
        BeforeValidator(_workers),
        WithJsonSchema({"anyOf": [{"const": "auto"}, {"type": "integer"}], KIND: "workers"}),
    ] = Field(
        default_factory=_one_per_cpu,
        description="Gateway processes, one data-plane thread each. Default: `auto`, one per CPU "
        "that this process may use.",
    )
    attach: Attach | None = Field(
        default=None,
        description="Instead of `workers` processes here: gateways that run in other containers of "
        "this host. They get the clients' sockets as those do, and keep them when the edge's "
        "container is replaced. Read by `weirgate up` only.",
    )
    limits: GatewayLimits = Field(default=GatewayLimits(), description="Bounds.")
    timeouts: GatewayTimeouts = Field(default=GatewayTimeouts(), description="Times.")
    paths: Paths = Field(default=Paths(), description="How paths are normalised.")
    http2: Http2 = Field(default=Http2(), description="HTTP/2 from clients.")
    cookie_secret: Secret | None = Field(
        default=None,
        description="64 hex digits that sign sticky cookies, or `file:/path`. Set it where several "
        "nodes serve the same clients. Default: random, so cookies end with the supervisor.",
    )
    danger_key_log: FileName | None = Field(
        default=None,
        description="A file to which the keys of all clients' TLS connections are appended, in the "
        "form that Wireshark reads (NSS), for the search of a fault. Whoever reads it reads what "
        "was sent. It is made for its owner alone (0600); remove it afterwards. Default: none.",
    )
    nodes: GatewayNodes | None = Field(
        default=None,
        description="Gateways on hosts of their own: read by `weirgate edge` and `weirgate "
        "gateway`, which run one tier each from the same file. `weirgate up` runs both tiers here "
        "and does not look at it.",
    )

    @model_validator(mode="after")
    def _who_runs_gateways(self) -> Self:
        if self.attach is not None and "workers" in self.model_fields_set:
            raise refusal(codes.ATTACH, "workers or attach, not both")
        return self


class Edge(Section):
    """The L4 tier."""

    workers: Annotated[int, Field(ge=1, le=MAX_EDGES)] = Field(
        default=1,
        description="Edge processes that accept from the same listeners; those of UDP are the "
        "first one's. One is enough for what is handed to gateways on the same host. Limits hold "
        "for all together; `least_connections` and ejection see what their own process does.",
    )


class AccessLog(Section):
    """One line for each request."""

    to: Annotated[str, AfterValidator(_log_target)] = Field(
        default="stdout",
        description="`off`, `stdout`, `stderr` or a file's path (relative to the configuration).",
    )
    format: Literal["json", "combined"] = Field(
        default="json",
        description="`json` has every field; `combined` is what log tools of old understand.",
    )


class Logs(Section):
    """What is written down."""

    access: AccessLog = Field(default=AccessLog(), description="The access log.")
    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least important message of the processes' own log."
    )


class Admin(Section):
    """The supervisor's API and metrics."""

    bind: AdminBind = Field(
        default="127.0.0.1:9900",
        description="`IP:port`, or `off`. Whoever reaches it may reload and read "
        "everything: with anything but loopback and no `token`, the supervisor refuses to run.",
    )
    token: Token | None = Field(
        default=None,
        description="What every call but `/health` must carry as `Authorization: Bearer ...`, "
        "metrics too. None = whoever reaches the address may call.",
    )


class Drain(Section):
    """How old work is finished when a process ends or is replaced."""

    timeout: Duration = Field(
        default=duration("30s"),
        description="What is not finished by then is closed. 0 = wait without end.",
    )
    idle: Duration = Field(
        default=duration("2s"),
        description="A client's HTTP/1 connection without a request for so long is closed; one "
        "used later is told so by its next answer. A request that is on its way when the "
        "connection is closed is lost, so longer is kinder to busy clients that do not ask twice, "
        "and keeps the process for longer, up to `timeout`. 0 = closed at once. HTTP/2 has a "
        "notice of its own.",
    )


class Node(Section):
    """Where this node is."""

    zone: Name | None = Field(
        default=None,
        description="Its zone: endpoints with the same `zone` come first. `${ZONE}` lets the nodes "
        "of all zones share one file. Default: zones do not matter.",
    )
