"""Responses, malformed and ambiguous ones and the odd ones that are right: RFC 9110 and 9112."""

from typing import Any

from tests.conformance.cases import ResponseCase

OK = b"HTTP/1.1 200 OK\r\n"
SECOND = OK + b"Content-Length: 6\r\n\r\nPOISON"


def bad_gateway(name: str, rfc: str, raw: bytes, **columns: Any) -> ResponseCase:
    """Return a row that the client must see as 502."""
    return ResponseCase(name, rfc, raw, "bad_gateway", **columns)


def broken(name: str, rfc: str, raw: bytes, **columns: Any) -> ResponseCase:
    """Return a row whose fault may stand behind a head already sent: 502, or cut and closed."""
    reasons = frozenset({"upstream_bad_response", "upstream_closed_early"})
    return ResponseCase(name, rfc, raw, "broken", reasons=reasons, **columns)


def relayed(name: str, rfc: str, raw: bytes, body: bytes = b"", **columns: Any) -> ResponseCase:
    """Return a row that the client must get as the origin meant it."""
    return ResponseCase(name, rfc, raw, "relayed", body=body, **columns)


def answer(*lines: bytes, body: bytes = b"", start: bytes = b"HTTP/1.1 200 OK") -> bytes:
    """Return a response with these fields and these bytes behind the head."""
    return b"\r\n".join([start, *lines, b"", b""]) + body


def chunks(body: bytes) -> bytes:
    """Return a chunked response with these bytes as its body."""
    return answer(b"Transfer-Encoding: chunked", body=body)


def _status_lines() -> list[ResponseCase]:
    lines = {
        "no-status": b"HTTP/1.1",
        "two-digits": b"HTTP/1.1 20 OK",
        "four-digits": b"HTTP/1.1 2000 OK",
        "letters": b"HTTP/1.1 abc OK",
        "below-100": b"HTTP/1.1 099 OK",
        "plus": b"HTTP/1.1 +20 OK",
        "two-spaces": b"HTTP/1.1  200 OK",
        "tab": b"HTTP/1.1\t200 OK",
        "version-2": b"HTTP/2.0 200 OK",
        "version-lower-case": b"http/1.1 200 OK",
        "version-missing": b"200 OK",
        "version-other": b"ICY 200 OK",
        "nul-in-phrase": b"HTTP/1.1 200 O\0K",
        "cr-in-phrase": b"HTTP/1.1 200 O\rK",
        "request-line": b"GET / HTTP/1.1",
    }
    rows = [
        bad_gateway(
            f"status-{name}", "9112 4", answer(b"Content-Length: 2", body=b"hi", start=line)
        )
        for name, line in lines.items()
    ]
    early = frozenset({"upstream_closed_early", "upstream_bad_response"})
    return [
        *rows,
        bad_gateway("status-garbage", "9112 4", b"\x16\x03\x01garbage", closes=True, reasons=early),
        bad_gateway("closed-at-once", "9112 8", b"", closes=True, reasons=early),
        bad_gateway("closed-in-status-line", "9112 8", b"HTTP/1.1 20", closes=True, reasons=early),
        bad_gateway("closed-in-head", "9112 8", OK + b"Content-Le", closes=True, reasons=early),
        relayed(
            "status-empty-phrase",
            "9112 4",
            answer(b"Content-Length: 2", body=b"hi", start=b"HTTP/1.1 200 "),
            b"hi",
            reused=True,
        ),
        relayed(
            "status-unknown",
            "9110 15",
            answer(b"Content-Length: 2", body=b"hi", start=b"HTTP/1.1 299 Odd"),
            b"hi",
            status=299,
            reused=True,
        ),
    ]


def _heads() -> list[ResponseCase]:
    lines = {
        "fold-by-space": b"X-A: 1\r\n 2",
        "fold-by-tab": b"X-A: 1\r\n\t2",
        "bare-lf": b"X-A: 1\nX-B: 2",
        "bare-cr": b"X-A: 1\rX-B: 2",
        "cr-cr-lf": b"X-A: 1\r",
        "nul-in-value": b"X-A: a\0b",
        "nul-in-name": b"X\0A: 1",
        "control-in-value": b"X-A: a\x01b",
        "delete-in-value": b"X-A: a\x7fb",
        "space-before-colon": b"X-A : 1",
        "space-in-name": b"X A: 1",
        "no-colon": b"X-A",
        "empty-name": b": 1",
        "non-ascii-name": b"X-\xe9: 1",
    }
    rows = [
        bad_gateway(f"head-{name}", "9112 5", answer(b"Content-Length: 2", line, body=b"hi"))
        for name, line in lines.items()
    ]
    large = frozenset({"upstream_header_too_large"})
    good = answer(b"Content-Length: 2", body=b"hi")
    return [
        *rows,
        bad_gateway("head-bare-lf-everywhere", "9112 2.2", good.replace(b"\r\n", b"\n")),
        bad_gateway(
            "head-first-field-folded", "9112 5.2", answer(b" X-A: 1", b"Content-Length: 0")
        ),
        bad_gateway("head-huge-field", "9110 5.4", answer(b"X-A: " + b"a" * 70_000), reasons=large),
        bad_gateway("head-endless", "9110 5.4", OK + b"X-A: 1\r\n" * 20_000, reasons=large),
        relayed(
            "head-obs-text",
            "9110 5.5",
            answer(b"Content-Length: 0", b"X-A: \xe9"),
            fields={"x-a": "\xe9"},
            reused=True,
        ),
        relayed(
            "head-hop-by-hop-dropped",
            "9110 7.6.1",
            answer(b"Connection: X-A", b"X-A: 1", b"Keep-Alive: timeout=5", b"Content-Length: 0"),
            absent=("x-a", "keep-alive"),
            reused=True,
        ),
        relayed(
            "connection-names-length",
            "9110 7.6.1",
            answer(b"Connection: content-length", b"Content-Length: 2", body=b"hi"),
            b"hi",
            reused=None,
        ),
    ]


def _framing() -> list[ResponseCase]:
    values = {
        "list-different": b"2, 3",
        "plus": b"+2",
        "minus": b"-1",
        "hexadecimal": b"0x2",
        "empty": b"",
        "letters": b"two",
        "space-inside": b"2 2",
        "over-64-bit": b"18446744073709551618",
    }
    rows = [
        bad_gateway(f"length-{name}", "9112 6.3", answer(b"Content-Length: " + value, body=b"hi"))
        for name, value in values.items()
    ]
    codings = {
        "gzip": b"gzip",
        "gzip-chunked": b"gzip, chunked",
        "chunked-gzip": b"chunked, gzip",
        "twice": b"chunked, chunked",
        "x-chunked": b"xchunked",
        "quoted": b'"chunked"',
        "identity": b"identity",
        "empty": b"",
    }
    body = b"2\r\nhi\r\n0\r\n\r\n"
    rows += [
        bad_gateway(f"coding-{name}", "9112 6.1", answer(b"Transfer-Encoding: " + value, body=body))
        for name, value in codings.items()
    ]
    chunked, two = b"Transfer-Encoding: chunked", b"Content-Length: 2"
    old = b"HTTP/1.0 200 OK"
    return [
        *rows,
        bad_gateway(
            "length-twice-different", "9112 6.3", answer(two, b"Content-Length: 3", body=b"hi!")
        ),
        bad_gateway("length-and-coding", "9112 6.3", answer(two, chunked, body=body)),
        bad_gateway(
            "coding-and-length", "9112 6.3", answer(chunked, b"Content-Length: 99", body=body)
        ),
        bad_gateway("coding-twice-in-two-fields", "9112 6.1", answer(chunked, chunked, body=body)),
        bad_gateway("coding-in-1.0", "9112 6.1", answer(chunked, body=body, start=old)),
        broken(
            "length-cut-short", "9112 8", answer(b"Content-Length: 10", body=b"hello"), closes=True
        ),
        broken("length-without-body", "9112 8", answer(b"Content-Length: 10"), closes=True),
        relayed("until-close", "9112 6.3", answer(body=b"hello"), b"hello", closes=True),
        relayed(
            "until-close-1.0", "9112 6.3", answer(body=b"hello", start=old), b"hello", closes=True
        ),
        relayed(
            "length-in-1.0", "9112 9.3", answer(two, body=b"hi", start=old), b"hi", closes=True
        ),
        relayed("length-zero", "9110 8.6", answer(b"Content-Length: 0"), reused=True),
        relayed("length-plain", "9110 8.6", answer(two, body=b"hi"), b"hi", reused=True),
        relayed("chunked-plain", "9112 7.1", chunks(body), b"hi", reused=True),
        relayed(
            "coding-upper-case",
            "9112 7",
            answer(b"Transfer-Encoding: CHUNKED", body=body),
            b"hi",
            reused=True,
        ),
        relayed("said-close", "9112 9.6", answer(two, b"Connection: close", body=b"hi"), b"hi"),
        relayed("extra-behind-length", "9112 11.1", answer(two, body=b"hi" + SECOND), b"hi"),
        relayed("extra-behind-chunks", "9112 11.1", chunks(body + SECOND), b"hi"),
        relayed("extra-behind-length-zero", "9112 11.1", answer(b"Content-Length: 0") + SECOND),
    ]


def _chunks() -> list[ResponseCase]:
    end = b"0\r\n\r\n"
    bodies = {
        "size-0x": b"0x2\r\nhi\r\n" + end,
        "size-plus": b"+2\r\nhi\r\n" + end,
        "size-minus": b"-2\r\nhi\r\n" + end,
        "size-space-behind": b"2 \r\nhi\r\n" + end,
        "size-empty": b"\r\nhi\r\n" + end,
        "size-letters": b"zz\r\nhi\r\n" + end,
        "size-over-64-bit": b"10000000000000002\r\nhi\r\n" + end,
        "size-bare-lf": b"2\nhi\r\n" + end,
        "data-without-crlf": b"2\r\nhi" + end,
        "data-bare-lf": b"2\r\nhi\n" + end,
        "data-too-long": b"1\r\nhi\r\n" + end,
        "extension-bare-lf": b"2;a\nhi\r\n" + end,
        "extension-huge": b"2;" + b"a" * 70_000 + b"\r\nhi\r\n" + end,
        "trailer-bare-lf": b"2\r\nhi\r\n0\r\nX-T: 1\n\r\n",
        "trailer-nul": b"2\r\nhi\r\n0\r\nX-T: \0\r\n\r\n",
    }
    rows = [broken(f"chunk-{name}", "9112 7.1", chunks(body)) for name, body in bodies.items()]
    return [
        *rows,
        broken("chunks-cut-in-size", "9112 8", chunks(b"2\r\nhi\r\n1"), closes=True),
        broken("chunks-cut-in-data", "9112 8", chunks(b"9\r\nhi"), closes=True),
        broken("chunks-cut-before-end", "9112 8", chunks(b"2\r\nhi\r\n"), closes=True),
        broken("chunks-cut-in-trailers", "9112 8", chunks(b"2\r\nhi\r\n0\r\n"), closes=True),
        relayed(
            "chunk-extension-dropped",
            "9112 7.1.1",
            chunks(b'2;a="b"\r\nhi\r\n' + end),
            b"hi",
            reused=True,
        ),
        relayed(
            "trailer-kept",
            "9110 6.5",
            chunks(b"2\r\nhi\r\n0\r\nX-T: 1\r\n\r\n"),
            b"hi",
            trailers=(("x-t", "1"),),
            reused=True,
        ),
        relayed(
            "trailer-forbidden-fields-dropped",
            "9110 6.5.1",
            chunks(b"2\r\nhi\r\n0\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n"),
            b"hi",
            reused=True,
        ),
    ]


def _bodiless() -> list[ResponseCase]:
    final = answer(b"Content-Length: 2", body=b"hi")
    none, old = b"HTTP/1.1 204 No Content", b"HTTP/1.1 304 Not Modified"
    eleven = b"Content-Length: 11"
    return [
        bad_gateway(
            "switch-not-asked-for",
            "9110 15.2.2",
            answer(b"Connection: Upgrade", b"Upgrade: x", start=b"HTTP/1.1 101 X"),
        ),
        bad_gateway("interim-flood", "9110 15.2", b"HTTP/1.1 100 Continue\r\n\r\n" * 2000),
        bad_gateway("interim-malformed", "9110 15.2", b"HTTP/1.1 100 C\r\nX-A : 1\r\n\r\n" + final),
        relayed(
            "interim-continue",
            "9110 15.2.1",
            b"HTTP/1.1 100 Continue\r\n\r\n" + final,
            b"hi",
            reused=True,
        ),
        relayed(
            "interim-hints",
            "8297 2",
            b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + final,
            b"hi",
            reused=True,
        ),
        relayed(
            "interim-processing",
            "9110 15.2",
            b"HTTP/1.1 102 X\r\n\r\n" * 2 + final,
            b"hi",
            reused=True,
        ),
        relayed("no-content", "9110 15.3.5", answer(start=none), status=204, reused=True),
        relayed("no-content-with-bytes", "9112 6.3", answer(start=none) + SECOND, status=204),
        relayed("not-modified", "9110 15.4.5", answer(start=old), status=304, reused=True),
        relayed(
            "not-modified-with-length",
            "9110 8.6",
            answer(eleven, start=old),
            status=304,
            reused=True,
        ),
        relayed(
            "not-modified-with-bytes",
            "9112 6.3",
            answer(eleven, start=old, body=b"hello world"),
            status=304,
        ),
        relayed(
            "head-with-length",
            "9110 9.3.2",
            answer(eleven),
            method="HEAD",
            fields={"content-length": "11"},
            reused=True,
        ),
        relayed("head-chunked", "9110 9.3.2", chunks(b""), method="HEAD", reused=True),
        relayed("head-with-bytes", "9112 6.3", answer(eleven, body=b"hello world"), method="HEAD"),
    ]


RESPONSES: list[ResponseCase] = [
    *_status_lines(),
    *_heads(),
    *_framing(),
    *_chunks(),
    *_bodiless(),
]
