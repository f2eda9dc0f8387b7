"""Options of a listener's sockets, and the form in which the supervisor gets them."""

from datetime import timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from weirgate.shared.config import codes
from weirgate.shared.config.base import Section, Shorthand, refusal
from weirgate.shared.config.scalars import (
    DURATION_FORM,
    ByteSize,
    Duration,
    PositiveDuration,
    duration,
    to_ms,
)

DEFAULT_BACKLOG = 4096
MAX_BACKLOG = 65535
MAX_FAST_OPEN = 65535
MAX_BUFFER_BYTES = 2**30
MIN_BUFFER_BYTES = 4096
_MAX_PROBE_SECONDS = 32767
_MAX_PROBES = 127
_MAX_NAME = 15


def _whole_seconds(value: timedelta) -> timedelta:
    if to_ms(value) % 1000 or value > timedelta(seconds=_MAX_PROBE_SECONDS):
        hint = "the kernel counts these in whole seconds, up to 9 hours"
        raise refusal(codes.DURATION, f"{DURATION_FORM}, in whole seconds", hint)
    return value


def _congestion(name: str) -> str:
    known = 0 < len(name) <= _MAX_NAME and name.replace("_", "").isalnum() and name.isascii()
    if not known or name.lower() != name:
        raise refusal(codes.CHOICE, "the name of a congestion control, such as cubic or bbr")
    return name


def _buffer(size: int) -> int:
    if size and not MIN_BUFFER_BYTES <= size <= MAX_BUFFER_BYTES:
        raise refusal(codes.SIZE, "0, or a size from 4KiB to 1GiB")
    return size


def _off(value: Any) -> Any:
    return None if value == "off" else value


WholeSeconds = Annotated[Duration, AfterValidator(_whole_seconds)]
ProbeSeconds = Annotated[PositiveDuration, AfterValidator(_whole_seconds)]
Buffer = Annotated[ByteSize, AfterValidator(_buffer)]


class KeepAlive(Section):
    """Probes of a client that is silent, so that one that has vanished is noticed."""

    idle: ProbeSeconds = Field(
        default=duration("2m"), description="Silence before the first probe."
    )
    interval: ProbeSeconds = Field(
        default=duration("15s"), description="Between two probes that nobody answers."
    )
    count: Annotated[int, Field(ge=1, le=_MAX_PROBES)] = Field(
        default=4, description="Probes without an answer after which the connection is reset."
    )


class ListenerTcp(Section):
    """Options of the TCP sockets on the client's side.

    A reload sets changed ones on the living listening socket; connections that are open keep
    what they were accepted with.
    """

    keepalive: Annotated[KeepAlive | None, BeforeValidator(_off), Shorthand({"const": "off"})] = (
        Field(
            default=KeepAlive(),
            description="Probes of silent clients; `off` = none. Default: on. Inherited by "
            "accepted sockets. Costs a packet each now and then, and wakes sleeping phones.",
        )
    )
    user_timeout: Duration = Field(
        default=duration("0"),
        description="How long sent data may stay unacknowledged before the connection is reset "
        "(TCP_USER_TIMEOUT). Inherited by accepted sockets. 0 = the kernel's own, some 15 minutes.",
    )
    defer_accept: WholeSeconds = Field(
        default=duration("0"),
        description="Accept a connection when the client's first bytes are there, or without any "
        "after about so long (TCP_DEFER_ACCEPT). Of the listening socket. Saves work on clients "
        "that never speak; where the server speaks first it only delays. 0 = at once.",
    )
    fast_open: Annotated[int, Field(ge=0, le=MAX_FAST_OPEN)] = Field(
        default=0,
        description="Connections that may bring data with their SYN before the handshake is done "
        "(TCP Fast Open). Of the listening socket; needs bit 2 of net.ipv4.tcp_fastopen. Such data "
        "can arrive twice, so only for requests that may be repeated. 0 = off.",
    )
    congestion: Annotated[str, AfterValidator(_congestion)] | None = Field(
        default=None,
        description="Congestion control, such as `bbr`; one that the kernel does not have is "
        "refused. Inherited by accepted sockets. Default: net.ipv4.tcp_congestion_control.",
    )
    receive_buffer: Buffer = Field(
        default=0,
        description="Bytes a client may send ahead (SO_RCVBUF, which the kernel doubles for its "
        "own bookkeeping and caps at net.core.rmem_max). Inherited by accepted sockets. 0 = tuned "
        "by the kernel, which is nearly always better.",
    )
    send_buffer: Buffer = Field(
        default=0,
        description="Bytes towards a client that may wait in the kernel (SO_SNDBUF, doubled, "
        "capped at net.core.wmem_max). Inherited by accepted sockets. 0 = tuned by the kernel.",
    )


def socket_options(backlog: int, tcp: ListenerTcp) -> dict[str, Any]:
    """Return the form of the snapshot."""
    probes = tcp.keepalive
    return {
        "backlog": backlog,
        "keepalive": probes
        and {
            "idle_ms": to_ms(probes.idle),
            "interval_ms": to_ms(probes.interval),
            "count": probes.count,
        },
        "user_timeout_ms": to_ms(tcp.user_timeout),
        "defer_accept_ms": to_ms(tcp.defer_accept),
        "fast_open": tcp.fast_open,
        "congestion": tcp.congestion,
        "receive_buffer_bytes": tcp.receive_buffer,
        "send_buffer_bytes": tcp.send_buffer,
    }
