"""The check by gRPC: ``grpc.health.v1.Health/Check``, one unary call over HTTP/2.

The protocol is https://github.com/grpc/grpc/blob/master/doc/health-checking.md; its two messages
have one field each, so they are written and read by hand.
"""

import contextlib
import re
from collections.abc import Iterator
from urllib.parse import unquote

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

from weirgate.shared.health.check import Check, Target
from weirgate.shared.health.exchange import exchange
from weirgate.shared.health.response import LIMIT_BYTES, BadResponseError
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
_FRAME_HEAD_BYTES = 9
_GOAWAY = 7
_SHOWN = 80
_NOT_A_MESSAGE = "the answer is not one HealthCheckResponse"


async def call(target: Target, address: str) -> Result:
    """Ask an address of the target once."""
    answer = HealthCall(target)
    await exchange(target, address, answer.request, answer)
    return answer.judge()


class HealthCall:
    """The client's side of the call; sans-IO.

    ``request`` is what to send first: the connection's preface and the whole call.
    """

    def __init__(self, target: Target) -> None:
        config = h2.config.H2Configuration(client_side=True, header_encoding="latin-1")
        self._http2 = h2.connection.H2Connection(config)
        self._headers: dict[str, str] = {}
        self._body = bytearray()
        self._buffer = bytearray()
        self._left = LIMIT_BYTES
        self.done = False
        self.request = self._begin(target)

    def feed(self, data: bytes) -> bytes:
        """Take what came from the socket; return what HTTP/2 wants to be said to it."""
        self._left -= len(data)
        if self._left < 0:
            raise BadResponseError(f"the answer is longer than {LIMIT_BYTES} bytes")
        self._buffer += data
        if b"HTTP/1.".startswith(self._buffer[:7]):
            return self._not_http2()
        for kind, frame in self._frames():
            if kind == _GOAWAY:
                self._take_goaway(frame[_FRAME_HEAD_BYTES:])
            else:
                self._take_frame(frame)
        if self.done:
            self._http2.close_connection()
        return self._http2.data_to_send()

    def end(self) -> None:
        """Take the end of the stream."""
        if not self.done:
            raise BadResponseError("the connection ended before the answer did")

    def judge(self) -> Result:
        """Say what the whole answer means."""
        status = self._headers.get("grpc-status")
        if self._headers.get(":status") != "200":
            return Result(f"HTTP status {self._headers.get(':status')}")
        if not self._headers.get("content-type", "").startswith("application/grpc"):
            return Result(f"not gRPC: content-type {self._shown('content-type')}")
        if status is None:
            return Result("the answer has no grpc-status")
        if not _STATUS.fullmatch(status):
            return Result(f"grpc-status is {self._shown('grpc-status')}, not a number")
        if status != "0":
            return Result(self._refusal(int(status)))
        state = _state(bytes(self._body))
        if state == _SERVING:
            return Result()
        return Result(_STATES[state] if state < len(_STATES) else f"the unknown state {state}")

    def _begin(self, target: Target) -> bytes:
        self._http2.local_settings.update({h2.settings.SettingCodes.ENABLE_PUSH: 0})
        self._http2.initiate_connection()
        self._http2.send_headers(1, _fields(target))
        self._http2.send_data(1, _message(target.check.service.encode()), end_stream=True)
        return self._http2.data_to_send()

    def _not_http2(self) -> bytes:
        """Wait for the end of a line that only HTTP/1 begins like this, to show it."""
        line, end, _ = self._buffer.partition(b"\r\n")
        if end or len(line) > _SHOWN:
            raise BadResponseError(f"not HTTP/2: {bytes(line[:_SHOWN])!r}")
        return b""

    def _frames(self) -> Iterator[tuple[int, bytes]]:
        """Yield each whole frame: the library loses those in front of one that it refuses."""
        while len(self._buffer) >= _FRAME_HEAD_BYTES:
            size = _FRAME_HEAD_BYTES + int.from_bytes(self._buffer[:3])
            if size - _FRAME_HEAD_BYTES > self._http2.max_inbound_frame_size:
                raise BadResponseError(f"not HTTP/2: {bytes(self._buffer[:_SHOWN])!r}")
            if len(self._buffer) < size:
                return
            frame = bytes(self._buffer[:size])
            del self._buffer[:size]
            yield frame[3], frame

    def _take_goaway(self, payload: bytes) -> None:
        """Go on where the call will still be answered; the library would not."""
        last = int.from_bytes(payload[:4]) & 0x7FFFFFFF
        code = int.from_bytes(payload[4:8])
        if self.done or (code == h2.errors.ErrorCodes.NO_ERROR and last >= 1):
            return
        text = payload[8 : 8 + _SHOWN].decode("latin-1")
        raise BadResponseError(f"GOAWAY {_error_name(code)}" + (f": {text!r}" if text else ""))

    def _take_frame(self, frame: bytes) -> None:
        try:
            events = self._http2.receive_data(frame)
        except (h2.exceptions.ProtocolError, UnicodeError) as error:
            raise BadResponseError(f"not HTTP/2: {error or type(error).__name__}") from error
        for event in events:
            self._take(event)

    def _take(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
            self._headers |= {str(name): str(value) for name, value in event.headers or ()}
        elif isinstance(event, h2.events.DataReceived):
            self._body += event.data or b""
        elif isinstance(event, h2.events.StreamReset) and not self.done:
            raise BadResponseError(f"the call was reset: {_error_name(event.error_code)}")
        elif isinstance(event, h2.events.StreamEnded):
            self.done = True

    def _refusal(self, status: int) -> str:
        name = _CODES[status] if status < len(_CODES) else "of no known name"
        told = self._headers.get("grpc-message", "")
        meaning = _MEANINGS.get(status) or unquote(told, errors="replace")[:_SHOWN]
        return f"grpc-status {status} {name}" + (f": {meaning}" if meaning else "")

    def _shown(self, name: str) -> str:
        return repr(self._headers.get(name, "")[:_SHOWN])


def _fields(target: Target) -> list[tuple[str, str]]:
    check = target.check
    own = {"host", "content-type", "te", "grpc-timeout"}
    headers = [(n.lower(), v) for n, v in check.headers if n.lower() not in own]
    if not any(name == "user-agent" for name, _ in headers):
        headers.insert(0, ("user-agent", "weirgate-health"))
    return [
        (":method", "POST"),
        (":scheme", "https" if check.tls else "http"),
        (":path", _METHOD),
        (":authority", check.host or target.address),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("grpc-timeout", _timeout(check)),
        *headers,
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


def _error_name(code: int | None) -> str:
    with contextlib.suppress(ValueError):
        return h2.errors.ErrorCodes(code or 0).name
    return str(code)
