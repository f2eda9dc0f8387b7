"""Calls of the Kubernetes API that end before they have begun."""

import asyncio
import contextlib
import gc
from pathlib import Path

import pytest

from tests.support import certs
from weirgate.shared.discovery.kubernetes_api import Access
from weirgate.shared.testing import eventually

pytestmark = pytest.mark.anyio


async def test_a_call_that_is_given_up_during_the_handshake_leaves_no_connection(
    tmp_path: Path,
) -> None:
    token = tmp_path / "token"
    token.write_text("x\n")
    greeted, ended = asyncio.Event(), asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while await reader.read(4096):
                greeted.set()  # by a client hello; nothing is answered
        ended.set()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    access = Access(f"https://127.0.0.1:{port}", token, certs.authority_file(tmp_path))

    async def call() -> None:
        async with access.connect() as connection:
            await connection.page("/api/v1/services", {})

    gc.disable()  # it would close what nobody knows any more
    try:
        calling = asyncio.create_task(call())
        await greeted.wait()
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)
        await eventually(ended.is_set, what="the end of the connection")
    finally:
        gc.enable()
        server.close()
