"""What clients see of each example, product by product: asserted by a test, printed on the page."""

from dataclasses import dataclass

from tests.migrating.site import Product


@dataclass(frozen=True)
class Row:
    """One action of a client and what it saw; a product that shows something else is named.

    ``why`` says what makes the difference, in a sentence or two of Markdown.
    """

    action: str
    seen: str
    nginx: str = ""
    haproxy: str = ""
    weirgate: str = ""
    why: str = ""

    def of(self, product: Product) -> str:
        """Return what is seen of this product."""
        others = {
            Product.NGINX: self.nginx,
            Product.HAPROXY: self.haproxy,
            Product.WEIRGATE: self.weirgate,
        }
        return others[product] or self.seen

    @property
    def differs(self) -> bool:
        """Whether the products do not all show the same."""
        return any(self.of(product) != self.seen for product in Product)


EXPECTED: dict[str, tuple[Row, ...]] = {
    "pool": (
        Row("24 GETs", "a and b"),
        Row(
            "a answers 503 to its check",
            "b",
            nginx="a and b",
            why=(
                "The open nginx has no active checks (`health_check` is commercial): an endpoint "
                "that accepts and answers stays in."
            ),
        ),
        Row("a is dead, 24 GETs", "b"),
        Row("a is dead, POST", "b"),
        Row(
            "both are dead",
            "502",
            haproxy="503",
            why=(
                "HAProxy has marked both down and answers 503 itself. Weirgate's pools fail open "
                "by default: all are tried once more, so it is 502 with the reason "
                "`connect_refused`; `all_down: fail_closed` makes it 503."
            ),
        ),
    ),
    "paths": (
        Row("GET /api/v1?x=1", "a sees /v1?x=1"),
        Row("GET /api/", "a sees /"),
        Row("GET /api", "a sees /"),
        Row("GET /apis", "404"),
        Row("GET /images/1.png", "b sees /images/1.png"),
        Row("GET /other", "404"),
        Row(
            "GET /api/a%2Fb",
            "a sees /a%2Fb",
            nginx="a sees /a/b",
            why=(
                "`proxy_pass` with a path sends the decoded path on. Weirgate and HAProxy leave "
                "`%2F` what it was; `gateway.paths.encoded_slashes: decode` makes Weirgate do as "
                "nginx does."
            ),
        ),
    ),
    "hosts": (
        Row("Host: shop.example", "a"),
        Row("Host: SHOP.example", "a"),
        Row("Host: shop.example:80", "a"),
        Row("Host: anna.shop.example", "b"),
        Row("Host: x.anna.shop.example", "b"),
        Row("Host: notshop.example", "404"),
    ),
    "tls": (
        Row("http://shop.example/a?b=c", "308 https://shop.example/a?b=c"),
        Row(
            "http://shop.example:80/a?b=c",
            "308 https://shop.example:80/a?b=c",
            nginx="308 https://shop.example/a?b=c",
            why=(
                "`$host` is without the port. Weirgate's `{host}` and HAProxy's `redirect "
                "scheme` are what the client sent, and browsers send no `:80`; where clients "
                "do, write the name instead of `{host}`."
            ),
        ),
        Row("https://shop.example/", "certificate of shop.example; a"),
        Row("https://blog.example/", "certificate of blog.example; b"),
        Row(
            "TLS for another name",
            "certificate of shop.example; 404",
            nginx="certificate of shop.example; a",
            haproxy="certificate of shop.example; 503",
            why=(
                "All show their first certificate. nginx also answers with its first `server`; "
                "in the others no route, or no backend, matches the host."
            ),
        ),
        Row("TLS without a name", "certificate of shop.example; a"),
        Row("offered h2", "h2"),
    ),
    "sticky": (
        Row("24 GETs without a cookie", "a and b"),
        Row("24 GETs with the cookie from a", "a"),
        Row(
            "the application sees the cookie",
            "yes",
            haproxy="no",
            why="HAProxy's `indirect` takes it out of the request.",
        ),
        Row(
            "24 GETs with a cookie made up: route=b",
            "b",
            weirgate="a and b",
            why=(
                "Weirgate's cookie is signed: who writes one chooses nothing. The others' can "
                "be written by anybody."
            ),
        ),
        Row("the cookie from a, and a is dead", "b"),
        Row("then the client is told", "b"),
    ),
    "rate-limit": (
        Row("8 GETs of /login", "5 of 200, 3 of 429"),
        Row(
            "it is told when to come back",
            "no",
            weirgate="yes",
            why="Weirgate's 429 has `Retry-After`, in seconds.",
        ),
        Row("GET / by the same client", "200"),
        Row("GET /login by another one", "200"),
    ),
    "client-address": (
        Row("a stranger", "127.0.0.1; http"),
        Row("a stranger who claims to be another", "127.0.0.1; http"),
        Row(
            "the proxy, for a client",
            "203.0.113.7; https",
            weirgate="203.0.113.7, 127.0.0.2; https",
            why=(
                "Weirgate appends the peer to what a trusted proxy says, as RFC 7239 has it; "
                "the files of the other two put the one address in its place. (Here 127.0.0.2 "
                "is the proxy.) An application must know how many proxies there are, and count "
                "from the right."
            ),
        ),
        Row(
            "the proxy, for a client that claims to be another",
            "203.0.113.7; http",
            weirgate="192.0.2.99, 203.0.113.7, 127.0.0.2; http",
            why=(
                "The same. Weirgate's own limits, `match.source` and logs take 203.0.113.7: the "
                "last one that is not a trusted proxy."
            ),
        ),
        Row("X-Shop, as the application sees it", "blue"),
        Row("X-Frame-Options of the answer", "DENY"),
        Row("X-Powered-By of the answer", "none"),
    ),
    "websocket": (
        Row("three messages on /chat", "come back; closed after the silence"),
        Row("GET /, an application that does not answer", "504"),
    ),
    "canary": (
        Row("24 GETs with X-Canary: 1", "b"),
        Row("400 GETs without: b gets", "a tenth of them"),
    ),
    "maintenance": (
        Row("GET /ping", "200 pong"),
        Row("GET /shop", "503 <h1>Back at ten</h1>"),
        Row("its Content-Type", "text/html"),
        Row("its Retry-After", "600"),
        Row("HEAD /shop", "503, length 20"),
        Row("GET /shop from the office", "a"),
    ),
    "tcp": (
        Row("24 connections", "a and b"),
        Row(
            "the application is told",
            "the client, by v2",
            nginx="the client, by v1",
            why=(
                "nginx sends version 2 since 1.31.4 only. Applications that take PROXY headers "
                "mostly take both."
            ),
        ),
        Row("a is dead, 24 connections", "b"),
        Row("the client ends its side first", "gets all of the answer"),
    ),
    "passthrough": (
        Row("TLS for mail.example", "certificate of mail.example"),
        Row("TLS for anna.shop.example", "certificate of *.shop.example"),
        Row(
            "TLS for other.example",
            "closed",
            weirgate="alert: unrecognized name",
            why=(
                "Weirgate says in TLS why it refuses; `default: POOL` takes those clients instead."
            ),
        ),
        Row("TLS without a name", "closed", weirgate="alert: missing extension", why="The same."),
    ),
    "udp": (
        Row("8 clients ask", "a and b"),
        Row("a is dead, 8 clients ask until answered", "b"),
    ),
}
