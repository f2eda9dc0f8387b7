"""HTTP/2 requests whose targets and cookies would mean something else in HTTP/1.1."""

from tests.conformance.injection_cases import (
    BREAKS,
    CONTROLS,
    HIDDEN,
    Injection,
    Raw,
    either,
    passed,
    refused,
    start,
)


def _pseudo() -> list[Injection]:
    paths = {
        "space": b"/a b",
        "a version": b"/a HTTP/1.1",
        "a request": b"/ HTTP/1.1\r\nHost: evil.test\r\n\r\nGET /smuggled",
        "no slash": b"a",
        "not ASCII": b"/\xe4",
        "up and away": b"/../a",
        "encoded up and away": b"/%2e%2e/a",
        "empty": b"",
        "star": b"*",
        "very long": b"/" + b"a" * 9000,
        **{f"with {key}": b"/a" + value + b"b" for key, value in {**BREAKS, **CONTROLS}.items()},
    }
    methods = {
        "space": b"GET /",
        "a request line": b"GET /smuggled HTTP/1.1\r\nX:",
        "empty": b"",
        "not ASCII": b"G\xcbT",
        "colon": b"GE:T",
        "CONNECT": b"CONNECT",
        "TRACE": b"TRACE",
        **{f"with {key}": b"GE" + value + b"T" for key, value in BREAKS.items()},
    }
    authorities = {
        "empty": b"",
        "space": b"weirgate.test evil",
        "user": b"user@weirgate.test",
        "slash": b"weirgate.test/x",
        "question mark": b"weirgate.test?x",
        "bad port": b"weirgate.test:x",
        "not ASCII": b"w\xe4irgate.test",
        **{f"with {key}": b"weirgate.test" + v + b"x" for key, v in BREAKS.items()},
    }
    schemes = {
        "space": b"ht tp",
        "a URL": b"http://evil.test/?",
        "colon": b"http:",
        **{f"with {key}": b"http" + value for key, value in BREAKS.items()},
    }
    other = b"other.test"
    return [
        *[refused(f":path {key}", *start(path=value)) for key, value in paths.items()],
        *[refused(f":method {key}", *start(value)) for key, value in methods.items()],
        *[refused(f":authority {k}", *start(authority=v)) for k, v in authorities.items()],
        *[refused(f":scheme {key}", *start(scheme=value)) for key, value in schemes.items()],
        # The h2 crate drops the fragment before anybody sees it.
        either(":path with a fragment", *start(path=b"/a#b")),
        either(":scheme empty", *start(scheme=b"")),
        *[
            passed(f":path {path.decode()}", *start(path=path), target=path.decode())
            for path in (b"/%00", b"/%4", b"/%zz")
        ],
        passed(
            ":authority with a comma", *start(authority=b"weirgate.test,b"), host="weirgate.test,b"
        ),
        refused("host differs", *start(), (b"host", other)),
        refused("host twice", *start(), (b"host", b"weirgate.test"), (b"host", b"weirgate.test")),
        refused("host with a list", *start()[:3], (b"host", b"weirgate.test, other.test")),
        refused("host empty", *start()[:3], (b"host", b"")),
        refused("no host", *start()[:3]),
        passed("host alone", *start()[:3], (b"host", b"weirgate.test"), host="weirgate.test"),
        passed("host the same", *start(), (b"host", b"weirgate.test"), host="weirgate.test"),
        passed("a strange method", *start(b"PR!VATE")),
        passed("a path with a query", *start(path=b"/c?a=b/../?c"), target="/c?a=b/../?c"),
        passed("a path of dots", *start(path=b"/x/./../c")),
    ]


def _cookies() -> list[Injection]:
    def split(*crumbs: bytes) -> tuple[Raw, ...]:
        return (*start(), *[(b"cookie", crumb) for crumb in crumbs])

    return [
        passed("two crumbs", *split(b"a=1", b"b=2"), cookie="a=1; b=2"),
        passed("sixty crumbs", *split(*[b"a=1"] * 60), cookie="; ".join(["a=1"] * 60)),
        passed("crumbs over 127", *split(b"a=\xff", b"b=\x80"), cookie="a=\xff; b=\x80"),
        passed("an empty crumb between", *split(b"a=1", b"", b"b=2")),
        passed("only empty crumbs", *split(b"", b"")),
        passed("crumbs with semicolons", *split(b"a=1;", b";b=2")),
        refused("a crumb with LF", *split(b"a=1", b"b\n=2")),
        refused("a crumb with NUL", *split(b"a=1", b"b\0=2")),
        refused("a crumb that is a request", *split(b"a=1", b"\r\n\r\n" + HIDDEN)),
        refused("a thousand crumbs", *split(*[b"a=1" * 5] * 3000)[:1200], (b"x", b"y" * 16_000)),
        refused("too many fields", *start(), *[(b"x-%d" % n, b"") for n in range(150)]),
    ]


TARGETS = [*_pseudo(), *_cookies()]
