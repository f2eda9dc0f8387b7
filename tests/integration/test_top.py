"""``weirgate top`` against a running node: once as JSON, and live in a pseudo-terminal."""

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import struct
import termios
from collections.abc import AsyncIterator

import pytest

from tests.integration.test_drain import command
from tests.support.load import load
from tests.support.origin import one_origin
from tests.support.weirgate import COMMAND, Running, running
from weirgate.shared.testing import Configuration, eventually

pytestmark = pytest.mark.anyio

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


@pytest.fixture
async def weirgate() -> AsyncIterator[Running]:
    async with one_origin() as origin:
        config = Configuration().listen("web").pool("all", origin.port).route("all", pool="all")
        async with running(config) as instance:
            yield instance


class Terminal:
    """A pseudo-terminal of 80 columns and 24 lines with ``weirgate top`` in it."""

    def __init__(self, descriptor: int, process: asyncio.subprocess.Process) -> None:
        self.descriptor = descriptor
        self.process = process
        self.raw = ""

    def seen(self) -> str:
        """Return everything that was written so far, escapes removed."""
        with contextlib.suppress(OSError):  # EIO: the other side has ended
            while data := os.read(self.descriptor, 1 << 16):
                self.raw += data.decode("utf-8", "replace")
        return ESCAPE.sub("", self.raw)

    async def ended(self) -> int | None:
        """Wait for the program's end, and read on: a terminal that nobody reads holds it."""

        def over() -> bool:
            self.seen()
            return self.process.returncode is not None

        await eventually(over, what="the end of the program")
        return self.process.returncode

    async def press(self, key: str) -> None:
        os.write(self.descriptor, key.encode())

    async def shows(self, text: str) -> None:
        await eventually(lambda: text in self.seen(), what=f"{text!r} on the screen",
                         explain=lambda: self.seen()[-2000:])  # fmt: skip


@contextlib.asynccontextmanager
async def terminal(weirgate: Running, *arguments: str) -> AsyncIterator[Terminal]:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    os.set_blocking(ours, False)
    before = termios.tcgetattr(theirs)
    process = await asyncio.create_subprocess_exec(
        *COMMAND, "top", "--admin", f"http://127.0.0.1:{weirgate.config.admin_port}", *arguments,
        stdin=theirs, stdout=theirs, stderr=theirs,
        env={**os.environ, "TERM": "xterm"}, start_new_session=True,
        preexec_fn=_at_a_terminal,
    )  # fmt: skip
    try:
        yield Terminal(ours, process)
        assert termios.tcgetattr(theirs) == before, "the terminal is as it was"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(ours)
        os.close(theirs)


def _at_a_terminal() -> None:
    """Begin as a shell at a terminal begins its programs; ours may ignore ctrl-c (nohup)."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


async def test_once_as_json_says_what_happens(weirgate: Running) -> None:
    async with load(weirgate.port(), connections=2) as clients:
        await eventually(lambda: clients.ok > 20)
        done = await command(weirgate, "top", "--once", "--json", "--interval", "0.5")
        seen = clients.ok
        await eventually(lambda: clients.ok > seen)
    assert done.code == 0
    view = json.loads(done.out)
    assert view["requests"] > 0
    rows = {(row["kind"], row["name"].partition("/")[0]): row for row in view["rows"]}
    assert set(rows) == {("listener", "web"), ("endpoint", "all"), ("gateway", "gateway-0")}
    assert rows["endpoint", "all"]["rate"] == pytest.approx(view["requests"], rel=0.5)
    assert rows["gateway", "gateway-0"]["connections"] == 2
    text = await command(weirgate, "top", "--once", "--interval", "0.1")
    assert text.code == 0
    assert "gateway-0" in text.text


@pytest.mark.parametrize("end", ["q", "\x03"], ids=["q", "ctrl-c"])
async def test_live_it_follows_sorts_by_keys_and_leaves_the_terminal_alone(
    weirgate: Running, end: str
) -> None:
    async with terminal(weirgate, "--interval", "0.2") as screen:
        await screen.shows("by rate")
        await screen.shows("gateway-0")
        async with load(weirgate.port(), connections=2) as clients:
            await eventually(lambda: clients.ok > 20)
            await eventually(lambda: re.search(r"  [1-9][0-9.k]* requests/s", screen.seen()))
        for key, order in (("e", "errors"), ("c", "connections"), ("l", "latency"), ("n", "name")):
            await screen.press(key)
            await screen.shows(f"by {order}")
        await screen.press("?")  # means nothing, and harms nothing
        await screen.press(end)
        assert await screen.ended() == 0
        screen.seen()
        frames = [ESCAPE.sub("", frame) for frame in screen.raw.split("\x1b[H")]
        assert len(frames) > 5
        assert max(len(line) for frame in frames for line in frame.splitlines()) <= 80
        assert max(len(frame.splitlines()) for frame in frames) <= 24
        assert "\x1b[?1049l" in screen.raw, "the first screen is back"


async def test_live_it_says_when_nobody_answers(weirgate: Running) -> None:
    async with terminal(weirgate, "--interval", "0.2") as screen:
        await screen.shows("by rate")
        await weirgate.stop()
        await screen.shows("no answer")
        await screen.press("q")
        assert await screen.ended() == 0
