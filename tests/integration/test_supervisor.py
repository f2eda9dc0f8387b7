"""The supervisor as an operator meets it: starting, refusing to start, draining, ending."""

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

from tests.support.origin import held, one_origin
from tests.support.processes import finished
from tests.support.tcp import tcp_server
from tests.support.weirgate import COMMAND, running
from tests.support.wire import connect, get, request
from weirgate.shared.testing import Configuration, eventually, free_port

pytestmark = pytest.mark.anyio


def alive(pid: int) -> bool:
    """Say whether a process runs; one that only waits for its parent does not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


async def test_ready_line_names_every_address() -> None:
    async with one_origin() as origin:
        config = Configuration(workers=2).listen("web").pool("all", origin.port)
        async with running(config.route("all", pool="all")) as weirgate:
            log = weirgate.log()
            assert f"web http 127.0.0.1:{weirgate.port()}" in log
            assert "2 gateways" in log
            assert f"http://127.0.0.1:{config.admin_port}" in log
            assert len(weirgate.edges()) == 1
            assert len(weirgate.gateways()) == 2


async def test_ports_in_use_are_all_named_with_their_owner(tmp_path: Path) -> None:
    async with tcp_server() as one, tcp_server() as two:
        config = Configuration().listen("first", bind=f"127.0.0.1:{one.port}")
        config.listen("second", bind=f"127.0.0.1:{two.port}")
        config.route("all", respond={}).write(tmp_path / "weirgate.yaml")
        done = await finished(*COMMAND, "up", tmp_path / "weirgate.yaml")
    assert done.code != 0
    for port in (one.port, two.port):
        assert f"127.0.0.1:{port}" in done.text
    assert f"pid {os.getpid()}" in done.text
    assert "Traceback" not in done.text


async def test_bad_file_is_refused_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "weirgate.yaml"
    path.write_text("listeners:\n  web: {bind: '127.0.0.1:80', colour: red}\n")
    done = await finished(*COMMAND, "up", path)
    assert done.code != 0
    assert "weirgate.yaml:2" in done.text
    assert "colour" in done.text
    assert "Traceback" not in done.text


async def test_missing_file_is_refused_at_the_start(tmp_path: Path) -> None:
    done = await finished(*COMMAND, "up", tmp_path / "nothing.yaml")
    assert done.code != 0
    assert "nothing.yaml" in done.text
    assert "Traceback" not in done.text


async def test_sigterm_finishes_what_runs_and_takes_nothing_new() -> None:
    gate = asyncio.Event()
    async with one_origin() as origin:
        origin.on("/hold", held(gate))
        config = Configuration(workers=2).listen("web").pool("all", origin.port)
        async with running(config.route("all", pool="all")) as weirgate:
            async with connect(weirgate.port()) as idle, connect(weirgate.port()) as busy:
                assert (await idle.exchange(request())).status == 200
                await busy.send(request("/hold"))
                await eventually(lambda: any(r.target == "/hold" for r in origin.requests))
                weirgate.process.send_signal(signal.SIGTERM)
                assert await idle.rest() == b""

                async def refused() -> bool:
                    try:
                        async with connect(weirgate.port()) as wire:
                            await wire.send(request())
                            return await wire.rest(within_s=1) == b""
                    except OSError:
                        return True

                await eventually(refused)
                assert weirgate.process.returncode is None
                gate.set()
                response = await busy.response()
                assert (response.status, response.body) == (200, b"held")
                assert (response.one("connection") or "").lower() == "close"
            async with asyncio.timeout(10):
                assert await weirgate.process.wait() == 0


async def test_connection_used_lately_is_told_by_its_next_answer_that_a_drain_has_begun() -> None:
    config = Configuration().listen("web").route("all", respond={"body": "hello"})
    config.data["drain"] = {"idle": "1m", "timeout": "1m"}
    async with running(config) as weirgate:
        (gateway,) = weirgate.gateways()
        async with connect(weirgate.port()) as wire:
            assert (await wire.exchange(request())).status == 200
            weirgate.process.send_signal(signal.SIGTERM)
            with pytest.raises(TimeoutError):
                await wire.rest(within_s=2.6)  # by default it would have been closed
            assert alive(gateway)
            response = await wire.exchange(request())
            assert (response.status, response.one("connection")) == (200, "close")
            assert await wire.rest() == b""
        async with asyncio.timeout(10):
            assert await weirgate.process.wait() == 0


async def test_drain_ends_at_its_deadline() -> None:
    async with one_origin() as origin:
        origin.on("/hold", held(asyncio.Event()))
        config = Configuration().listen("web").pool("all", origin.port).route("all", pool="all")
        config.data["drain"] = {"timeout": "500ms"}
        async with running(config) as weirgate, connect(weirgate.port()) as wire:
            await wire.send(request("/hold"))
            await eventually(lambda: origin.requests)
            began = time.monotonic()
            await weirgate.stop()
            assert 0.4 < time.monotonic() - began < 8
            await wire.rest()


async def test_second_sigterm_ends_at_once() -> None:
    async with one_origin() as origin:
        origin.on("/hold", held(asyncio.Event()))
        config = Configuration().listen("web").pool("all", origin.port).route("all", pool="all")
        async with running(config) as weirgate, connect(weirgate.port()) as wire:
            await wire.send(request("/hold"))
            await eventually(lambda: origin.requests)
            weirgate.process.send_signal(signal.SIGTERM)
            await eventually(lambda: "draining" in weirgate.log())
            weirgate.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(8):
                await weirgate.process.wait()
            await wire.rest()


async def test_interrupt_is_like_sigterm() -> None:
    config = Configuration().listen("web").route("all", respond={"body": "hello"})
    async with running(config) as weirgate:
        assert (await get(weirgate.port())).body == b"hello"
        await weirgate.stop(signal.SIGINT)


async def test_health_is_503_while_draining() -> None:
    async with one_origin() as origin:
        gate = asyncio.Event()
        origin.on("/hold", held(gate))
        config = Configuration().listen("web").pool("all", origin.port).route("all", pool="all")
        async with running(config) as weirgate, connect(weirgate.port()) as wire:
            assert (await weirgate.admin.get("/health")).json() == {
                "ready": True,
                "draining": False,
            }
            await wire.send(request("/hold"))
            await eventually(lambda: origin.requests)
            weirgate.process.send_signal(signal.SIGTERM)

            async def draining() -> bool:
                answer = await weirgate.admin.get("/health")
                return answer.status_code == 503 and answer.json()["draining"] is True

            await eventually(draining)
            gate.set()
            assert (await wire.response()).status == 200


async def test_children_end_with_a_killed_supervisor() -> None:
    config = Configuration(workers=2).listen("web").route("all", respond={})
    async with running(config) as weirgate:
        family = weirgate.edges() + weirgate.gateways()
        assert len(family) == 3
        weirgate.process.kill()
        await weirgate.process.wait()
        await eventually(lambda: not any(alive(pid) for pid in family))


async def test_unix_socket_listener(tmp_path: Path) -> None:
    path = tmp_path / "web.sock"
    config = Configuration().listen("web", bind=[f"127.0.0.1:{free_port()}", f"unix:{path}"])
    async with running(config.route("all", respond={"body": "hello"})) as weirgate:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(request("/", "Connection: close"))
        async with asyncio.timeout(10):
            assert (await reader.read()).endswith(b"hello")
        writer.close()
        await writer.wait_closed()
        await weirgate.stop()
    assert not path.exists()


async def test_admin_refuses_foreign_web_pages() -> None:
    config = Configuration().listen("web").route("all", respond={})
    async with running(config) as weirgate:
        rebound = await weirgate.admin.get("/status", headers={"host": "evil.test"})
        forged = await weirgate.admin.post("/reload", headers={"origin": "http://evil.test"})
        assert (rebound.status_code, forged.status_code) == (421, 403)
