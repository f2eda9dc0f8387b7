"""The check by gRPC: ``grpc.health.v1.Health/Check``, one unary call over HTTP/2.

The protocol is https://github.com/grpc/grpc/blob/master/doc/health-checking.md; its two messages
have one field each, so they are written and read by hand.
"""

import re
from urllib.parse import unquote

from weirgate.shared.health.check import Check, Target
from weirgate.shared.health.exchange import exchange
from weirgate.shared.health.http2 import SHOWN, Http2Exchange, own_headers, request_head
from weirgate.shared.health.response import BadResponseError
from weirgate.shared.health.result import Result

_METHOD = "/grpc.health.v1.Health/Check"
_SERVING = 1
_STATES = ("UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN")
_CODES = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND"),
    *("ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION"),
    *("ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"),
    "UNAUTHENTICATED",
)
_MEANINGS = {5: "the server does not know the service", 12: "the server has no health service"}
_STATUS = re.compile(r"0|[1-9][0-9]{0,8}")
#: What the call sets itself.
_OWN = frozenset({"content-type", "grpc-timeout"})
_NOT_A_MESSAGE = "the answer is not one HealthCheckResponse"


async def call(target: Target, address: str) -> Result:
    """Ask an address of the target once."""
    message = _message(target.check.service.encode())
    return _judge(
        await exchange(target, address, lambda _: Http2Exchange(_fields(target), message))
    )


def _judge(answer: Http2Exchange) -> Result:
    """Say what the whole answer means."""
    # a call without a message ends with its head, which is then its trailers, too
    end = answer.headers | answer.trailers
    status = end.get("grpc-status")
    if answer.status != 200:
        return Result(f"HTTP status {answer.status}")
    if not end.get("content-type", "").startswith("application/grpc"):
        return Result(f"not gRPC: content-type {end.get('content-type', '')[:SHOWN]!r}")
    if status is None:
        return Result("the answer has no grpc-status")
    if not _STATUS.fullmatch(status):
        return Result(f"grpc-status is {status[:SHOWN]!r}, not a number")
    if status != "0":
        return Result(_refusal(int(status), end.get("grpc-message", "")))
    state = _state(answer.body)
    if state == _SERVING:
        return Result()
    return Result(_STATES[state] if state < len(_STATES) else f"the unknown state {state}")


def _refusal(status: int, told: str) -> str:
    name = _CODES[status] if status < len(_CODES) else "of no known name"
    meaning = _MEANINGS.get(status) or unquote(told, errors="replace")[:SHOWN]
    return f"grpc-status {status} {name}" + (f": {meaning}" if meaning else "")


def _fields(target: Target) -> list[tuple[str, str]]:
    check = target.check
    return [
        *request_head(check, "POST", _METHOD, target.address),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("grpc-timeout", _timeout(check)),
        *own_headers(check.headers, without=_OWN),
    ]


def _timeout(check: Check) -> str:
    """Write the deadline in milliseconds, or in seconds where those need too many digits."""
    milliseconds = max(1, int(check.timeout * 1000))
    return f"{milliseconds}m" if milliseconds < 10**8 else f"{int(check.timeout)}S"


def _message(service: bytes) -> bytes:
    """Return a HealthCheckRequest with its gRPC prefix; an empty field is not written."""
    body = b"\x0a" + _varint(len(service)) + service if service else b""
    return b"\0" + len(body).to_bytes(4) + body


def _varint(number: int) -> bytes:
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def _state(body: bytes) -> int:
    """Return the state in a HealthCheckResponse that is the whole body."""
    if len(body) < 5 or body[0] != 0 or int.from_bytes(body[1:5]) != len(body) - 5:
        raise BadResponseError(_NOT_A_MESSAGE)
    state, message = 0, memoryview(body)[5:]
    while message:
        tag, message = _read_varint(message)
        number, message = _read_field(tag & 7, message)
        if tag == 1 << 3:
            state = number
    return state


def _read_varint(message: memoryview) -> tuple[int, memoryview]:
    number = 0
    for at, byte in enumerate(message[:10]):
        number |= (byte & 0x7F) << 7 * at
        if byte < 0x80:
            return number, message[at + 1 :]
    raise BadResponseError(_NOT_A_MESSAGE)


def _read_field(wire_type: int, message: memoryview) -> tuple[int, memoryview]:
    """Read a field's number, or pass over one that newer servers may add; 0 for those."""
    if wire_type == 0:
        return _read_varint(message)
    size = {1: 8, 5: 4}.get(wire_type)
    if wire_type == 2:
        size, message = _read_varint(message)
    if size is None or size > len(message):
        raise BadResponseError(_NOT_A_MESSAGE)
    return 0, message[size:]
