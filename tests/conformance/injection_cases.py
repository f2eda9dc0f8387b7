"""HTTP/2 requests whose bytes would mean something else in HTTP/1.1, and what may come of them."""

from dataclasses import dataclass

from tests.support.http2 import DATA, END_HEADERS, END_STREAM, HEADERS, frame

Raw = tuple[bytes, bytes]
HIDDEN = b"GET /smuggled HTTP/1.1\r\nHost: evil.test\r\n\r\n"


@dataclass(frozen=True)
class Injection:
    """A request; ``passed`` = it is one request upstream, or else none at all; None = either."""

    id: str
    sent: bytes
    passed: bool | None
    target: str = "/c"
    body: bytes = b""
    fields: tuple[tuple[str, str], ...] = ()


def _integer(value: int, first: int = 0, bits: int = 7) -> bytes:
    limit = (1 << bits) - 1
    if value < limit:
        return bytes([first | value])
    out, value = bytearray([first | limit]), value - limit
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def literal(name: bytes, value: bytes) -> bytes:
    """Return a field as it is: no table, no Huffman code, no check."""
    return b"\0" + _integer(len(name)) + name + _integer(len(value)) + value


def start(
    method: bytes = b"GET",
    scheme: bytes = b"http",
    path: bytes = b"/c",
    authority: bytes = b"weirgate.test",
) -> tuple[Raw, ...]:
    return (
        (b":method", method),
        (b":scheme", scheme),
        (b":path", path),
        (b":authority", authority),
    )


def message(*fields: Raw, body: bytes | None = None, trailers: tuple[Raw, ...] = ()) -> bytes:
    """Return the frames of a request on stream 1."""
    flags = END_HEADERS | (END_STREAM if body is None else 0)
    out = frame(HEADERS, flags, 1, b"".join(literal(*f) for f in fields))
    if body is not None:
        out += frame(DATA, 0 if trailers else END_STREAM, 1, body)
    if trailers:
        section = b"".join(literal(*f) for f in trailers)
        out += frame(HEADERS, END_HEADERS | END_STREAM, 1, section)
    return out


def refused(name: str, *fields: Raw, body: bytes | None = None) -> Injection:
    return Injection(name, message(*fields, body=body), passed=False)


def passed(name: str, *fields: Raw, target: str = "/c", **seen: str) -> Injection:
    expected = tuple(seen.items())
    return Injection(name, message(*fields), passed=True, target=target, fields=expected)


def either(name: str, *fields: Raw, body: bytes | None = None) -> Injection:
    """Return a row of what is odd, but has one meaning for everybody."""
    return Injection(name, message(*fields, body=body), passed=None)


# What has a meaning between the lines of HTTP/1.1.
BREAKS = {
    "CR LF": b"\r\n",
    "LF": b"\n",
    "CR": b"\r",
    "NUL": b"\0",
    "CR LF CR LF": b"\r\n\r\n",
    "a request": b"\r\n\r\n" + HIDDEN,
}
CONTROLS = {f"0x{n:02x}": bytes([n]) for n in (1, 8, 11, 12, 27, 31, 127)}


def _names() -> list[Injection]:
    bad = {
        "empty": b"",
        "upper case": b"X-Up",
        "one upper-case letter": b"x-uP",
        "colon at the end": b"x:",
        "colon inside": b"x:y",
        "space at the end": b"x ",
        "space before": b" x",
        "space inside": b"x y",
        "tab": b"x\ty",
        "a whole field": b"x: y\r\nhost",
        "not ASCII": b"x\xe4",
        **{f"separator {chr(c)}": bytes([120, c]) for c in b'"(),/;<=>?@[\\]{}'},
        **{f"with {name}": b"x" + value + b"y" for name, value in {**BREAKS, **CONTROLS}.items()},
    }
    good = [b"x", b"x-y", b"x_y", b"0", b"!#$%&'*+-.^_`|~", b"a" * 200]
    return [
        *[refused(f"name {key}", *start(), (name, b"v")) for key, name in bad.items()],
        *[
            passed(f"name {n[:20].decode()}", *start(), (n, b"v"), **{n.decode(): "v"})
            for n in good
        ],
    ]


def _values() -> list[Injection]:
    rows = [
        refused(f"value with {key}", *start(), (b"x-a", b"a" + value + b"b"))
        for key, value in {**BREAKS, **CONTROLS}.items()
    ]
    rows += [
        refused(f"value that ends with {key}", *start(), (b"x-a", b"a" + BREAKS[key]))
        for key in ("CR LF", "LF", "CR", "NUL")
    ]
    rows += [
        refused(f"value that begins with {key}", *start(), (b"x-a", BREAKS[key] + b"a"))
        for key in ("CR LF", "LF", "CR", "NUL")
    ]
    rows += [
        refused(f"{name.decode()} with CR LF", *start(), (name, b"a\r\nx-b: c"))
        for name in (b"cookie", b"user-agent", b"accept", b"referer", b"authorization", b"host")
    ]
    return [
        *rows,
        passed("value empty", *start(), (b"xa", b""), xa=""),
        passed("value with bytes over 127", *start(), (b"xa", b"\xff\x80\xe4"), xa="\xff\x80\xe4"),
        passed("value with a tab", *start(), (b"xa", b"a\tb"), xa="a\tb"),
        passed("value with a colon", *start(), (b"xa", b"host: evil"), xa="host: evil"),
        passed("value like a chunk", *start(), (b"xa", b"0"), xa="0"),
        passed("a long value", *start(), (b"xa", b"y" * 15_000), xa="y" * 15_000),
    ]


def _framing() -> list[Injection]:
    post = start(b"POST")
    length = b"content-length"
    rows = [
        refused(f"{name.decode()}: {value.decode()}", *post, (name, value), body=HIDDEN)
        for name, value in [
            (b"transfer-encoding", b"chunked"),
            (b"transfer-encoding", b"identity"),
            (b"transfer-encoding", b""),
            (b"transfer-encoding", b" chunked"),
            (b"connection", b"close"),
            (b"connection", b"content-length"),
            (b"connection", b"upgrade"),
            (b"keep-alive", b"timeout=5"),
            (b"proxy-connection", b"close"),
            (b"upgrade", b"websocket"),
            (b"te", b"chunked"),
            (b"te", b"trailers, chunked"),
        ]
    ]
    bad_lengths = {
        "less": b"3",
        "more": b"300",
        "empty": b"",
        "a sign": b"+%d" % len(HIDDEN),
        "minus": b"-1",
        "hexadecimal": b"0x2b",
        "a space": b" %d" % len(HIDDEN),
        "a list": b"%d, %d" % (len(HIDDEN), len(HIDDEN)),
        "letters": b"abc",
        "a dot": b"43.0",
        "beyond 64 bits": b"1" * 40,
    }
    rows += [
        refused(f"content-length {key}", *post, (length, value), body=HIDDEN)
        for key, value in bad_lengths.items()
    ]
    right = b"%d" % len(HIDDEN)
    twice = message(*post, (length, right), (length, right), body=HIDDEN)
    other = message(*post, (length, right), (length, b"0"), body=HIDDEN)
    return [
        *rows,
        Injection("content-length twice", twice, passed=False),
        Injection("content-length twice, differing", other, passed=False),
        # The head is complete before the DATA that should not be is seen.
        either("content-length 0 and a body", *post, (length, b"0"), body=HIDDEN),
        refused("content-length without a body", *post, (length, b"5")),
        refused("content-length of a GET without a body", *start(), (length, b"5")),
        Injection(
            "a request as a body with a length",
            message(*post, (length, right), body=HIDDEN),
            passed=True,
            body=HIDDEN,
        ),
        Injection(
            "a request as a body without a length",
            message(*post, body=HIDDEN),
            passed=True,
            body=HIDDEN,
        ),
        Injection(
            "chunks as a body",
            message(*post, body=b"0\r\n\r\n" + HIDDEN),
            passed=True,
            body=b"0\r\n\r\n" + HIDDEN,
        ),
        Injection("a GET with a body", message(*start(), body=HIDDEN), passed=True, body=HIDDEN),
        *[
            Injection(
                f"trailer {name.decode()}",
                message(*post, body=b"x", trailers=((name, value), (b"x-t", b"1"))),
                passed=True,
                body=b"x",
            )
            for name, value in [
                (length, b"99"),
                (b"host", b"evil.test"),
                (b"authorization", b"x"),
                (b"cookie", b"a=b"),
            ]
        ],
        *[
            Injection(
                f"bad trailer {key}",
                message(*post, body=b"x", trailers=((name, value),)),
                passed=False,
            )
            for key, (name, value) in {
                "with CR LF": (b"x", b"a\r\nb: c"),
                "with a request": (b"x", b"a\r\n\r\n" + HIDDEN),
                "name with LF": (b"x\n", b"a"),
                "upper case": (b"X", b"a"),
                "transfer-encoding": (b"transfer-encoding", b"chunked"),
                "connection": (b"connection", b"close"),
                ":path": (b":path", b"/"),
            }.items()
        ],
    ]


FIELDS = [*_names(), *_values(), *_framing()]
