"""Every request row; here those about whole connections: pipelines, hop-by-hop, strangers."""

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
from tests.conformance.request_bodies import BODIES
from tests.conformance.request_heads import HEADS

HELLO = Seen(method="POST", body=b"hello")
VERSION = ("version_not_supported", *FRAMING)


def _connections() -> list[RequestCase]:
    good = head()
    bad = head(b"X-A : 1")
    hidden = post(b"Content-Length: %d" % len(HIDDEN), body=HIDDEN)
    first = frozenset({200})
    half = RequestCase(
        id="pipeline-good-then-bad",
        rfc="9112 9.3.2",
        raw=good + bad + HIDDEN,
        statuses=(first, frozenset({400})),
        reasons=frozenset(FRAMING),
        upstream=(Seen(),),
        closes=True,
    )
    settings = (
        b"Connection: Upgrade, HTTP2-Settings",
        b"Upgrade: h2c",
        b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
    )
    upgrade = (b"Connection: Upgrade", b"Upgrade: websocket", b"Content-Length: 5")
    return [
        half,
        refused("pipeline-bad-then-good", "9112 9.3.2", bad + HIDDEN),
        passed("pipeline-two-good", "9112 9.3.2", good + good, Seen(), Seen()),
        passed(
            "pipeline-request-in-body",
            "9112 6.2",
            hidden + good,
            Seen(method="POST", body=HIDDEN),
            Seen(),
        ),
        passed(
            "pipeline-request-in-chunk",
            "9112 7.1",
            chunks(b"%x\r\n%s\r\n0\r\n\r\n" % (len(HIDDEN), HIDDEN)) + good,
            Seen(method="POST", body=HIDDEN),
            Seen(),
        ),
        passed(
            "close-drops-what-follows",
            "9112 9.6",
            head(b"Connection: close") + HIDDEN,
            Seen(),
            closes=True,
        ),
        passed(
            "1.0-drops-what-follows",
            "9112 9.3",
            head(start=b"GET /c HTTP/1.0") + HIDDEN,
            Seen(),
            closes=True,
        ),
        passed(
            "connection-names-length",
            "9110 7.6.1",
            post(b"Connection: content-length", b"Content-Length: 5", body=b"hello"),
            HELLO,
        ),
        passed(
            "connection-names-coding",
            "9110 7.6.1",
            post(
                b"Connection: transfer-encoding",
                b"Transfer-Encoding: chunked",
                body=b"5\r\nhello\r\n0\r\n\r\n",
            ),
            HELLO,
        ),
        passed("connection-names-host", "9110 7.6.1", head(b"Connection: host")),
        passed(
            "connection-names-a-field",
            "9110 7.6.1",
            head(b"Connection: X-A", b"X-A: 1"),
            Seen(absent=("x-a",)),
        ),
        passed(
            "connection-names-twice",
            "9110 7.6.1",
            head(b"Connection: keep-alive, x-a", b"Connection: ,x-b,", b"X-A: 1", b"X-B: 2"),
            Seen(absent=("x-a", "x-b")),
        ),
        passed(
            "hop-by-hop-dropped",
            "9110 7.6.1",
            head(b"Keep-Alive: timeout=5", b"Proxy-Connection: keep-alive", b"TE: trailers"),
            Seen(absent=("keep-alive", "proxy-connection")),
        ),
        passed(
            "upgrade-h2c-dropped",
            "9110 7.8",
            head(*settings),
            Seen(absent=("upgrade", "http2-settings")),
        ),
        passed("upgrade-with-body", "9110 7.8", post(*upgrade, body=b"hello"), HELLO),
        passed(
            "expect-continue",
            "9110 10.1.1",
            post(b"Expect: 100-continue", b"Content-Length: 5", body=b"hello"),
            HELLO,
        ),
        refused(
            "expect-other",
            "9110 10.1.1",
            post(b"Expect: 200-ok", b"Content-Length: 5", body=b"hello"),
            status=417,
            reason="expectation_failed",
        ),
        passed(
            "forwarded-for-forged",
            "7239 8.1",
            head(
                b"X-Forwarded-For: 6.6.6.6",
                b"X-Forwarded-Proto: https",
                b"X-Forwarded-Host: evil.test",
            ),
            Seen(
                fields={
                    "x-forwarded-for": "127.0.0.1",
                    "x-forwarded-proto": "http",
                    "x-forwarded-host": "weirgate.test",
                }
            ),
        ),
    ]


def _foreign() -> list[RequestCase]:
    hello = bytes.fromhex("16030100c8010000c403035cb1") + bytes(190)
    rows = {
        "tls-client-hello": hello,
        "http2-preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "proxy-v1": b"PROXY TCP4 6.6.6.6 127.0.0.1 1 80\r\n" + head(),
        "proxy-v2": b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\6\6\6\6\x7f\0\0\1\0\1\0\x50" + head(),
        "ssh": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        "redis": b"*1\r\n$4\r\nPING\r\n\r\n",
        "zeros": bytes(64),
        "response": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    }
    reasons = (*VERSION, "bad_request_target", "bad_host")
    return [
        refused(f"foreign-{name}", "9112 3", raw, status=(400, 505), reason=reasons, silent=True)
        for name, raw in rows.items()
    ]


REQUESTS: list[RequestCase] = [*HEADS, *BODIES, *_connections(), *_foreign()]
