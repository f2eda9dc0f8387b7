"""A strict, bounded HTTP/1.1 response reader for health checks; sans-IO.

Strict because a check is worth what it refuses: an endpoint that answers garbage is down.
"""

import re

#: Head and body together; a check that needs more is not a health check.
LIMIT_BYTES = 64 * 1024

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})(?: [^\x00-\x08\x0a-\x1f\x7f]*)?")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00\r\n]*?)[ \t]*")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\x00\r\n]*)?")


class BadResponseError(ValueError):
    """The peer's answer is not an HTTP/1 response, or not one that fits."""


class ResponseReader:
    """Takes bytes, knows when enough of the response is there.

    ``body`` is read only when asked for: most checks end with the head.
    """

    def __init__(self, *, want_body: bool, no_body: bool = False) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.done = False
        self._want_body = want_body and not no_body
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        """Take what came from the socket."""
        self._buffer += data
        while not self.done and self.status == 0 and self._take_head():
            pass
        if self.status and not self.done:
            self._take_body()
        if not self.done and len(self._buffer) > LIMIT_BYTES:
            raise BadResponseError(f"the answer is longer than {LIMIT_BYTES} bytes")

    def end(self) -> None:
        """Take the end of the stream."""
        if self.done:
            return
        if self.status == 0:
            raise BadResponseError("the connection ended before a response")
        if "content-length" in self.headers or self._chunked:
            raise BadResponseError("the connection ended inside the response")
        self.body = bytes(self._buffer)
        self.done = True

    @property
    def _chunked(self) -> bool:
        return self.headers.get("transfer-encoding", "").lower() == "chunked"

    def _take_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        lines = bytes(self._buffer[:end]).split(b"\r\n")
        del self._buffer[: end + 4]
        line = _STATUS_LINE.fullmatch(lines[0])
        if line is None:
            raise BadResponseError(f"not an HTTP/1 response: {lines[0][:40]!r}")
        status = int(line[1])
        if status < 200 and status != 101:
            return True  # an interim response; the real one follows
        self.headers = dict(_header(text) for text in lines[1:])
        self.status = status
        self.done = not self._want_body or status in (101, 204, 304)
        return False

    def _take_body(self) -> None:
        if self._chunked:
            body = _joined_chunks(self._buffer)
            if body is not None:
                self.body, self.done = body, True
        elif "content-length" in self.headers:
            length = self.headers["content-length"]
            if not (length.isascii() and length.isdigit()):
                raise BadResponseError(f"Content-Length is {length[:40]!r}")
            if len(self._buffer) >= int(length):
                self.body, self.done = bytes(self._buffer[: int(length)]), True


def _header(line: bytes) -> tuple[str, str]:
    match = _HEADER.fullmatch(line)
    if match is None:
        raise BadResponseError(f"not a header line: {line[:40]!r}")
    return match[1].decode("ascii").lower(), match[2].decode("latin-1")


def _joined_chunks(buffer: bytearray) -> bytes | None:
    """Join the chunks; None while the last one is missing."""
    body, position = bytearray(), 0
    while (end := buffer.find(b"\r\n", position)) >= 0:
        line = _CHUNK.fullmatch(buffer[position:end])
        if line is None:
            raise BadResponseError("not a chunk size")
        size = int(line[1], 16)
        if size == 0:
            return bytes(body)
        start = end + 2
        if len(buffer) < start + size + 2:
            return None
        if buffer[start + size : start + size + 2] != b"\r\n":
            raise BadResponseError("a chunk does not end where it says")
        body += buffer[start : start + size]
        position = start + size + 2
    return None
