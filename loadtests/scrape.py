"""Weirgate's own figures of a run, read from its admin APIs once a second.

Counters are added up by their increases, so that a node that was restarted meanwhile, and counts
from zero again, is not a negative number of requests.
"""

import os
import re
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

from weirgate.shared.config.nodes import POOL, Role

Key = tuple[str, tuple[tuple[str, str], ...]]
#: The token of the admin APIs, where they want one.
TOKEN_VARIABLE = "WEIRGATE_ADMIN_TOKEN"
_SAMPLE = re.compile(r"^([a-z_:][a-z0-9_:]*)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')
_COUNTED = ("_total", "_bucket", "_sum", "_count")


@dataclass
class Moment:
    """What one admin API said at one time: gauges as they were, counters as they had grown."""

    at: float  # since the epoch
    source: str
    answered: bool
    grown: dict[Key, float] = field(default_factory=dict)
    gauges: dict[Key, float] = field(default_factory=dict)


@dataclass
class Scraped:
    """All of a run."""

    sources: dict[str, str]
    moments: list[Moment] = field(default_factory=list)
    #: By source and name of a listener.
    protocols: dict[tuple[str, str], str] = field(default_factory=dict)

    def increase(self, family: str, **labels: str) -> float:
        """By how much a counter grew, summed over all sources and other labels."""
        return sum(
            value
            for moment in self.moments
            for (name, carried), value in moment.grown.items()
            if name == family and labels.items() <= dict(carried).items()
        )

    def by_label(self, family: str, *labels: str) -> dict[tuple[str, ...], float]:
        """The same for each value of some labels; `source` is a label, too."""
        found: dict[tuple[str, ...], float] = defaultdict(float)
        for moment in self.moments:
            for (name, carried), value in moment.grown.items():
                if name == family and value:
                    known = {"source": moment.source, **dict(carried)}
                    found[tuple(known.get(label, "") for label in labels)] += value
        return dict(found)

    def per_second(self, family: str, *labels: str) -> dict[int, dict[str, float]]:
        """The increases of each second by some labels, with spaces in between."""
        found: dict[int, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        for moment in self.moments:
            for (name, carried), value in moment.grown.items():
                if name == family:
                    key = " ".join(dict(carried).get(label, "") for label in labels)
                    found[int(moment.at)][key] += value
        return found


@contextmanager
def scraping(sources: Mapping[str, str]) -> Iterator[Scraped]:
    """Read the sources in a thread while the block runs, and once more at its end."""
    scraped = Scraped(dict(sources))
    ended = threading.Event()
    readers = [_Reader(name, url, scraped) for name, url in sources.items()]
    for reader in readers:
        reader.read()
        reader.ask_for_listeners()
    threads = [threading.Thread(target=reader.until, args=(ended,)) for reader in readers]
    for thread in threads:
        thread.start()
    try:
        yield scraped
    finally:
        ended.set()
        for thread in threads:
            thread.join()
        for reader in readers:
            reader.read()
            reader.client.close()


class _Reader:
    """Reads one source."""

    def __init__(self, name: str, url: str, scraped: Scraped) -> None:
        token = os.environ.get(TOKEN_VARIABLE)
        headers = {"authorization": f"Bearer {token}"} if token else {}
        self.client = httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=3)
        self.name = name
        self.scraped = scraped
        self.last: dict[Key, float] = {}

    def until(self, ended: threading.Event) -> None:
        """Read at the end of each second."""
        while not ended.wait(1 - time.time() % 1):
            self.read()

    def ask_for_listeners(self) -> None:
        """Learn the protocols of the listeners, where the node is there."""
        try:
            status = self.client.get("/status").json()
            listeners, is_edge = status["listeners"], status["role"] == Role.EDGE.value
        except (httpx.HTTPError, ValueError, KeyError):
            return
        for entry in listeners:
            # To an edge before gateway nodes, what they read is a stream like others.
            read_there = is_edge and entry["pool"] == POOL
            protocol = "http" if read_there else entry["protocol"]
            self.scraped.protocols[self.name, entry["name"]] = protocol

    def read(self) -> None:
        """Read once."""
        # What is read at the turn of a second belongs to the one before.
        moment = Moment(time.time() - 0.1, self.name, answered=False)
        self.scraped.moments.append(moment)
        try:
            answer = self.client.get("/metrics")
            answer.raise_for_status()
        except httpx.HTTPError:
            return
        moment.answered = True
        first = not self.last
        for key, value in _samples(answer.text):
            if not key[0].endswith(_COUNTED):
                moment.gauges[key] = value
                continue
            before = self.last.get(key, value if first else 0.0)
            moment.grown[key] = value - before if value >= before else value
            self.last[key] = value


def _samples(text: str) -> Iterator[tuple[Key, float]]:
    for found in _SAMPLE.finditer(text):
        labels = tuple(sorted(_LABEL.findall(found[2] or "")))
        yield (found[1], labels), float(found[3])
