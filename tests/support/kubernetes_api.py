"""An API server on 127.0.0.1 with real TLS: lists in pages and watches of Services and slices.

It keeps to what the Kubernetes API promises: versions, bookmarks, 410, the end of a watch after
``timeoutSeconds``, 401 and 403. How it fails is up to the test.
"""

import asyncio
import base64
import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.support import certs
from tests.support.kubernetes_answers import (
    KINDS,
    bookmark,
    failure,
    line_of,
    status_of,
    version_of,
)
from tests.support.kubernetes_store import GoneError, Object, Store, event_of, selector
from weirgate.shared.testing import eventually, free_port

BOOKMARK_S = 0.05

#: verb, API group, resource, namespace (empty = all)
Allowed = Callable[[str, str, str, str], bool]


@dataclass(frozen=True)
class Call:
    """One call that was made."""

    verb: str
    group: str
    plural: str
    namespace: str
    version: str
    status: int


class _CutError(Exception):
    """Ends a response in the middle."""


@dataclass
class KubernetesApi:
    """The server's knowledge, its rules and its faults."""

    directory: Path
    store: Store = field(default_factory=Store)
    #: Tokens that are good now.
    tokens: set[str] = field(default_factory=set)
    allowed: Allowed = lambda *_: True
    #: How a watch is told that its version is forgotten: an ``ERROR`` event, or the status 410.
    gone_as_event: bool = True
    #: Watches live on, but are told nothing, not even that they end.
    mute: bool = False
    #: Calls are answered so instead, while it is set.
    failing: int = 0
    calls: list[Call] = field(default_factory=list)
    #: Watches that are open now.
    watches: int = 0
    longest_page: int = 0

    def __post_init__(self) -> None:
        self.port = free_port()
        self._cut: list[asyncio.Future[bytes]] = []
        self._moved = asyncio.Event()
        self._old_tokens: set[str] = set()
        self._server: uvicorn.Server | None = None
        self._serving: asyncio.Task[None] | None = None
        self.token_file = self.directory / "token"
        self.ca_file = certs.authority_file(self.directory)
        self._files = certs.issue(self.directory, "127.0.0.1")
        self.rotate()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def environ(self) -> dict[str, str]:
        """Return the variables that a pod would have."""
        return {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(self.port)}

    # What happens in the cluster.

    def put(self, *items: Object) -> None:
        for item in items:
            self.store.put(item)
        self._tell()

    def delete(self, plural: str, namespace: str, name: str) -> None:
        self.store.delete(plural, namespace, name)
        self._tell()

    def rotate(self) -> None:
        """Renew the token as the kubelet does: the old one is good for a while yet."""
        self.tokens -= self._old_tokens
        self._old_tokens = set(self.tokens)
        token = secrets.token_hex(20)
        self.tokens |= {token}
        fresh = self.token_file.with_suffix(".new")
        fresh.write_text(token + "\n")
        fresh.replace(self.token_file)

    def expire(self) -> None:
        """End the life of all tokens but the newest."""
        self.tokens -= self._old_tokens

    def compact(self) -> None:
        """Forget history; open watches go on, as they have it in memory."""
        self.store.compact()

    def cut(self, rest: bytes = b"") -> None:
        """End every open watch at once, after these bytes."""
        cuts, self._cut = self._cut, []
        for cut in cuts:
            if not cut.done():
                cut.set_result(rest)
        self._tell()

    def calls_of(self, verb: str, plural: str = "services") -> list[Call]:
        return [c for c in self.calls if c.verb == verb and c.plural == plural]

    # Starting and stopping.

    async def start(self) -> None:
        app = Starlette(
            routes=[
                Route("/api/v1/{plural}", self._call),
                Route("/api/v1/namespaces/{namespace}/{plural}", self._call),
                Route("/apis/{group}/v1/{plural}", self._call),
                Route("/apis/{group}/v1/namespaces/{namespace}/{plural}", self._call),
            ]
        )
        config = uvicorn.Config(
            app, host="127.0.0.1", port=self.port, loop="none", lifespan="off", log_config=None,
            ssl_certfile=self._files.cert, ssl_keyfile=self._files.key,
            timeout_graceful_shutdown=1,
        )  # fmt: skip
        self._server = server = _Server(config)
        self._serving = asyncio.create_task(server.serve())
        await eventually(lambda: server.started, what="the API server")

    async def stop(self) -> None:
        if self._server is None or self._serving is None:
            return
        self._server.should_exit = True
        self.cut()
        await self._serving
        self._server = None

    # Answering.

    async def _call(self, request: Request) -> Response:
        group = request.path_params.get("group", "")
        plural = request.path_params["plural"]
        namespace = request.path_params.get("namespace", "")
        query = request.query_params
        verb = "watch" if query.get("watch") in {"1", "true"} else "list"
        version = query.get("resourceVersion", "")
        status, message = self._judged(request, verb, group, plural, namespace)
        self.calls.append(Call(verb, group, plural, namespace, version, status))
        if status != 200:
            return failure(status, message)
        try:
            if verb == "watch":
                return self._watch(plural, namespace, query)
            return self._list(plural, namespace, query)
        except GoneError:
            return failure(410, "too old resource version")

    def _judged(
        self, request: Request, verb: str, group: str, plural: str, namespace: str
    ) -> tuple[int, str]:
        if self.failing:
            return self.failing, "the server is currently unable to handle the request"
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme != "Bearer" or token not in self.tokens:
            return 401, "Unauthorized"
        if plural not in KINDS or KINDS[plural][0] != (f"{group}/v1" if group else "v1"):
            return 404, "the server could not find the requested resource"
        if not self.allowed(verb, group, plural, namespace):
            account = "system:serviceaccount:weirgate:edge"
            where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
            return 403, (
                f'{plural} is forbidden: User "{account}" cannot {verb} resource "{plural}" in '
                f'API group "{group}" {where}'
            )
        return 200, ""

    def _list(self, plural: str, namespace: str, query: Any) -> Response:
        fits = selector(query.get("labelSelector", ""))
        version, start = None, 0
        if token := query.get("continue"):
            version, start = json.loads(base64.b64decode(token))
        version, everything = self.store.snapshot(version)
        items = [
            item
            for place, item in everything
            if place.plural == plural and namespace in {"", place.namespace} and fits(item)
        ]
        limit = int(query.get("limit", 0)) or len(items)
        page = items[start : start + limit]
        self.longest_page = max(self.longest_page, len(page))
        metadata: Object = {"resourceVersion": str(version)}
        if start + limit < len(items):
            following = json.dumps([version, start + limit]).encode()
            metadata["continue"] = base64.b64encode(following).decode()
            metadata["remainingItemCount"] = len(items) - start - limit
        api_version, kind = KINDS[plural]
        # items of a list carry neither apiVersion nor kind
        bare = [{k: v for k, v in i.items() if k not in {"apiVersion", "kind"}} for i in page]
        return JSONResponse(
            {
                "kind": f"{kind}List",
                "apiVersion": api_version,
                "metadata": metadata,
                "items": bare,
            }
        )

    def _watch(self, plural: str, namespace: str, query: Any) -> Response:
        version = int(query["resourceVersion"])
        if version < self.store.compacted and not self.gone_as_event:
            raise GoneError
        return StreamingResponse(
            self._events(plural, namespace, version, query), media_type="application/json"
        )

    async def _events(
        self, plural: str, namespace: str, version: int, query: Any
    ) -> AsyncIterator[bytes]:
        fits = selector(query.get("labelSelector", ""))
        bookmarks = query.get("allowWatchBookmarks") == "true"
        loop = asyncio.get_running_loop()
        cut: asyncio.Future[bytes] = loop.create_future()
        self._cut.append(cut)
        end = loop.time() + float(query["timeoutSeconds"])
        self.watches += 1
        try:
            seen = version
            while loop.time() < end or self.mute:
                if cut.done():
                    yield cut.result()
                    raise _CutError
                moved = self._moved
                if not self.mute:
                    for event in self._news(plural, namespace, seen, fits):
                        yield line_of(event)
                        version = max(version, version_of(event))
                        if event["type"] == "ERROR":
                            return
                    seen = self.store.version
                    if bookmarks and seen > version:
                        version = seen
                        yield line_of(bookmark(plural, version))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(moved.wait(), BOOKMARK_S)
        finally:
            self.watches -= 1

    def _news(
        self, plural: str, namespace: str, version: int, fits: Callable[[Object], bool]
    ) -> list[Object]:
        try:
            changes = self.store.since(version)
        except GoneError:
            status = status_of(410, f"too old resource version: {version}")
            return [{"type": "ERROR", "object": status}]
        events = (
            event_of(change, fits)
            for change in changes
            if change.place.plural == plural and namespace in {"", change.place.namespace}
        )
        return [event for event in events if event is not None]

    def _tell(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        yield


@contextlib.asynccontextmanager
async def kubernetes_api(directory: Path) -> AsyncIterator[KubernetesApi]:
    """Run an API server."""
    api = KubernetesApi(directory)
    await api.start()
    try:
        yield api
    finally:
        await api.stop()
