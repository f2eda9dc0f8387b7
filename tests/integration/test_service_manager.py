"""Sockets that outlive the supervisor: passed by a socket unit, or kept in a manager's store."""

import asyncio
import os
import shutil
import signal
import socket
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.support.load import Load, load
from tests.support.origin import Origin, one_origin
from tests.support.processes import children, process
from tests.support.service_manager import ServiceManager, service_manager
from tests.support.weirgate import COMMAND
from tests.support.wire import connect, get
from weirgate.shared.cli.exit_codes import Exit
from weirgate.shared.testing import Configuration, eventually, free_port

pytestmark = pytest.mark.anyio

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
async def origin() -> AsyncIterator[Origin]:
    async with one_origin() as running:
        yield running


@pytest.fixture
async def manager(tmp_path: Path) -> AsyncIterator[ServiceManager]:
    async with service_manager(tmp_path, capacity=64) as running:
        yield running


def site(origin: Origin, **settings: object) -> Configuration:
    config = Configuration().listen("web", **settings).pool("app", origin.port)
    config.route("all", pool="app").logs(access={"to": "off"})
    config.data["drain"] = {"timeout": "5s"}
    return config


async def test_a_socket_unit_s_sockets_are_served_and_never_shut_down(
    manager: ServiceManager, origin: Origin, tmp_path: Path
) -> None:
    port, path = free_port(), f"unix:{tmp_path}/web.sock"
    binds = [f"127.0.0.1:{port}", f"[::]:{port}", path]
    config = site(origin, bind=binds)
    admin = config.data["admin"]["bind"]
    for address in (*binds, admin):
        manager.listen(address)
    config.write(tmp_path / "weirgate.yaml")
    await manager.started("up", tmp_path / "weirgate.yaml")
    assert (await get(port)).status == 200
    async with connect(port, host="::1") as wire:
        await wire.send(REQUEST)
        assert (await wire.response()).status == 200
    assert manager.store == {}
    assert await manager.stopped() == 0
    for _, sock in manager.sockets:  # connections wait for the next start
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    assert stat.S_ISSOCK(os.lstat(path.removeprefix("unix:")).st_mode)
    async with connect(port) as early:
        await manager.started("up", tmp_path / "weirgate.yaml")
        await early.send(REQUEST)
        assert (await early.response()).status == 200
    assert await manager.stopped() == 0


async def answered(counts: Load) -> None:
    before = counts.ok
    await eventually(lambda: counts.ok > before + 200, what="more answers")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=str)
async def test_a_restart_under_load_refuses_nobody(
    manager: ServiceManager, origin: Origin, tmp_path: Path, how: signal.Signals
) -> None:
    config = site(origin)
    config.write(tmp_path / "weirgate.yaml")
    await manager.started("up", tmp_path / "weirgate.yaml")
    assert list(manager.store) == ["weirgate-stored-web-0"]
    async with load(config.port("web"), requests_per_connection=4) as counts:
        for _ in range(2):
            await answered(counts)
            await manager.stopped(how)
            await manager.started("up", tmp_path / "weirgate.yaml")
        await answered(counts)
    assert counts.kinds()["connect_refused"] == 0
    if how is signal.SIGTERM:
        assert counts.kinds() == {}
    assert list(manager.store) == ["weirgate-stored-web-0"]


async def test_an_end_without_a_store_refuses_connections_at_once(
    origin: Origin, tmp_path: Path
) -> None:
    config = site(origin)
    config.write(tmp_path / "weirgate.yaml")
    async with service_manager(tmp_path) as manager:
        await manager.started("up", tmp_path / "weirgate.yaml")
        assert manager.count("FDSTORE") == 0
        assert await manager.stopped() == 0
        with pytest.raises(ConnectionRefusedError):
            await get(config.port("web"))


async def test_a_reload_gives_new_sockets_to_the_store_and_takes_old_ones_out(
    manager: ServiceManager, origin: Origin, tmp_path: Path
) -> None:
    config, file = site(origin), tmp_path / "weirgate.yaml"
    config.listen("next").write(file)
    running = await manager.started("up", file)
    assert set(manager.store) == {"weirgate-stored-web-0", "weirgate-stored-next-0"}
    old = config.port("next")
    del config.data["listeners"]["next"]
    config.listen("third").write(file)
    before = manager.count("READY")
    running.send_signal(signal.SIGHUP)
    await eventually(lambda: manager.count("READY") > before)
    assert set(manager.store) == {"weirgate-stored-web-0", "weirgate-stored-third-0"}
    with pytest.raises(ConnectionRefusedError):
        await get(old)
    begun = manager.last("RELOADING")
    assert begun.at < manager.last("READY").at
    assert abs(int(begun.values["MONOTONIC_USEC"]) / 1e6 - begun.at) < 1
    assert {message.pid for message in manager.messages} == {running.pid}


async def test_a_configuration_without_an_old_listener_gives_its_port_back(
    manager: ServiceManager, origin: Origin, tmp_path: Path
) -> None:
    config, file = site(origin), tmp_path / "weirgate.yaml"
    config.write(file)
    await manager.started("up", file)
    await manager.stopped()
    old = config.port("web")
    site(origin).write(file)
    await manager.started("up", file)
    assert list(manager.store) == ["weirgate-stored-web-1"]
    with pytest.raises(ConnectionRefusedError):
        await get(old)


async def test_a_socket_that_no_listener_wants_is_said_and_served_after_a_reload(
    manager: ServiceManager, origin: Origin, tmp_path: Path
) -> None:
    config, file = site(origin), tmp_path / "weirgate.yaml"
    config.write(file)
    port = free_port()
    manager.listen(f"127.0.0.1:{port}", "extra.socket")
    running = await manager.started("up", file)
    log = manager.log()
    assert "that no listener binds: connections to it wait unanswered" in log
    assert f"name=extra.socket address=127.0.0.1:{port}" in log
    async with connect(port) as early:
        await early.send(REQUEST)
        config.listen("extra", bind=f"127.0.0.1:{port}").write(file)
        running.send_signal(signal.SIGHUP)
        assert (await early.response()).status == 200


async def test_wrong_sockets_end_the_start_with_what_to_change(
    manager: ServiceManager, origin: Origin, tmp_path: Path
) -> None:
    web, admin = free_port(), free_port()
    config = site(origin, bind=[f"[::]:{web}", f"127.0.0.1:{web}"])
    config.data["admin"] = {"bind": f"127.0.0.1:{admin}"}
    config.write(tmp_path / "weirgate.yaml")
    manager.listen(f"[::]:{web}", "both.socket", only_ipv6=False)
    manager.listen(f"127.0.0.1:{admin}", "packets.socket", kind=socket.SOCK_DGRAM)
    manager.listen(f"unix:{tmp_path}/x", "path.socket", kind=socket.SOCK_DGRAM)
    started = await manager.start("up", tmp_path / "weirgate.yaml")
    assert await started.wait() == Exit.CANNOT_START
    lines = [line for line in manager.log().splitlines() if line.startswith("weirgate: ")]
    for unit, setting in (
        ("both.socket", "set BindIPv6Only=ipv6-only"),
        ("packets.socket", "write ListenStream= instead of ListenDatagram="),
        ("path.socket", "only ListenStream= makes Unix sockets"),
    ):
        assert any(unit in line and setting in line for line in lines), lines


async def test_a_gateway_node_takes_both_of_its_sockets(
    manager: ServiceManager, origin: Origin, tmp_path: Path
) -> None:
    health, bind = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    config = site(origin)
    nodes = {"endpoints": [bind], "bind": bind, "edges": ["127.0.0.1"], "health": {"bind": health}}
    config.gateway(nodes=nodes, cookie_secret="0" * 64).write(tmp_path / "weirgate.yaml")
    for address in (health, bind):
        manager.listen(address)
    await manager.started("gateway", tmp_path / "weirgate.yaml")
    assert manager.store == {}
    assert " warning " not in manager.log()
    async with httpx.AsyncClient(trust_env=False) as client:
        assert (await client.get(f"http://{health}/load")).json()["state"] == "ready"
    assert await manager.stopped() == 0
    assert all(s.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) for _, s in manager.sockets)


async def test_a_supervisor_that_stops_is_missed_by_its_manager(
    origin: Origin, tmp_path: Path
) -> None:
    site(origin).write(tmp_path / "weirgate.yaml")
    async with service_manager(tmp_path, watchdog_s=0.4) as manager:
        running = await manager.started("up", tmp_path / "weirgate.yaml")
        fed = manager.count("WATCHDOG")
        await eventually(lambda: manager.count("WATCHDOG") > fed + 2)

        def missed() -> bool:
            return time.monotonic() - manager.last("WATCHDOG").at > manager.watchdog_s

        assert not missed()
        running.send_signal(signal.SIGSTOP)
        await eventually(missed)
        running.send_signal(signal.SIGCONT)
        await eventually(lambda: not missed())


async def test_systemd_s_own_activation_works(origin: Origin, tmp_path: Path) -> None:
    program = shutil.which("systemd-socket-activate")
    if program is None:
        pytest.skip("systemd-socket-activate is not installed")
    config = site(origin)
    config.write(tmp_path / "weirgate.yaml")
    port = config.port("web")
    where = ("-E", f"PYTHONPATH={os.environ.get('PYTHONPATH', '')}", "-l", f"127.0.0.1:{port}")
    command = (program, *where, *COMMAND, "up", tmp_path / "weirgate.yaml")
    async with process(*command, log=tmp_path / "weirgate.log") as activator:
        await eventually(lambda: is_listened_on(port))
        async with connect(port) as first:  # which starts the node
            await first.send(REQUEST)
            assert (await first.response(within_s=20)).status == 200
        assert activator.returncode is None
        for name in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"):
            for child in children(activator.pid, "weirgate"):
                environ = await asyncio.to_thread(Path(f"/proc/{child}/environ").read_bytes)
                assert name.encode() not in environ


def is_listened_on(port: int) -> bool:
    """Say whether somebody listens, without a connection, which would start the node."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[1].endswith(f":{port:04X}") and row[3] == "0A" for row in rows)
