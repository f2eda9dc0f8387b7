"""Allow and deny lists in files, at a running node: read, watched, refused when broken."""

import contextlib
import json
from pathlib import Path

import pytest

from tests.support.processes import finished
from tests.support.tcp import tcp_server
from tests.support.weirgate import COMMAND, Running, running
from tests.support.wire import connect
from weirgate.shared.testing import Configuration, eventually

pytestmark = pytest.mark.anyio


async def admits(weirgate: Running, source: str) -> bool:
    with contextlib.suppress(OSError):
        async with connect(weirgate.port("tcp"), local=source) as wire:
            await wire.send(b"x")
            wire.half_close()
            return await wire.rest() == b"x"
    return False


def put(path: Path, text: str) -> None:
    scratch = path.with_name(path.name + ".new")
    scratch.write_text(text)
    scratch.replace(path)


async def test_a_list_is_followed_and_a_broken_one_changes_nothing(tmp_path: Path) -> None:
    deny = tmp_path / "lists" / "deny.txt"
    deny.parent.mkdir()
    deny.write_text("# by hand\n127.0.0.2\n")
    async with tcp_server() as server:
        config = Configuration().listen(
            "tcp", protocol="tcp", pool="echo", deny="file:lists/deny.txt"
        )
        config.pool("echo", server.port)
        async with running(config, directory=tmp_path) as weirgate:
            assert await admits(weirgate, "127.0.0.1")
            assert not await admits(weirgate, "127.0.0.2")
            assert not await admits(weirgate, "127.0.0.2")
            put(deny, "127.0.0.3\n")
            await eventually(lambda: admits(weirgate, "127.0.0.2"), within_s=5)
            assert not await admits(weirgate, "127.0.0.3")

            put(deny, "127.0.0.4\n127.0.0.0.5\n")
            await eventually(lambda: "reload refused" in weirgate.log(), within_s=5)
            assert f"{deny}:2:1: error WG-C023" in weirgate.log()
            assert await admits(weirgate, "127.0.0.4")
            assert not await admits(weirgate, "127.0.0.3")

            deny.unlink()
            await eventually(lambda: "no such file" in weirgate.log(), within_s=5)
            assert not await admits(weirgate, "127.0.0.3")
            put(deny, "127.0.0.4\n")
            await eventually(lambda: admits(weirgate, "127.0.0.3"), within_s=5)
            assert not await admits(weirgate, "127.0.0.4")
            result = await weirgate.metric("weirgate_reload_total", result="applied")
            assert result == 2


async def test_a_list_of_100_000_networks(tmp_path: Path) -> None:
    networks = [f"10.{n >> 8 & 255}.{n & 255}.{n >> 16 << 6}/26" for n in range(99_999)]
    (tmp_path / "deny.txt").write_text("\n".join([*networks, "127.0.0.2"]))
    async with tcp_server() as server:
        config = Configuration().listen("tcp", protocol="tcp", pool="echo", deny="file:deny.txt")
        config.pool("echo", server.port)
        async with running(config, directory=tmp_path) as weirgate:
            assert await admits(weirgate, "127.0.0.1")
            assert not await admits(weirgate, "127.0.0.2")
            (tmp_path / "deny.txt").write_text("\n".join(networks))
            assert (await weirgate.reload()).json()["result"] == "applied"
            assert await admits(weirgate, "127.0.0.2")


async def test_check_names_the_line_of_the_list(tmp_path: Path) -> None:
    (tmp_path / "deny.txt").write_text("10.0.0.0/8\n10.0.0.1/8\n")
    config = Configuration().listen("web", deny="file:deny.txt").route("all", respond={})
    config.write(tmp_path / "w.yaml")
    done = await finished(*COMMAND, "check", tmp_path / "w.yaml", "--json")
    assert done.code == 1
    (problem,) = json.loads(done.out)["problems"]
    assert (problem["file"], problem["line"], problem["hint"]) == (
        str(tmp_path / "deny.txt"), 2, 'did you mean "10.0.0.0/8"?'
    )  # fmt: skip
