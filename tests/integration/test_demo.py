"""The demo, as ``weirgate demo`` runs it: its own check passes, and it ends cleanly."""

import asyncio
import contextlib
import signal
import socket
from pathlib import Path

import pytest

from tests.support.processes import end, finished, process
from tests.support.weirgate import COMMAND
from tests.support.wire import get
from weirgate.shared.demo.site import DemoError, Ports
from weirgate.shared.testing import eventually, free_port

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


def port_base() -> int:
    """Return a base from which all ports of the demo are free."""
    while True:
        base = free_port()
        with contextlib.suppress(DemoError):
            Ports.from_base(base).check_free()
            return base


async def test_check_passes() -> None:
    base = ("--port-base", str(port_base()))
    done = await finished(*COMMAND, "demo", "--check", *base, within_s=90)
    assert done.code == 0, done.text
    assert done.text.count("ok") >= 8


async def test_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", free_port())) as taken:
        number = str(taken.getsockname()[1])
        done = await finished(*COMMAND, "demo", "--check", "--port-base", number)
    assert done.code == 1
    assert number in done.text
    assert "in use" in done.text
    assert "Traceback" not in done.text


async def test_interrupt_ends_it_cleanly(tmp_path: Path) -> None:
    port, log = port_base(), tmp_path / "log"
    async with process(*COMMAND, "demo", "--port-base", str(port), log=log) as child:
        await eventually(lambda: "Ctrl-C" in log.read_text(), within_s=30, explain=log.read_text)
        said = log.read_text()
        for whole in ("a cookie that sticks", "/localhost.pem https://localhost:", "/api/tls\n"):
            assert whole in said, "nothing is cut off where the terminal is narrow"
        assert (await get(port, "/")).status == 200
        code = await end(child, signal.SIGINT)
        assert code == 0, log.read_text()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
    assert "Traceback" not in log.read_text()
