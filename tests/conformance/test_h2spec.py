"""h2spec's list of 146 cases, its own acceptance: cleartext, TLS, and with answers at once."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from _pytest.mark import ParameterSet

from tests.conformance.h2spec_generic import accepted, compression
from tests.conformance.h2spec_http2 import sections
from tests.support import certs
from tests.support.h2spec import Spec, run
from tests.support.origin import one_origin
from tests.support.weirgate import running
from weirgate.shared.testing import Configuration

pytestmark = pytest.mark.anyio

# What h2spec 2.6 does not count: its strict rows, and one that is newer or here twice.
BEYOND = {
    "http2/5.4.1/2",
    "http2/6.3/3",
    "http2/5.1.1/3",
    "http2/8.1.2.1/3 (without END_STREAM)",
}
# What fails there, and why.
BOTH = "the listener takes HTTP/1.1, too, and answers 400 (h2spec's issue 122)"
KNOWN = {
    ("http", "http2/3.5/2"): BOTH,
    ("own", "http2/3.5/2"): BOTH,
}


def specs(scheme: str) -> list[Spec]:
    return [*accepted(scheme), *compression(scheme), *sections(scheme)]


# With an answer that did not wait for the body, nothing is left of the window that it overflows.
RACES = {"http2/6.9.1/3"}


def rows(scheme: str) -> list[ParameterSet]:
    marked = []
    for spec in specs("http" if scheme == "own" else scheme):
        if scheme == "own" and spec.id in RACES:
            continue
        why = KNOWN.get((scheme, spec.id))
        marks = [pytest.mark.xfail(strict=True, reason=why)] if why else []
        marked.append(pytest.param(spec, id=spec.id, marks=marks))
    return marked


@dataclass(frozen=True)
class Ports:
    web: int
    secure: int
    tls: ssl.SSLContext


@pytest.fixture(scope="module")
async def ports(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Ports]:
    directory = tmp_path_factory.mktemp("h2spec")
    tls = {"certificates": [certs.issue(directory, "weirgate.test").yaml()]}
    config = Configuration().listen("web").listen("secure", tls=tls)
    async with one_origin() as origin:
        config.pool("all", origin.port).route("all", pool="all")
        async with running(config) as weirgate:
            context = certs.client_context(alpn=("h2",))
            yield Ports(weirgate.port(), weirgate.port("secure"), context)
        assert not origin.malformed


@pytest.fixture(scope="module")
async def own() -> AsyncIterator[int]:
    config = Configuration().listen("web").route("own", respond={"body": "an answer"})
    async with running(config) as weirgate:
        yield weirgate.port()


@pytest.mark.parametrize("spec", rows("http"))
async def test_cleartext(ports: Ports, spec: Spec) -> None:
    passed, events = await asyncio.to_thread(run, ports.web, None, spec)
    assert passed, events


@pytest.mark.parametrize("spec", rows("own"))
async def test_answered_at_once(own: int, spec: Spec) -> None:
    passed, events = await asyncio.to_thread(run, own, None, spec)
    assert passed, events


@pytest.mark.parametrize("spec", rows("https"))
async def test_tls(ports: Ports, spec: Spec) -> None:
    passed, events = await asyncio.to_thread(run, ports.secure, ports.tls, spec)
    assert passed, events


def test_the_list_is_h2spec_s() -> None:
    for scheme in ("http", "https"):
        names = [spec.id for spec in specs(scheme)]
        assert len(set(names)) == len(names)
        assert set(names) > BEYOND
        assert len(names) - len(BEYOND) == 146
