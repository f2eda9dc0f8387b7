"""Users over HTTP: a visitor, a program, a buyer, and one who moves files."""

import hashlib
import itertools
import random
import secrets
from collections.abc import Callable
from typing import Any, ClassVar

import geventhttpclient.client
from locust import FastHttpUser, task

from loadtests.users.pace import PLAN, pause

IMAGES = ("icon.png", "thumb.png", "card.png", "banner.png", "poster.png", "logo.svg")
SIZES_BYTES = (1_000, 20_000, 300_000)
#: What api.py sends in downloads, over and over.
BLOCK = bytes(range(256)) * 256

# Locust's client sends a GET again when its connection ends without an answer. A load test must see
# such an end: it is a failure, whoever would mend it.
assert hasattr(geventhttpclient.client, "_may_retry_after_send_error")
geventhttpclient.client._may_retry_after_send_error = lambda method: False  # noqa: SLF001

_turns = itertools.count()


class Web(FastHttpUser):
    """What all users over HTTP do: name their requests, and judge the answers."""

    abstract = True
    network_timeout = 15.0
    connection_timeout = 5.0
    insecure = True

    def __init__(self, environment: Any) -> None:
        self.host = _base(next(_turns))
        super().__init__(environment)

    def context(self) -> dict[str, str]:
        """What the recorder wants to know of each request."""
        return {"user": type(self).__name__, "kind": "http"}

    def ask(
        self,
        method: str,
        path: str,
        name: str = "",
        *,
        status: int = 200,
        check: Callable[[Any], str] = lambda answer: "",
        **options: Any,
    ) -> Any:
        """Send one request; return the answer, or None where it is not as it should be.

        `check` returns what is wrong with an answer of the right status, or nothing.
        """
        named = f"{type(self).__name__} {name or path}"
        with self.client.request(
            method, path, name=named, catch_response=True, allow_redirects=False, **options
        ) as answer:
            problem = _problem(answer, status) or check(answer)
            if problem:
                answer.failure(problem)
                return None
            answer.success()
            return answer


def _base(turn: int) -> str:
    """By turns HTTP and HTTPS, where the target has both."""
    target = PLAN.target
    secure = target.tls and (turn % 2 or not target.http)
    host = f"[{target.host}]" if ":" in target.host else target.host
    return f"https://{host}:{target.tls}" if secure else f"http://{host}:{target.http}"


def _problem(answer: Any, status: int) -> str:
    if answer.status_code == status:
        return ""
    if answer.status_code:
        return f"status {answer.status_code} instead of {status}"
    return f"no answer: {answer.error!r}"[:120]


class Browse(Web):
    """Reads pages and images on kept connections, as a browser with a cache does."""

    weight = 5
    wait_time = pause(0.2, 1.0)

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.tags: dict[str, str] = {}

    @task(2)
    def home(self) -> None:
        """The front page."""
        self.ask("GET", "/", check=lambda answer: "" if b"Shop" in answer.content else "wrong page")

    @task(5)
    def image(self) -> None:
        """An image, asked for on condition when it is known already."""
        path = f"/images/{random.choice(IMAGES)}"
        if known := self.tags.get(path):
            self.ask("GET", path, "/images/* again", status=304, headers={"If-None-Match": known})
        elif answer := self.ask("GET", path, "/images/*", check=_is_whole):
            self.tags[path] = answer.headers["etag"]

    @task(1)
    def part(self) -> None:
        """The first bytes of an image."""
        wanted = {"Range": "bytes=0-99"}
        name, check = "/images/* part", _has_bytes(100)
        self.ask("GET", "/images/card.png", name, status=206, headers=wanted, check=check)

    @task(2)
    def items(self) -> None:
        """The list of what there is."""
        self.ask("GET", "/api/items", check=lambda a: "" if len(a.json()["items"]) else "no items")


def _is_whole(answer: Any) -> str:
    told = int(answer.headers.get("content-length", -1))
    return "" if told == len(answer.content) else "not the length that was told"


def _has_bytes(count: int) -> Callable[[Any], str]:
    return lambda answer: "" if len(answer.content) == count else f"not {count} bytes"


class Api(Web):
    """A program: JSON there and back, and answers that take their time."""

    weight = 3
    wait_time = pause(0.1, 0.5)

    @task(4)
    def read(self) -> None:
        """Who answers, and what it saw."""
        self.ask("GET", "/api/whoami?headers=1", "/api/whoami", check=_knows_us)

    @task(3)
    def add(self) -> None:
        """A new item."""
        item = {"name": secrets.token_hex(4), "price_cents": random.randint(1, 9999)}

        def check(answer: Any) -> str:
            return "" if answer.json()["item"]["name"] == item["name"] else "another item"

        self.ask("POST", "/api/items", "POST /api/items", status=201, json=item, check=check)

    @task(1)
    def slow(self) -> None:
        """An answer after 50 ms."""
        self.ask("GET", "/api/slow?ms=50", "/api/slow")

    @task(1)
    def absent(self) -> None:
        """A 404 of the application's, which has to arrive as such."""
        self.ask("GET", "/api/status/404", status=404)


def _knows_us(answer: Any) -> str:
    seen = answer.json()
    return "" if seen["client"] and seen["request_id"] else "no client address or request id"


class Checkout(Web):
    """Fills a cart that only one endpoint knows; on another endpoint it would be empty."""

    weight = 3
    wait_time = pause(0.2, 0.8)
    moved: ClassVar[str] = "cart moved"

    def on_start(self) -> None:
        """Begin without a cart."""
        self.instance = ""
        self.items: list[int] = []

    @task(3)
    def put(self) -> None:
        """One item more, or, of a full cart, a new one."""
        if len(self.items) >= 20:
            self.client.cookiejar.clear()
            self.on_start()
        item = random.randint(1, 20)
        self.items.append(item)
        self._cart("POST", json={"item": item})

    @task(2)
    def look(self) -> None:
        """What is in the cart."""
        self._cart("GET")

    def _cart(self, method: str, **options: Any) -> None:
        answer = self.ask(method, "/api/cart", f"{method} /api/cart", check=self._stays, **options)
        if answer is None:  # whatever is there now, a new cart is a cart that we know
            self.client.cookiejar.clear()
            self.on_start()

    def _stays(self, answer: Any) -> str:
        seen = answer.json()
        if not self.instance:
            self.instance = seen["instance"]
        if seen["instance"] != self.instance:
            return self.moved
        return "" if seen["items"] == self.items else "cart lost"


class UploadDownload(Web):
    """Moves files both ways and compares what arrived."""

    weight = 1
    wait_time = pause(0.5, 1.5)

    @task
    def upload(self) -> None:
        """Random bytes; the application says what it got."""
        body = random.randbytes(random.choice(SIZES_BYTES))
        digest = hashlib.sha256(body).hexdigest()

        def check(answer: Any) -> str:
            return "" if answer.json()["sha256"] == digest else "upload differs"

        self.ask("POST", "/api/upload", "POST /api/upload", data=body, check=check)

    @task
    def download(self) -> None:
        """Bytes that are known beforehand."""
        size = random.choice(SIZES_BYTES)
        expected = hashlib.sha256((BLOCK * (size // len(BLOCK) + 1))[:size]).digest()

        def check(answer: Any) -> str:
            return "" if hashlib.sha256(answer.content).digest() == expected else "download differs"

        self.ask("GET", f"/api/download?bytes={size}", "/api/download", check=check)
