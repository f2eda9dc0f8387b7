"""Limits on open connections hold when many connect at once, on every kind of listener."""

import asyncio
import contextlib
import socket
import threading
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support import certs
from tests.support.tcp import tcp_server
from tests.support.weirgate import Running, running
from tests.support.wire import request
from weirgate.shared.testing import Configuration, eventually

pytestmark = pytest.mark.anyio

NAME = "weirgate.test"
LIMIT = 5
CLIENTS = 48
ROUNDS = 3
DEADLINE_S = 20.0


@pytest.fixture(scope="module")
async def weirgate(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    cert = certs.issue(tmp_path_factory.mktemp("certs"), NAME)
    tls = {"certificates": [cert.yaml()]}
    config = Configuration(workers=2)
    for limit in ("connections_per_source", "max_connections"):
        config.listen(f"http-{limit}", **{limit: LIMIT})
        config.listen(f"https-{limit}", tls=tls, **{limit: LIMIT})
        config.listen(f"tcp-{limit}", protocol="tcp", pool="echo", **{limit: LIMIT})
    config.route("all", respond={"body": "hello"})
    async with tcp_server() as server:
        config.pool("echo", server.port)
        async with running(config) as weirgate:
            yield weirgate


def burst(port: int, sources: Sequence[str], *, tls: bool) -> Counter[str]:
    """Connect from all sources at once; count the answers, all connections held until the last."""
    together, judged = threading.Barrier(len(sources)), threading.Barrier(len(sources))
    context = certs.client_context() if tls else None

    def visit(source: str) -> str | None:
        plain = socket.socket()
        made = context.wrap_socket(plain, server_hostname=NAME) if context else plain
        with made as connection:
            connection.settimeout(DEADLINE_S)
            connection.bind((source, 0))
            together.wait(DEADLINE_S)
            answer = b""
            with contextlib.suppress(OSError):  # refused: a reset, wherever it arrives
                connection.connect(("127.0.0.1", port))
                connection.sendall(request())
                answer = connection.recv(4)
            judged.wait(DEADLINE_S)
        return source if answer else None

    with ThreadPoolExecutor(len(sources)) as clients:
        return Counter(source for source in clients.map(visit, sources) if source)


async def nothing_is_open(weirgate: Running, listener: str) -> None:
    """Wait until the edge counts no connection of the listener any more."""

    async def none() -> bool:
        return await weirgate.metric("weirgate_edge_connections", listener=listener) == 0

    await eventually(none, what=f"no connection of {listener}")


@pytest.mark.parametrize("kind", ["http", "https", "tcp"])
@pytest.mark.parametrize(
    ("limit", "reason", "admitted"),
    [
        ("connections_per_source", "source_limit", {"127.0.0.1": LIMIT, "127.0.0.2": LIMIT}),
        ("max_connections", "listener_full", None),
    ],
)
async def test_limit_holds_in_a_burst(
    weirgate: Running, kind: str, limit: str, reason: str, admitted: dict[str, int] | None
) -> None:
    listener = f"{kind}-{limit}"
    sources = ["127.0.0.1", "127.0.0.2"] * (CLIENTS // 2)
    refused = {"listener": listener, "reason": reason}
    for _ in range(ROUNDS):
        await nothing_is_open(weirgate, listener)
        before = await weirgate.metric("weirgate_edge_refused_total", **refused)
        answered = await asyncio.to_thread(
            burst, weirgate.port(listener), sources, tls=kind == "https"
        )
        after = await weirgate.metric("weirgate_edge_refused_total", **refused)
        assert answered.total() == (sum(admitted.values()) if admitted else LIMIT)
        assert admitted is None or answered == admitted
        assert after - before == CLIENTS - answered.total()
