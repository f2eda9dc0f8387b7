"""Services of a Kubernetes cluster, by their annotations, and the addresses of their endpoints.

Layout: ``kubernetes_api`` asks the API server, ``kubernetes_watch`` keeps a copy of one kind of
objects, ``kubernetes_objects`` knows what they mean; here the copies are put together.
"""

import asyncio
import functools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

from weirgate.shared.config.discovery_kubernetes import EVERYWHERE, KubernetesDiscovery
from weirgate.shared.discovery.found import Changed, Found, Said
from weirgate.shared.discovery.kubernetes_api import SERVICE_ACCOUNT, Access, ApiError, read
from weirgate.shared.discovery.kubernetes_objects import (
    SERVICE_NAME,
    Key,
    Service,
    Slice,
    endpoint_slice,
    found,
    service,
)
from weirgate.shared.discovery.kubernetes_watch import SERVICES, SLICES, ObjectWatch, Times

#: Changes are told of at most so often; what comes meanwhile is told together.
_PAUSE_SECONDS = 0.05
_RETRY_SECONDS = 10.0
#: Troubles that a message names.
_MOST_NAMED = 3


@dataclass(frozen=True, slots=True)
class _Namespace:
    """What is watched of one namespace, or of all of them."""

    services: ObjectWatch[Service]
    slices: ObjectWatch[Slice]
    #: What was made of which objects: few of thousands change at a time.
    known: dict[Key, tuple[Service, list[Slice], Found]] = field(default_factory=dict)

    @property
    def synced(self) -> bool:
        """Whether both copies are whole."""
        return self.services.synced and self.slices.synced

    def founds(self) -> Iterator[tuple[str, Key, Found]]:
        """Give each Service's age, key and finding; nothing before both copies are whole."""
        if not self.synced:
            return
        slices: dict[Key, list[Slice]] = {key: [] for key in self.services.objects}
        for each in self.slices.objects.values():
            if each.service in slices:
                slices[each.service].append(each)
        before = dict(self.known)
        self.known.clear()
        for key, own in self.services.objects.items():
            known = before.get(key)
            if known is None or known[0] is not own or known[1] != slices[key]:
                known = own, slices[key], found(own, slices[key])
            self.known[key] = known
            yield own.created, key, known[2]


class KubernetesSource:
    """Watches the Services that the configuration asks for."""

    kind = "kubernetes"

    def __init__(
        self,
        settings: KubernetesDiscovery,
        *,
        environ: Mapping[str, str] | None = None,
        times: Times | None = None,
    ) -> None:
        """``environ`` tells where the API server of the own cluster is."""
        self._settings = settings
        self._environ = os.environ if environ is None else environ
        resync = settings.resync.total_seconds()
        self._times = times or replace(Times(), resync=resync)
        self._dirty = asyncio.Event()

    async def watch(self, changed: Changed, said: Said) -> None:
        """Tell of all Services at first and after each change, until cancelled."""
        access, namespaces, trouble = await self._begin(said)
        watched = [self._watched(access, namespace) for namespace in namespaces]
        async with asyncio.TaskGroup() as group:
            for each in watched:
                group.create_task(each.services.run())
                group.create_task(each.slices.run())
            await self._tell(watched, changed, said, trouble)

    async def _begin(self, said: Said) -> tuple[Access, list[str | None], str]:
        """Find out whom to ask for what; wait for files that are not there yet.

        The last item is what was said to be wrong meanwhile.
        """
        settings, failure = self._settings, ""
        while True:
            try:
                access = Access.of(self._environ, settings.api_server, settings.token, settings.ca)
                return access, self._namespaces(), failure
            except ApiError as error:
                if str(error) != failure:
                    failure = str(error)
                    said(failure)
            await asyncio.sleep(_RETRY_SECONDS)

    def _namespaces(self) -> list[str | None]:
        named = self._settings.namespace
        if EVERYWHERE in named:
            return [None]
        return [*(named or (read(SERVICE_ACCOUNT / "namespace").strip(),))]

    def _watched(self, access: Access, namespace: str | None) -> _Namespace:
        reduce = functools.partial(service, prefix=self._settings.prefix)
        selector, times, changed = self._settings.selector, self._times, self._dirty.set
        return _Namespace(
            ObjectWatch(
                access, SERVICES, namespace, reduce,
                selector=selector, times=times, changed=changed,
            ),
            ObjectWatch(
                access, SLICES, namespace, endpoint_slice,
                selector=SERVICE_NAME, times=times, changed=changed,
            ),
        )  # fmt: skip

    async def _tell(
        self, watched: list[_Namespace], changed: Changed, said: Said, trouble: str
    ) -> None:
        watches: list[ObjectWatch[Any]] = [w for n in watched for w in (n.services, n.slices)]
        told: tuple[Found, ...] | None = None
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            now = _joined([watch.trouble for watch in watches])
            if now != trouble:
                trouble = now
                said(trouble)
            # the first word is on everything that can be had: part of it would look like a loss
            ready = all(watch.tried for watch in watches) and any(each.synced for each in watched)
            founds = sorted(chain.from_iterable(e.founds() for e in watched), key=_age_and_key)
            state = tuple(found for _, _, found in founds)
            if ready and state != told:
                told = state
                changed(state)
            await asyncio.sleep(_PAUSE_SECONDS)


def _age_and_key(item: tuple[str, Key, Found]) -> tuple[str, Key]:
    return item[:2]


def _joined(troubles: list[str]) -> str:
    distinct = list(dict.fromkeys(filter(None, troubles)))
    named, more = distinct[:_MOST_NAMED], distinct[_MOST_NAMED:]
    return "; ".join([*named, *([f"and {len(more)} more"] if more else [])])
