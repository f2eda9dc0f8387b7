"""A client that behaves and judges as h2spec does: a write for each frame, two seconds an event."""

import contextlib
import socket
import ssl
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import hpack

from tests.support.http2 import (
    ACK,
    DATA,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    Fields,
    Frame,
    frame,
    settings,
)

TIMEOUT_S = 2.0
PONG = b"h2spec\0\0"
MAX_CONCURRENT_STREAMS = 3
CLOSED, TIMEOUT, BROKEN = "closed", "timeout", "broken"
Event = Frame | str


class Blocks:
    """Header blocks as h2spec's encoder makes them: Huffman, and each field is indexed."""

    def __init__(self, scheme: str = "http") -> None:
        self._encoder = hpack.Encoder()
        self._scheme = scheme

    def of(self, *fields: tuple[str, str]) -> bytes:
        return bytes(self._encoder.encode(list(fields)))

    def fields(self, method: str = "GET", *more: tuple[str, str]) -> Fields:
        start = ((":method", method), (":scheme", self._scheme), (":path", "/"))
        return (*start, (":authority", "weirgate.test"), *more)

    def request(self, method: str = "GET", *more: tuple[str, str]) -> bytes:
        return self.of(*self.fields(method, *more))

    def large(self, count: int = 1) -> bytes:
        return self.of(*[(f"x-dummy{n}", "x" * 4000) for n in range(count)])


class Connection:
    """A connection to the server under test."""

    def __init__(self, port: int, tls: ssl.SSLContext | None) -> None:
        raw = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = raw
        if tls is not None:
            # Go tells an end without close_notify from one with it, and so must this.
            self._socket = tls.wrap_socket(
                raw, server_hostname="weirgate.test", suppress_ragged_eofs=False
            )
            self._socket.settimeout(TIMEOUT_S)
        self.settings: dict[int, int] = {}
        self.events: list[Event] = []

    def close(self) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # h2spec ignores it, too: what comes next tells
            self._socket.sendall(data)

    def event(self) -> Event:
        """Read the next frame, or how there is none."""
        found: Event
        try:
            found = self._read()
        except TimeoutError:
            found = TIMEOUT
        except (OSError, EOFError):
            # A reset, an end inside a frame, TLS without close_notify: errors to h2spec 2.6.
            found = BROKEN
        self.events.append(found)
        return found

    def _read(self) -> Event:
        head = self._exactly(9)
        if head is None:
            return CLOSED
        payload = self._exactly(int.from_bytes(head[:3])) or b""
        return Frame(head[3], head[4], int.from_bytes(head[5:]) & 0x7FFFFFFF, payload)

    def _exactly(self, count: int) -> bytes | None:
        data = b""
        while len(data) < count:
            more = self._socket.recv(count - len(data))
            if not more:
                if data:
                    raise EOFError
                return None
            data += more
        return data

    def handshake(self) -> None:
        """Exchange settings, both ways."""
        self.send(PREFACE)
        self.send(settings((4, 65_535)))
        acknowledged = known = False
        while not (acknowledged and known):
            found = self.event()
            assert isinstance(found, Frame), (found, self.events)
            if found.kind == SETTINGS and found.flags & ACK:
                acknowledged = True
            elif found.kind == SETTINGS:
                known = True
                self.settings.update(struct.iter_unpack("!HI", found.payload))
                self.send(frame(SETTINGS, ACK))

    def until_end(self) -> Iterator[Event]:
        """Yield events, the end of the connection (or of patience) last."""
        while True:
            found = self.event()
            yield found
            if isinstance(found, str):
                return

    def first(self, kind: int) -> Frame | None:
        """Return the first frame of a kind."""
        return next((f for f in self.until_end() if isinstance(f, Frame) and f.kind == kind), None)


Step = bytes | str | Callable[[Connection], bytes]


@dataclass(frozen=True)
class Spec:
    """A case: what is sent after the handshake, and what h2spec takes for a pass."""

    id: str
    steps: tuple[Step, ...]
    wanted: str
    codes: tuple[str, ...] = ()
    handshake: bool = True


def _error(connection: Connection, codes: Sequence[str], kinds: set[int]) -> bool:
    return any(
        found == CLOSED
        or (isinstance(found, Frame) and found.kind in kinds and found.code in codes)
        for found in connection.until_end()
    )


def _pong(found: Event) -> bool:
    return isinstance(found, Frame) and found.kind == PING and found.payload == PONG


def _stream_ends(found: Event) -> bool:
    return (
        isinstance(found, Frame)
        and found.kind in {DATA, HEADERS}
        and bool(found.flags & END_STREAM)
    )


def passes(connection: Connection, spec: Spec) -> bool:
    """Say whether what comes is what h2spec accepts."""
    match spec.wanted:
        case "connection error":
            return _error(connection, spec.codes, {GOAWAY})
        case "stream error":
            return _error(connection, spec.codes, {GOAWAY, RST_STREAM})
        case "close":
            return CLOSED in connection.until_end()
        case "pong":
            found = connection.first(PING)
            return found is not None and bool(found.flags & ACK) and _pong(found)
        case "pong or close":
            return any(found == CLOSED or _pong(found) for found in connection.until_end())
        case "headers":
            found = connection.first(HEADERS)
            return found is not None and found.stream == 1
        case "data":
            return connection.first(DATA) is not None
        case "one byte":
            found = connection.first(DATA)
            return found is not None and len(found.payload) == 1
        case "settings" | "ack":
            found = connection.first(SETTINGS)
            return found is not None and bool(found.flags & ACK) is (spec.wanted == "ack")
        case "goaway":
            found = connection.first(GOAWAY)
            return found is not None and found.code in spec.codes
        case "reset":
            found = connection.first(RST_STREAM)
            return found is not None and found.stream == 1 and found.code in spec.codes
    raise AssertionError(spec.wanted)


def take(connection: Connection, step: Step) -> None:
    """Send, or wait for what the step names."""
    if isinstance(step, bytes):
        connection.send(step)
    elif isinstance(step, str):
        match step:
            case "wait for settings":
                assert connection.first(SETTINGS), connection.events
            case "wait for data":
                assert connection.first(DATA), connection.events
            case "wait for the end":
                assert any(map(_stream_ends, connection.until_end())), connection.events
            case _:
                raise AssertionError(step)
    else:
        connection.send(step(connection))


def run(port: int, tls: ssl.SSLContext | None, spec: Spec) -> tuple[bool, list[Event]]:
    """Run one case on a connection of its own."""
    connection = Connection(port, tls)
    try:
        if spec.handshake:
            connection.handshake()
        for step in spec.steps:
            take(connection, step)
        return passes(connection, spec), connection.events
    finally:
        connection.close()
