"""Requests whose body is framed wrongly or oddly: Content-Length, Transfer-Encoding, chunks."""

from tests.conformance.cases import (
    FRAMING,
    HIDDEN,
    RequestCase,
    Seen,
    chunks,
    head,
    passed,
    post,
    refused,
)

HELLO = Seen(method="POST", body=b"hello")
CODING = (*FRAMING, "coding_not_supported")
LARGE = ("header_too_large",)


def _lengths() -> list[RequestCase]:
    values = {
        "list-equal": b"5, 5",
        "list-different": b"5, 6",
        "trailing-comma": b"5,",
        "leading-comma": b",5",
        "plus": b"+5",
        "minus": b"-1",
        "minus-zero": b"-0",
        "hexadecimal": b"0x5",
        "empty": b"",
        "space-inside": b"5 5",
        "fraction": b"5.0",
        "exponent": b"5e0",
        "underscore": b"0_5",
        "quoted": b'"5"',
        "parameter": b"5;a=b",
        "letters": b"five",
        "other-digits": "\u0665".encode(),
        "form-feed": b"\x0c5",
    }
    rows = [
        refused(f"length-{name}", "9112 6.3", post(b"Content-Length: " + value, body=b"hello"))
        for name, value in values.items()
    ]
    for name, value in {
        "over-64-bit": b"18446744073709551621",
        "over-63-bit": b"9223372036854775813",
        "forty-digits": b"9" * 40,
    }.items():
        raw = post(b"Content-Length: " + value, body=b"hello")
        reasons = (*FRAMING, "body_too_large")
        rows.append(refused(f"length-{name}", "9112 6.3", raw, status=(400, 413), reason=reasons))
    five = b"Content-Length: 5"
    return [
        *rows,
        refused("length-twice-equal", "9112 6.3", post(five, five, body=b"hello")),
        refused(
            "length-twice-different", "9112 6.3", post(five, b"Content-Length: 6", body=b"hello!")
        ),
        refused(
            "length-twice-other-case", "9112 6.3", post(five, b"cOnTeNt-lEnGtH: 0", body=b"hello")
        ),
        refused(
            "length-too-large",
            "9110 15.5.14",
            post(b"Content-Length: 99999999999"),
            status=413,
            reason="body_too_large",
        ),
        passed(
            "length-leading-zeros", "9110 8.6", post(b"Content-Length: 005", body=b"hello"), HELLO
        ),
        passed("length-in-tabs", "9110 5.5", post(b"Content-Length:\t5\t", body=b"hello"), HELLO),
        passed("length-zero", "9110 8.6", post(b"Content-Length: 0"), Seen(method="POST")),
        passed(
            "length-on-get",
            "9110 9.3.1",
            head(b"Content-Length: %d" % len(HIDDEN)) + HIDDEN,
            Seen(body=HIDDEN),
        ),
    ]


def _codings() -> list[RequestCase]:
    body = b"5\r\nhello\r\n0\r\n\r\n"
    values = {
        "chunked-gzip": b"chunked, gzip",
        "x-chunked": b"xchunked",
        "chunked-x": b"chunkedx",
        "list-twice": b"chunked, chunked",
        "leading-comma": b", chunked",
        "trailing-comma": b"chunked,",
        "quoted": b'"chunked"',
        "parameter": b"chunked;q=1",
        "vertical-tab": b"\x0bchunked",
        "no-break-space": b"\xa0chunked",
        "space-inside": b"chun ked",
        "empty": b"",
        "nul": b"chunked\0",
        "identity": b"identity",
        "identity-chunked": b"identity, chunked",
        "gzip": b"gzip",
        "gzip-chunked": b"gzip, chunked",
        "unknown": b"cow",
    }
    rows = [
        refused(
            f"coding-{name}",
            "9112 6.1",
            post(b"Transfer-Encoding: " + value, body=body),
            status=(400, 501),
            reason=CODING,
        )
        for name, value in values.items()
    ]
    chunked = b"Transfer-Encoding: chunked"
    old = b"POST /c HTTP/1.0"
    return [
        *rows,
        refused("coding-twice", "9112 6.1", post(chunked, chunked, body=body)),
        refused(
            "coding-twice-one-odd", "9112 6.1", post(chunked, b"Transfer-Encoding: x", body=body)
        ),
        refused("coding-in-1.0", "9112 6.1", head(chunked, start=old) + body),
        refused("coding-folded", "9112 5.2", post(b"Transfer-Encoding:\r\n chunked", body=body)),
        refused(
            "coding-space-before-colon", "9112 5.1", post(b"Transfer-Encoding : chunked", body=body)
        ),
        refused(
            "length-and-coding", "9112 6.3", post(b"Content-Length: 6", chunked, body=b"0\r\n\r\nG")
        ),
        refused("coding-and-length", "9112 6.3", post(chunked, b"Content-Length: 4", body=body)),
        refused(
            "coding-and-length-zero", "9112 6.3", post(chunked, b"Content-Length: 0", body=body)
        ),
        refused(
            "coding-and-length-hidden-request",
            "9112 11.2",
            post(b"Content-Length: %d" % (5 + len(HIDDEN)), chunked, body=b"0\r\n\r\n" + HIDDEN),
        ),
        refused(
            "odd-coding-and-length-hidden-request",
            "9112 11.2",
            post(b"Content-Length: 5", b"Transfer-Encoding: xchunked", body=b"hello" + HIDDEN),
            status=(400, 501),
            reason=CODING,
        ),
        passed(
            "coding-upper-case", "9112 7", post(b"Transfer-Encoding: CHUNKED", body=body), HELLO
        ),
        passed("coding-on-get", "9110 9.3.1", head(chunked) + body, Seen(body=b"hello")),
    ]


def _chunks() -> list[RequestCase]:
    end = b"0\r\n\r\n"
    bodies = {
        "size-0x": b"0x5\r\nhello\r\n" + end,
        "size-plus": b"+5\r\nhello\r\n" + end,
        "size-minus": b"-5\r\nhello\r\n" + end,
        "size-underscore": b"0_5\r\nhello\r\n" + end,
        "size-space-before": b" 5\r\nhello\r\n" + end,
        "size-space-behind": b"5 \r\nhello\r\n" + end,
        "size-tab-behind": b"5\t\r\nhello\r\n" + end,
        "size-empty": b"\r\nhello\r\n" + end,
        "size-letters": b"g\r\nhello\r\n" + end,
        "size-comma": b"5,\r\nhello\r\n" + end,
        "size-over-64-bit": b"10000000000000005\r\nhello\r\n" + end,
        "size-nul": b"5\0\r\nhello\r\n" + end,
        "size-bare-lf": b"5\nhello\r\n" + end,
        "size-bare-cr": b"5\rhello\r\n" + end,
        "size-cr-cr-lf": b"5\r\r\nhello\r\n" + end,
        "data-too-long": b"4\r\nhello\r\n" + end,
        "data-too-short": b"6\r\nhello\r\n" + end + b"\r\n",
        "data-without-crlf": b"5\r\nhello" + end,
        "data-bare-lf": b"5\r\nhello\n" + end,
        "data-bare-cr": b"5\r\nhello\r" + end,
        "data-other-two-bytes": b"5\r\nhelloXX" + end,
        "end-bare-lf": b"5\r\nhello\r\n0\n\n",
        "end-bare-lf-last": b"5\r\nhello\r\n0\r\n\n",
        "extension-bare-lf": b"5;a\nhello\r\n" + end,
        "extension-bare-cr": b"5;a\rb\r\nhello\r\n" + end,
        "extension-nul": b"5;a=\0\r\nhello\r\n" + end,
        "extension-huge": b"5;" + b"a" * 40_000 + b"\r\nhello\r\n" + end,
        "trailer-bare-lf": b"5\r\nhello\r\n0\r\nX-T: 1\n\r\n",
        "trailer-space-before-colon": b"5\r\nhello\r\n0\r\nX-T : 1\r\n\r\n",
        "trailer-no-colon": b"5\r\nhello\r\n0\r\nX-T\r\n\r\n",
        "trailer-fold": b"5\r\nhello\r\n0\r\nX-T: 1\r\n 2\r\n\r\n",
        "trailer-nul": b"5\r\nhello\r\n0\r\nX-T: \0\r\n\r\n",
        "trailer-is-a-request": b"5\r\nhello\r\n0\r\n" + HIDDEN,
    }
    rows = [refused(f"chunk-{name}", "9112 7.1", chunks(body)) for name, body in bodies.items()]
    huge = b"0\r\n" + b"X-T: 1\r\n" * 8000 + b"\r\n"
    size = (400, 413)
    large = (*FRAMING, "body_too_large")
    return [
        *rows,
        refused(
            "chunk-size-64-bit",
            "9112 7.1",
            chunks(b"F" * 16 + b"\r\nhello"),
            status=size,
            reason=large,
        ),
        refused(
            "chunk-trailers-huge",
            "6585 5",
            chunks(huge),
            status=(400, 431),
            reason=(*FRAMING, *LARGE),
        ),
        passed(
            "chunk-extension-dropped",
            "9112 7.1.1",
            chunks(b'5;a=b;c="d e"\r\nhello\r\n' + end),
            HELLO,
        ),
        passed("chunk-leading-zeros", "9112 7.1", chunks(b"0005\r\nhello\r\n000\r\n\r\n"), HELLO),
        passed(
            "chunk-hexadecimal",
            "9112 7.1",
            chunks(b"A\r\nhellohello\r\n" + end),
            Seen(method="POST", body=b"hello" * 2),
        ),
        passed(
            "chunk-many-small",
            "9112 7.1",
            chunks(b"1\r\nx\r\n" * 300 + end),
            Seen(method="POST", body=b"x" * 300),
        ),
        passed(
            "trailer-kept",
            "9110 6.5",
            chunks(b"5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n"),
            Seen(method="POST", body=b"hello", trailers=(("x-t", "1"),)),
        ),
        passed(
            "trailer-forbidden-fields-dropped",
            "9110 6.5.1",
            chunks(
                b"5\r\nhello\r\n0\r\n"
                b"Content-Length: 9\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            ),
            HELLO,
        ),
    ]


BODIES: list[RequestCase] = [*_lengths(), *_codings(), *_chunks()]
