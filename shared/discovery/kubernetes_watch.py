"""A copy of one kind of objects of one namespace, kept up to date: list once, then watch.

What is copied survives every failure. A watch that breaks goes on from the last change that it
told of; only where the server no longer knows that (410) everything is listed anew, and the copy
is replaced in one step.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from weirgate.shared.discovery.kubernetes_api import (
    Access,
    ApiError,
    Connection,
    ForbiddenError,
    GoneError,
    event_error,
)
from weirgate.shared.discovery.kubernetes_objects import Key, key_of

log = logging.getLogger(__name__)

#: Of one kind in one namespace.
MAX_OBJECTS = 50_000
_PAGE_OBJECTS = 100
#: Between them others get their turn: a slice can have a thousand endpoints.
_OBJECTS_AT_ONCE = 10
_FIRST_RETRY_SECONDS, _LONGEST_RETRY_SECONDS = 0.1, 10.0
#: Listing so much for nothing must not be done every few seconds.
_TOO_MANY_SECONDS = 60.0
#: A watch that the server ended sooner is counted as failed, or it would be opened in a circle.
_SHORTEST_WATCH_SECONDS = 1.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of objects: where the API has it and how people call it."""

    prefix: str
    plural: str

    def path(self, namespace: str | None) -> str:
        """Return the path of the collection; without a namespace, that of all of them."""
        inside = f"/namespaces/{namespace}" if namespace else ""
        return f"{self.prefix}{inside}/{self.plural}"


SERVICES = Kind("/api/v1", "services")
SLICES = Kind("/apis/discovery.k8s.io/v1", "endpointslices")


@dataclass(frozen=True, slots=True)
class Times:
    """How long things last, in seconds."""

    #: The longest watch; a fifth less by chance, so that nodes do not come back together.
    watch: int = 120
    #: Everything is listed anew after so long; 0 = never.
    resync: float = 600.0


class _TooManyError(ApiError):
    """More objects than are kept."""


class ObjectWatch(Generic[T]):
    """Keeps ``objects``: what ``reduce`` makes of each object, or nothing where it gives ``None``.

    ``changed`` is called after each change; ``trouble`` is empty while all is well.
    """

    def __init__(
        self,
        access: Access,
        kind: Kind,
        namespace: str | None,
        reduce: Callable[[Mapping[str, Any]], T | None],
        *,
        selector: str | None,
        times: Times,
        changed: Callable[[], None],
    ) -> None:
        self.namespace = namespace
        self.objects: dict[Key, T] = {}
        self.synced = False
        self.tried = False
        self.trouble = ""
        self._access = access
        self._kind = kind
        self._reduce = reduce
        self._selector = {} if selector is None else {"labelSelector": selector}
        self._times = times
        self._changed = changed
        self._version = ""
        self._list_again_at = 0.0
        self._opened_at = float("inf")
        self._failures = 0

    async def run(self) -> None:
        """Keep the copy fresh, until cancelled."""
        while True:
            try:
                # a new connection after each failure reads a renewed authority, too
                async with self._access.connect() as connection:
                    while True:
                        await self._once(connection)
            except GoneError:
                self._version = ""
                pause = self._failed("")
            except _TooManyError as error:
                self._version = ""
                self._failed(str(error), at_once=True)
                pause = _TOO_MANY_SECONDS
            except ForbiddenError as error:
                pause = self._failed(self._forbidden(error), at_once=True)
            except ApiError as error:
                pause = self._failed(str(error))
            except Exception as error:  # a bug met by one object must not end the watch
                log.exception("watching Kubernetes failed")
                self._version = ""
                pause = self._failed(f"{type(error).__name__}: {error}", at_once=True)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads, guards nothing

    async def _once(self, connection: Connection) -> None:
        """List where that is due, then watch for one watch's time."""
        loop = asyncio.get_running_loop()
        if not self._version or loop.time() >= self._list_again_at:
            await self._list(connection)
        heard = await self._watch(connection)
        if not heard and loop.time() - self._opened_at < _SHORTEST_WATCH_SECONDS:
            raise ApiError("watches end at once")

    async def _list(self, connection: Connection) -> None:
        fresh: dict[Key, T] = {}
        seen = 0
        page: dict[str, Any] = {}
        wanted = {"limit": str(_PAGE_OBJECTS), **self._selector}
        while True:
            page = await connection.page(self._path, wanted)
            items = page.get("items") or []
            seen += len(items)
            if seen > MAX_OBJECTS:
                raise _TooManyError(
                    f"more than {MAX_OBJECTS} {self._kind.plural}{self._where}: "
                    "name fewer namespaces, or a selector"
                )
            for index, item in enumerate(items):
                if index % _OBJECTS_AT_ONCE == 0:
                    await asyncio.sleep(0)
                reduced = self._reduce(item)
                if reduced is not None:
                    fresh[key_of(item)] = reduced
            metadata = page.get("metadata") or {}
            if not metadata.get("continue"):
                break
            wanted["continue"] = metadata["continue"]
        self._version = str(metadata.get("resourceVersion") or "")
        if not self._version:
            raise ApiError("a list without a resourceVersion")
        resync = self._times.resync
        self._list_again_at = asyncio.get_running_loop().time() + (resync or float("inf"))
        self.objects = fresh
        self.synced = True
        self._is_well()
        self._changed()

    async def _watch(self, connection: Connection) -> bool:
        """Follow the changes until the server ends the watch; say whether there were any."""
        longest = self._times.watch
        seconds = max(1, round(longest * random.uniform(0.8, 1.0)))  # noqa: S311 - as above
        parameters = {
            "resourceVersion": self._version,
            "allowWatchBookmarks": "true",
            **self._selector,
        }
        heard = False
        async with connection.watch(self._path, parameters, seconds) as events:
            self._opened_at = asyncio.get_running_loop().time()
            self._is_well()
            async for event in events:
                self._take(event)
                heard, self._failures = True, 0
        return heard

    def _take(self, event: Mapping[str, Any]) -> None:
        what, item = event.get("type"), event.get("object")
        if not isinstance(item, dict):
            raise ApiError("an event without an object")
        if what == "ERROR":
            raise event_error(item)
        version = (item.get("metadata") or {}).get("resourceVersion")
        if what in {"ADDED", "MODIFIED", "DELETED"}:
            self._keep(key_of(item), None if what == "DELETED" else self._reduce(item))
        if version:
            self._version = str(version)

    def _keep(self, key: Key, reduced: T | None) -> None:
        if reduced is None:
            if self.objects.pop(key, None) is not None:
                self._changed()
            return
        if key not in self.objects and len(self.objects) >= MAX_OBJECTS:
            raise _TooManyError(f"more than {MAX_OBJECTS} {self._kind.plural}{self._where}")
        if self.objects.get(key) != reduced:
            self.objects[key] = reduced
            self._changed()

    def _is_well(self) -> None:
        if self.trouble or not self.tried:
            self.trouble, self.tried = "", True
            self._changed()

    def _failed(self, trouble: str, *, at_once: bool = False) -> float:
        """Note a failure; return the seconds to wait.

        One broken watch is no news: the next one goes on where it ended.
        """
        now = asyncio.get_running_loop().time()
        lasted, self._opened_at = now - self._opened_at, float("inf")
        self._failures = 1 if lasted >= _SHORTEST_WATCH_SECONDS else self._failures + 1
        if trouble and (at_once or self._failures > 1 or not self.synced):
            self.trouble, self.tried = trouble, True
            self._changed()
        doubled = _FIRST_RETRY_SECONDS * 2.0 ** min(self._failures - 1, 20)
        return min(_LONGEST_RETRY_SECONDS, doubled)

    def _forbidden(self, error: ApiError) -> str:
        return (
            f"not allowed to list and watch {self._kind.plural}{self._where} "
            f"(the service account lacks a Role and a RoleBinding): {error}"
        )

    @property
    def _path(self) -> str:
        return self._kind.path(self.namespace)

    @property
    def _where(self) -> str:
        return f" in namespace {self.namespace}" if self.namespace else " in all namespaces"
