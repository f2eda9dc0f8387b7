"""A strict HTTP/1.1 parser that shares nothing with Weirgate's: the judge of what it sends."""

import asyncio
import re
from dataclasses import dataclass

TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
TARGET = re.compile(rb"[!-\"$-~]+")  # visible ASCII without '#'
VALUE = re.compile(rb"(?:[!-~\x80-\xff](?:[ \t!-~\x80-\xff]*[!-~\x80-\xff])?)?")
CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]{1,16}")
LENGTH = re.compile(rb"[0-9]{1,18}")
READER_LIMIT = 1 << 20


class MalformedError(Exception):
    """The bytes are not the strict form of RFC 9112."""


class TruncatedError(MalformedError):
    """The connection ended inside a message."""


@dataclass(frozen=True)
class Message:
    """What a request and a response have in common."""

    head: bytes
    headers: tuple[tuple[str, str], ...]
    body: bytes
    trailers: tuple[tuple[str, str], ...]

    def all(self, name: str) -> list[str]:
        """Return every value of a header, in order."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def one(self, name: str) -> str | None:
        """Return the only value of a header, or None."""
        values = self.all(name)
        if len(values) > 1:
            raise MalformedError(f"{name} stands {len(values)} times")
        return values[0] if values else None


@dataclass(frozen=True)
class Request(Message):
    """One complete request."""

    method: str
    target: str


@dataclass(frozen=True)
class RequestHead:
    """A request up to the empty line."""

    raw: bytes
    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    length: int | None  # None = chunked


@dataclass(frozen=True)
class Response(Message):
    """One complete response."""

    version: str
    status: int
    phrase: str

    @property
    def reason(self) -> str:
        """The reason code of an answer that Weirgate made itself."""
        return self.one("weirgate-reason") or ""


async def read_request_head(reader: asyncio.StreamReader) -> RequestHead | None:
    """Read a head; None = the connection ended before its first byte."""
    raw = await _head(reader)
    if raw is None:
        return None
    first, fields = _split(raw)
    parts = first.split(b" ")
    if len(parts) != 3 or not TOKEN.fullmatch(parts[0]) or not TARGET.fullmatch(parts[1]):
        raise MalformedError(f"request line {first!r}")
    if parts[2] != b"HTTP/1.1":
        raise MalformedError(f"version {parts[2]!r}")
    headers = tuple(_field(line) for line in fields)
    if sum(name.lower() == "host" for name, _ in headers) != 1:
        raise MalformedError(f"not exactly one Host in {raw!r}")
    length = _framing(headers)
    return RequestHead(
        raw=raw,
        method=parts[0].decode(),
        target=parts[1].decode(),
        headers=headers,
        length=0 if length == -1 else length,
    )


async def read_request_body(reader: asyncio.StreamReader, head: RequestHead) -> Request:
    """Read the body that a head announced."""
    body, trailers = await _body(reader, head.length)
    return Request(head.raw, head.headers, body, trailers, head.method, head.target)


async def parse_requests(raw: bytes) -> list[Request]:
    """Parse a whole byte stream as requests; anything left over is an error."""
    reader = asyncio.StreamReader(limit=READER_LIMIT)
    reader.feed_data(raw)
    reader.feed_eof()
    found = []
    while (head := await read_request_head(reader)) is not None:
        found.append(await read_request_body(reader, head))
    return found


async def read_response(reader: asyncio.StreamReader, method: str = "GET") -> Response | None:
    """Read one response, interim ones (1xx but 101) included; None = end before its first byte."""
    raw = await _head(reader)
    if raw is None:
        return None
    first, fields = _split(raw)
    match = re.fullmatch(rb"(HTTP/1\.[01]) ([1-9][0-9]{2}) ([\t -~\x80-\xff]*)", first)
    if not match:
        raise MalformedError(f"status line {first!r}")
    headers = tuple(_field(line) for line in fields)
    status = int(match[2])
    length = _framing(headers)
    body: bytes = b""
    trailers: tuple[tuple[str, str], ...] = ()
    if method == "HEAD" or status < 200 or status in {204, 304}:
        pass  # RFC 9112 section 6.3, rule 1: never a body, whatever the fields say
    elif length == -1:
        body = await reader.read()
    else:
        body, trailers = await _body(reader, length)
    phrase = match[3].decode("latin-1")
    return Response(raw, headers, body, trailers, match[1].decode(), status, phrase)


async def _head(reader: asyncio.StreamReader) -> bytes | None:
    lines = [await _line(reader, first=True)]
    if lines[0] is None:
        return None
    while lines[-1]:
        lines.append(await _line(reader))
    return b"\r\n".join(line for line in lines if line is not None) + b"\r\n"


async def _line(reader: asyncio.StreamReader, *, first: bool = False) -> bytes | None:
    try:
        line = await reader.readuntil(b"\n")
    except asyncio.IncompleteReadError as error:
        if first and not error.partial:
            return None
        raise TruncatedError(f"ended inside a line: {error.partial[:200]!r}") from None
    except asyncio.LimitOverrunError:
        raise MalformedError("a line over the limit") from None
    if not line.endswith(b"\r\n") or b"\r" in line[:-2] or b"\0" in line:
        raise MalformedError(f"bare CR, bare LF or NUL: {line[:200]!r}")
    return line[:-2]


def _split(raw: bytes) -> tuple[bytes, list[bytes]]:
    first, *fields = raw.removesuffix(b"\r\n\r\n").split(b"\r\n")
    return first, fields


def _field(line: bytes) -> tuple[str, str]:
    name, colon, value = line.partition(b":")
    value = value.strip(b" \t")
    if not colon or not TOKEN.fullmatch(name) or not VALUE.fullmatch(value):
        raise MalformedError(f"field {line[:200]!r}")
    return name.decode(), value.decode("latin-1")


def _framing(headers: tuple[tuple[str, str], ...]) -> int | None:
    """Return the body's length, None for chunked, -1 where neither is said."""
    lengths = [value for name, value in headers if name.lower() == "content-length"]
    codings = [value for name, value in headers if name.lower() == "transfer-encoding"]
    if len(lengths) + len(codings) > 1:
        raise MalformedError(f"framing said twice: {lengths} {codings}")
    if codings:
        if codings[0] != "chunked":
            raise MalformedError(f"Transfer-Encoding {codings[0]!r}")
        return None
    if not lengths:
        return -1
    if not LENGTH.fullmatch(lengths[0].encode("latin-1")):
        raise MalformedError(f"Content-Length {lengths[0]!r}")
    return int(lengths[0])


async def _body(
    reader: asyncio.StreamReader, length: int | None
) -> tuple[bytes, tuple[tuple[str, str], ...]]:
    if length is None:
        return await _chunked(reader)
    return await _exactly(reader, length), ()


async def _exactly(reader: asyncio.StreamReader, count: int) -> bytes:
    try:
        return await reader.readexactly(count)
    except asyncio.IncompleteReadError as error:
        text = f"ended after {len(error.partial)} of {count} bytes"
        raise TruncatedError(text) from None


async def _chunked(reader: asyncio.StreamReader) -> tuple[bytes, tuple[tuple[str, str], ...]]:
    parts = []
    while True:
        line = await _line(reader) or b""
        if not CHUNK_SIZE.fullmatch(line):  # Weirgate drops chunk extensions: none is the law
            raise MalformedError(f"chunk size {line[:200]!r}")
        size = int(line, 16)
        if size == 0:
            break
        parts.append(await _exactly(reader, size))
        if await _exactly(reader, 2) != b"\r\n":
            raise MalformedError("no CRLF behind a chunk")
    trailers = []
    while True:
        line = await _line(reader) or b""
        if not line:
            break
        trailers.append(_field(line))
    return b"".join(parts), tuple(trailers)
