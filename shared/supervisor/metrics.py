"""The node's metrics: what the data planes count, added up, and the supervisor's own figures."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping

from weirgate.shared.control.client import ChildError
from weirgate.shared.observability.aggregate import Aggregate
from weirgate.shared.observability.prometheus import Family, parse, render
from weirgate.shared.supervisor.children import Child
from weirgate.shared.supervisor.endpoints import Endpoint

#: Of each source of discovery: whether it is well, its objects, and those with errors.
Figures = Mapping[str, tuple[bool, int, int]]


class NodeMetrics:
    """Collects on demand; nothing is scraped while nobody asks."""

    def __init__(self, version: str) -> None:
        self._version = version
        self._aggregate = Aggregate()
        self.reloads: Counter[str] = Counter({"applied": 0, "unchanged": 0, "refused": 0})

    async def text(
        self,
        children: list[Child],
        endpoints: Iterable[Endpoint],
        generation: int,
        sources: Figures,
    ) -> str:
        """Return everything as Prometheus text."""
        up = await asyncio.gather(*(self.collect(child) for child in children))
        own = [
            _up(children, up),
            _endpoint_up(endpoints),
            _restarts(children),
            self._reload_total(),
            _single(
                "weirgate_snapshot_generation", "Generation of the snapshot in force.", generation
            ),
            self._build_info(),
            *_discovery(sources),
        ]
        return render([*self._aggregate.families(), *own])

    async def collect(self, child: Child) -> bool:
        """Take in what a child has counted so far; say whether it answers."""
        try:
            families = parse(await child.client.metrics())
        except (ChildError, KeyError, TypeError, ValueError):
            self._aggregate.missing(child.key)
            return False
        if child.state == "ended":  # an answer from before that, and its counts are kept already
            return False
        self._aggregate.report(child.key, child.incarnation, families)
        return True

    def ended(self, child: Child) -> None:
        """Keep the counters of a child that will count no more."""
        self._aggregate.ended(child.key)

    def _reload_total(self) -> Family:
        family = Family("weirgate_reload_total", "counter", "Reloads by result.")
        for result, count in self.reloads.items():
            family.set(count, result=result)
        return family

    def _build_info(self) -> Family:
        family = Family("weirgate_build_info", "gauge", "Always 1; the version is a label.")
        family.set(1, version=self._version)
        return family


def _up(children: list[Child], up: list[bool]) -> Family:
    family = Family("weirgate_up", "gauge", "1 when the process answers.")
    for child, answers in zip(children, up, strict=True):
        family.set(int(answers), process=child.name)
    return family


def _endpoint_up(endpoints: Iterable[Endpoint]) -> Family:
    family = Family(
        "weirgate_endpoint_up", "gauge", "1 when the endpoint may get traffic, checked or not."
    )
    for endpoint in endpoints:
        family.set(
            int(endpoint.state in {"up", "unknown"}),
            pool=endpoint.pool,
            endpoint=endpoint.address,
        )
    return family


def _restarts(children: list[Child]) -> Family:
    family = Family(
        "weirgate_child_restarts_total", "counter", "Times a process ended and was started again."
    )
    for child in children:
        family.set(child.restarts - child.hangs, process=child.name, reason="ended")
        family.set(child.hangs, process=child.name, reason="hung")
    return family


def _discovery(sources: Figures) -> list[Family]:
    up = Family("weirgate_discovery_up", "gauge", "1 when the source of discovery is heard.")
    objects = Family("weirgate_discovery_objects", "gauge", "Objects with labels that are known.")
    errors = Family("weirgate_discovery_errors", "gauge", "Objects with an error in their labels.")
    for source, figures in sources.items():
        for family, value in zip((up, objects, errors), figures, strict=True):
            family.set(int(value), source=source)
    return [up, objects, errors] if sources else []


def _single(name: str, text: str, value: float) -> Family:
    family = Family(name, "gauge", text)
    family.set(value)
    return family
