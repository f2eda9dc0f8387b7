"""Requests whose head is malformed or odd: fields, Host, request line, target."""

from tests.conformance.cases import (
    FRAMING,
    HOST,
    RequestCase,
    Seen,
    head,
    passed,
    refused,
)

TARGET = ("bad_request_target", *FRAMING)
BAD_HOST = ("bad_host", *FRAMING)
VERSION = ("version_not_supported", *FRAMING)
LARGE = ("header_too_large",)


def _heads() -> list[RequestCase]:
    good = head(b"X-A: 1")
    lines = {
        "bare-cr-in-value": b"X-A: 1\rX-B: 2",
        "bare-cr-hides-length": b"X-A: 1\rContent-Length: 5",
        "cr-cr-lf": b"X-A: 1\r",
        "bare-lf-in-fields": b"X-A: 1\nX-B: 2",
        "nul-in-value": b"X-A: a\0b",
        "nul-in-name": b"X\0A: 1",
        "space-before-colon": b"X-A : 1",
        "tab-before-colon": b"X-A\t: 1",
        "empty-name": b": 1",
        "no-colon": b"X-A",
        "space-in-name": b"X A: 1",
        "non-ascii-name": b"X-\xe9: 1",
        "fold-by-space": b"X-A: 1\r\n 2",
        "fold-by-tab": b"X-A: 1\r\n\t2",
        "fold-empty": b"X-A: 1\r\n \r\nX-B: 2",
    }
    lines |= {f"name-with-{c:02x}": b"X%cA: 1" % c for c in b'"(),/;<=>?@[\\]{}'}
    lines |= {f"value-with-{c:02x}": b"X-A: a%cb" % c for c in (0x01, 0x07, 0x08, 0x0B, 0x1B, 0x7F)}
    rows = [refused(f"head-{name}", "9112 5", head(line)) for name, line in lines.items()]
    return [
        *rows,
        refused("head-bare-lf-everywhere", "9112 2.2", good.replace(b"\r\n", b"\n")),
        refused("head-bare-lf-in-request-line", "9112 2.2", good.replace(b"\r\n", b"\n", 1)),
        refused("head-bare-lf-at-end", "9112 2.2", good.removesuffix(b"\r\n") + b"\n"),
        refused("head-bare-cr-everywhere", "9112 2.2", good.replace(b"\n", b"") + b"\r\n\r\n"),
        refused("head-fold-in-first-field", "9112 5.2", good.replace(b"Host", b" Host")),
        refused("head-first-line-space", "9112 2.2", b" " + good),
        refused("head-leading-lf", "9112 2.2", b"\n" + good),
        refused("head-leading-cr", "9112 2.2", b"\r" + good),
        refused("head-two-leading-crlf", "9112 2.2", b"\r\n\r\n" + good),
        refused(
            "head-of-one-huge-field",
            "6585 5",
            head(b"X-A: " + b"a" * 40_000),
            status=431,
            reason=LARGE,
        ),
        refused(
            "head-of-many-fields", "6585 5", head(*[b"X-A: 1"] * 200), status=431, reason=LARGE
        ),
        refused(
            "head-of-a-huge-name", "6585 5", head(b"X" * 40_000 + b": 1"), status=431, reason=LARGE
        ),
        passed("head-one-leading-crlf", "9112 2.2", b"\r\n" + good, Seen(fields={"x-a": "1"})),
        passed("head-empty-value", "9110 5.5", head(b"X-A:"), Seen(fields={"x-a": ""})),
        passed("head-obs-text-value", "9110 5.5", head(b"X-A: \xe9"), Seen(fields={"x-a": "\xe9"})),
        passed("head-tab-in-value", "9110 5.5", head(b"X-A: a\tb"), Seen(fields={"x-a": "a\tb"})),
        passed(
            "head-value-in-spaces", "9110 5.5", head(b"X-A: \t 1 \t "), Seen(fields={"x-a": "1"})
        ),
        passed(
            "head-token-name",
            "9110 5.6.2",
            head(b"!#$%&'*+-.^_`|~9: 1"),
            Seen(fields={"!#$%&'*+-.^_`|~9": "1"}),
        ),
        passed("head-underscore-name", "9110 5.1", head(b"X_A: 1"), Seen(fields={"x_a": "1"})),
    ]


def _hosts() -> list[RequestCase]:
    values = {
        "empty": b"",
        "space-inside": b"a b",
        "user": b"user@weirgate.test",
        "slash": b"weirgate.test/x",
        "backslash": b"weirgate.test\\x",
        "query": b"weirgate.test?x",
        "fragment": b"weirgate.test#x",
        "list": b"weirgate.test, other.test",
        "port-letters": b"weirgate.test:80x",
        "port-too-large": b"weirgate.test:70000",
        "two-ports": b"weirgate.test:80:81",
        "open-bracket": b"[::1",
        "bad-address": b"[::g]",
        "non-ascii": b"weirgat\xe9.test",
        "quote": b'weir"gate.test',
        "angle": b"<weirgate.test>",
    }
    rows = [
        refused(f"host-{name}", "9112 3.2", head(host=b"Host: " + value), reason=BAD_HOST)
        for name, value in values.items()
    ]
    return [
        *rows,
        refused("host-missing", "9112 3.2", head(host=None), reason=BAD_HOST),
        refused("host-twice-equal", "9112 3.2", head(HOST), reason=BAD_HOST),
        refused("host-twice-different", "9112 3.2", head(b"Host: other.test"), reason=BAD_HOST),
        refused("host-twice-other-case", "9112 3.2", head(b"hOST: other.test"), reason=BAD_HOST),
        refused(
            "host-space-before-colon",
            "9112 5.1",
            head(host=b"Host : weirgate.test"),
            reason=BAD_HOST,
        ),
        passed(
            "host-with-port",
            "9110 7.2",
            head(host=b"Host: weirgate.test:80"),
            Seen(host="weirgate.test:80"),
        ),
        passed("host-of-ipv6", "9110 7.2", head(host=b"Host: [::1]:80"), Seen(host="[::1]:80")),
        passed(
            "host-missing-in-1.0",
            "9112 3.2",
            head(start=b"GET /c HTTP/1.0", host=None),
            Seen(host=None),
            closes=True,
        ),
    ]


def _lines() -> list[RequestCase]:
    versions = [b"HTTP/2.0", b"HTTP/3", b"HTTP/0.9", b"HTTP/1.2", b"HTTP/1.10", b"HTTP/01.1"]
    versions += [
        b"HTTP/1",
        b"http/1.1",
        b"HTTP/1.1x",
        b"HTTPS/1.1",
        b"HTTP/ 1.1",
        b"HTTP1.1",
        b"HTTP/1,1",
    ]
    rows = [
        refused(
            f"version-{version.decode().replace('/', '-').replace(' ', '_')}",
            "9112 2.3",
            head(start=b"GET /c " + version),
            status=(400, 505),
            reason=VERSION,
        )
        for version in versions
    ]
    starts = {
        "two-spaces-behind-method": b"GET  /c HTTP/1.1",
        "two-spaces-behind-target": b"GET /c  HTTP/1.1",
        "space-at-end": b"GET /c HTTP/1.1 ",
        "tab-behind-method": b"GET\t/c HTTP/1.1",
        "tab-behind-target": b"GET /c\tHTTP/1.1",
        "space-in-target": b"GET /c d HTTP/1.1",
        "no-target": b"GET HTTP/1.1",
        "no-method": b" /c HTTP/1.1",
        "method-with-parenthesis": b"GE(T /c HTTP/1.1",
        "method-with-colon": b"GET: /c HTTP/1.1",
        "method-with-nul": b"G\0T /c HTTP/1.1",
        "method-non-ascii": b"G\xc9T /c HTTP/1.1",
    }
    reasons = (*VERSION, "bad_request_target")
    rows += [
        refused(f"line-{name}", "9112 3", head(start=start), status=(400, 505), reason=reasons)
        for name, start in starts.items()
    ]
    return [
        *rows,
        refused(
            "line-without-version", "9112 3", b"GET /c\r\n\r\n", status=(400, 505), reason=reasons
        ),
        passed("method-lower-case", "9110 9.1", head(start=b"get /c HTTP/1.1"), Seen(method="get")),
        passed("method-unknown", "9110 9.1", head(start=b"BREW /c HTTP/1.1"), Seen(method="BREW")),
    ]


def _targets() -> list[RequestCase]:
    targets = {
        "fragment": b"/c#x",
        "non-ascii": b"/c\xe9",
        "nul": b"/c\0",
        "delete-character": b"/c\x7f",
        "control-character": b"/c\x01",
        "no-slash": b"c",
        "query-only": b"?c",
        "asterisk-on-get": b"*",
        "authority-on-get": b"weirgate.test:80",
        "absolute-user": b"http://user@weirgate.test/c",
        "absolute-no-host": b"http:///c",
        "absolute-other-scheme": b"ftp://weirgate.test/c",
        "absolute-bad-port": b"http://weirgate.test:x/c",
        "absolute-fragment": b"http://weirgate.test/c#x",
    }
    rows = [
        refused(
            f"target-{name}",
            "9112 3.2",
            head(start=b"GET " + target + b" HTTP/1.1"),
            reason=(*TARGET, "bad_host"),
        )
        for name, target in targets.items()
    ]
    absolute = b"GET http://other.test/c?d=1 HTTP/1.1"
    return [
        *rows,
        refused(
            "target-too-long",
            "9110 15.5.15",
            head(start=b"GET /" + b"c" * 9000 + b" HTTP/1.1"),
            status=414,
            reason="uri_too_long",
        ),
        refused(
            "connect",
            "9110 9.3.6",
            head(start=b"CONNECT weirgate.test:80 HTTP/1.1"),
            status=(400, 405, 501),
            reason=("method_not_supported", *TARGET),
        ),
        refused("asterisk-on-post", "9112 3.2.4", head(start=b"POST * HTTP/1.1"), reason=TARGET),
        passed(
            "asterisk-on-options",
            "9112 3.2.4",
            head(start=b"OPTIONS * HTTP/1.1"),
            Seen("*", "OPTIONS"),
        ),
        passed("absolute", "9112 3.2.2", head(start=b"GET http://weirgate.test/c HTTP/1.1")),
        passed(
            "absolute-wins-over-host",
            "9112 3.2.2",
            head(start=absolute),
            Seen("/c?d=1", host="other.test"),
        ),
        passed(
            "absolute-without-path",
            "9112 3.2.2",
            head(start=b"GET http://weirgate.test HTTP/1.1"),
            Seen("/"),
        ),
        passed(
            "target-encoded-bytes",
            "3986 2.1",
            head(start=b"GET /c%00%0d%0a%20?x=%ff HTTP/1.1"),
            Seen("/c%00%0d%0a%20?x=%ff"),
        ),
    ]


HEADS: list[RequestCase] = [*_heads(), *_hosts(), *_lines(), *_targets()]
