"""One exchange over HTTP/2, for the checks that speak it: by HTTP and by gRPC; sans-IO."""

import contextlib
import re
from collections.abc import Iterator, Sequence

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

from weirgate.shared.health.check import Check, Pairs
from weirgate.shared.health.response import LIMIT_BYTES, BadResponseError

#: How much of an answer that makes no sense is shown.
SHOWN = 80
#: What has another place or meaning in HTTP/2. The library leaves out what manages a connection.
_NOT_IN_HTTP2 = frozenset({"host", "te"})
_STATUS = re.compile(r"[1-9][0-9]{2}")
_FRAME_HEAD_BYTES = 9
_GOAWAY = 7


def request_head(check: Check, method: str, path: str, address: str) -> list[tuple[str, str]]:
    """Return the pseudo-header fields of a check's request."""
    return [
        (":method", method),
        (":scheme", "https" if check.tls else "http"),
        (":path", path),
        (":authority", check.host or address),
    ]


def own_headers(headers: Pairs, *, without: frozenset[str] = frozenset()) -> list[tuple[str, str]]:
    """Return the headers that a check has of its own, as far as they have a place in HTTP/2."""
    kept = [(name.lower(), value) for name, value in headers]
    kept = [(name, value) for name, value in kept if name not in _NOT_IN_HTTP2 | without]
    if not any(name == "user-agent" for name, _ in kept):
        kept.insert(0, ("user-agent", "weirgate-health"))
    return kept


class Http2Exchange:
    """The client's side of a connection with one request.

    ``request`` is what to send first: the connection's preface and the whole request. The answer
    is ``done`` at its end, or where ``head_only`` is set as soon as its head is there.
    """

    def __init__(
        self, fields: Sequence[tuple[str, str]], body: bytes = b"", *, head_only: bool = False
    ) -> None:
        config = h2.config.H2Configuration(client_side=True, header_encoding="latin-1")
        self._http2 = h2.connection.H2Connection(config)
        self._head_only = head_only
        self._body = bytearray()
        self._buffer = bytearray()
        # one byte more than the flow control window, with frames around it: none is waited for
        self._left = LIMIT_BYTES
        self.status = 0
        self.headers: dict[str, str] = {}
        self.trailers: dict[str, str] = {}
        self.done = False
        self.request = self._begin(fields, body)

    @property
    def body(self) -> bytes:
        """What has come of the body."""
        return bytes(self._body)

    def feed(self, data: bytes) -> bytes:
        """Take what came from the socket; return what HTTP/2 wants to be said to it."""
        self._left -= len(data)
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
        if self._left < 0:
            raise BadResponseError(f"the answer is longer than {LIMIT_BYTES} bytes")
        return self._http2.data_to_send()

    def end(self) -> None:
        """Take the end of the stream."""
        if not self.done:
            raise BadResponseError("the connection ended before the answer did")

    def _begin(self, fields: Sequence[tuple[str, str]], body: bytes) -> bytes:
        self._http2.local_settings.update({h2.settings.SettingCodes.ENABLE_PUSH: 0})
        self._http2.initiate_connection()
        encoded = [(name.encode(), value.encode("latin-1", "replace")) for name, value in fields]
        self._http2.send_headers(1, encoded, end_stream=not body)
        if body:
            self._http2.send_data(1, body, end_stream=True)
        return self._http2.data_to_send()

    def _not_http2(self) -> bytes:
        """Wait for the end of a line that only HTTP/1 begins like this, to show it."""
        line, end, _ = self._buffer.partition(b"\r\n")
        if end or len(line) > SHOWN:
            raise BadResponseError(f"not HTTP/2: {bytes(line[:SHOWN])!r}")
        return b""

    def _frames(self) -> Iterator[tuple[int, bytes]]:
        """Yield each whole frame: the library loses those in front of one that it refuses."""
        while len(self._buffer) >= _FRAME_HEAD_BYTES:
            size = _FRAME_HEAD_BYTES + int.from_bytes(self._buffer[:3])
            if size - _FRAME_HEAD_BYTES > self._http2.max_inbound_frame_size:
                raise BadResponseError(f"not HTTP/2: {bytes(self._buffer[:SHOWN])!r}")
            if len(self._buffer) < size:
                return
            frame = bytes(self._buffer[:size])
            del self._buffer[:size]
            yield frame[3], frame

    def _take_goaway(self, payload: bytes) -> None:
        """Go on where the request will still be answered; the library would not."""
        last = int.from_bytes(payload[:4]) & 0x7FFFFFFF
        code = int.from_bytes(payload[4:8])
        if code == h2.errors.ErrorCodes.NO_ERROR and last >= 1:
            return
        text = payload[8 : 8 + SHOWN].decode("latin-1")
        raise BadResponseError(f"GOAWAY {_error_name(code)}" + (f": {text!r}" if text else ""))

    def _take_frame(self, frame: bytes) -> None:
        try:
            events = self._http2.receive_data(frame)
        except (h2.exceptions.ProtocolError, UnicodeError) as error:
            raise BadResponseError(f"not HTTP/2: {error or type(error).__name__}") from error
        for event in events:
            self._take(event)

    def _take(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.ResponseReceived):
            self._take_head(_text(event.headers))
        elif isinstance(event, h2.events.TrailersReceived):
            self.trailers = _text(event.headers)
        elif isinstance(event, h2.events.DataReceived):
            self._body += event.data or b""
        elif isinstance(event, h2.events.StreamReset) and not self.done:
            raise BadResponseError(f"the request was reset: {_error_name(event.error_code)}")
        elif isinstance(event, h2.events.StreamEnded):
            self.done = True

    def _take_head(self, headers: dict[str, str]) -> None:
        status = headers.pop(":status", "")
        if not _STATUS.fullmatch(status):
            raise BadResponseError(f"not HTTP/2: the status {status[:SHOWN]!r}")
        self.status, self.headers = int(status), headers
        self.done = self._head_only


def _text(headers: Sequence[tuple[str | bytes, str | bytes]] | None) -> dict[str, str]:
    return {str(name): str(value) for name, value in headers or ()}


def _error_name(code: int | None) -> str:
    with contextlib.suppress(ValueError):
        return h2.errors.ErrorCodes(code or 0).name
    return str(code)
