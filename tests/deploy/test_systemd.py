"""deploy/systemd under a real systemd: installed as docs/systemd.md says, in its whole sandbox."""

import asyncio
import os
import re
import shutil
import signal
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.certs import client_context, issue
from tests.support.http2_client import http2_client
from tests.support.load import Load, load
from tests.support.origin import one_origin
from tests.support.strict import Response
from tests.support.systemd import Systemd, systemd
from tests.support.tcp import tcp_server
from tests.support.udp import udp_client, udp_server
from tests.support.wire import connect, request
from weirgate.shared.testing import eventually, free_port

pytestmark = pytest.mark.anyio

PAGE = (Path(__file__).parents[2] / "docs/systemd.md").read_text()
CONFIGURATION = "/etc/weirgate/weirgate.yaml"
UNITS = "/etc/systemd/system"
#: On this host's network, where nobody else listens on port 80.
ADDRESS = f"127.{os.getpid() // 250 % 250 + 2}.{os.getpid() % 250 + 2}.1"
#: More than is relayed by copy.
BULK_BYTES = 4 << 20
#: A system call that the filter does not have kills the process, instead of an error that it may
#: put up with. A drain takes longer than TimeoutStopSec: the service asks for more time. The rest
#: is for a log that the test can read, and for speed.
STRICT = """
[Service]
SystemCallErrorNumber=kill
StandardError=append:/run/weirgate.log
StandardOutput=append:/run/weirgate.log
TimeoutStopSec=500ms
WatchdogSec=4s
TimeoutAbortSec=500ms
RestartSec=200ms
"""

SOCKET = "/run/weirgate/web.sock"
NODES = {
    "endpoints": ["127.0.0.1:1"],
    "bind": "127.0.0.1:2",
    "edges": ["127.0.0.1"],
    "health": {"bind": "127.0.0.1:3"},
}


def commands(heading: str) -> str:
    """Return the commands in a section of the page."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found = re.findall(r"^```\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    assert found, heading
    return "\n".join(found)


@dataclass
class Site:
    """A service that was installed and started as the page says."""

    systemd: Systemd
    #: Of the listeners that the shipped file does not have: tls, tcp, udp.
    ports: dict[str, int]

    async def obey(self, heading: str, only: str = "") -> str:
        """Run the commands of a section, or those that begin so, where they are to be run."""
        script = "\n".join(
            line for line in commands(heading).splitlines() if line.startswith(only or "")
        )
        folder = "cd /opt/weirgate/src/deploy/systemd; PATH=/opt/weirgate/venv/bin:$PATH"
        admin = f"WEIRGATE_ADMIN=http://{ADDRESS}:9900"
        return await self.systemd.done("bash", "-euc", f"{folder}; export {admin}\n{script}")

    async def systemctl(self, *arguments: str) -> str:
        return await self.systemd.done("systemctl", *arguments)

    def read(self, path: str) -> str:
        return self.systemd.path(path).read_text()

    def write(self, path: str, text: str) -> None:
        file = self.systemd.path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    async def ask(self) -> Response:
        async with connect(80, host=ADDRESS) as wire:
            return await wire.exchange(request("/", "Connection: close"))

    async def settled(self) -> None:
        """Wait until a start that the manager has begun is over."""

        async def running() -> bool:
            return await self.systemd.property("SubState") == "running"

        await eventually(running, within_s=20, what="the service", explain=self.explain)

    def log(self) -> str:
        return self.read("/run/weirgate.log")

    def explain(self) -> str:
        return self.systemd.explain()


def adapted(text: str) -> str:
    """Move a shipped file to the addresses of this test."""
    text = text.replace("0.0.0.0:", f"{ADDRESS}:").replace("127.0.0.1:9900", f"{ADDRESS}:9900")
    return re.sub(r', "\[::\]:\d+"|ListenStream=\[::\]:\d+', "", text)


def with_more(text: str, pools: dict[str, int], ports: dict[str, int], keys: str) -> str:
    """Add a listener of each kind that the shipped file does not have."""
    data: dict[str, Any] = yaml.safe_load(text)
    data["drain"] = {"timeout": "1s"}  # which a UDP session uses up
    data["pools"]["app"]["endpoints"] = [f"127.0.0.1:{pools['app']}"]
    data["listeners"]["local"] = {"bind": f"unix:{SOCKET}"}
    tls = {"certificates": [{"directory": keys}]}
    data["listeners"]["tls"] = {"bind": f"127.0.0.1:{ports['tls']}", "tls": tls}
    for kind in ("tcp", "udp"):
        bind = f"127.0.0.1:{ports[kind]}"
        data["listeners"][kind] = {"bind": bind, "protocol": kind, "pool": kind}
        data["pools"][kind] = {"endpoints": [f"127.0.0.1:{pools[kind]}"]}
    return yaml.safe_dump(data)


@pytest.fixture(scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    keys = "/etc/weirgate/certificates"
    directory = tmp_path_factory.mktemp("systemd")
    ports = {"tls": free_port(), "tcp": free_port(), "udp": free_port(socket.SOCK_DGRAM)}
    async with (
        one_origin() as origin,
        tcp_server() as lines,
        udp_server() as datagrams,
        systemd(directory) as manager,
    ):
        made = Site(manager, ports)
        await made.obey("Files")
        made.write(f"{UNITS}/weirgate.service.d/test.conf", STRICT)
        made.write(f"{UNITS}/weirgate.socket", adapted(made.read(f"{UNITS}/weirgate.socket")))
        pools = {"app": origin.port, "tcp": lines.port, "udp": datagrams.port}
        text = with_more(adapted(made.read(CONFIGURATION)), pools, ports, keys)
        made.write(CONFIGURATION, text)
        pair = issue(directory, "shop.example")
        made.write(f"{keys}/shop.pem", pair.cert.read_text())
        made.write(f"{keys}/shop.key", pair.key.read_text())
        await manager.done("chgrp", "-R", "weirgate", keys)
        await made.systemctl("daemon-reload")
        await made.obey("Start")
        yield made


def process_status(pid: int) -> dict[str, str]:
    """Return what the kernel says of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


async def served(site: Site, counts: Load) -> None:
    """Wait until the load has got some more answers."""
    before = counts.ok
    await eventually(lambda: counts.ok > before + 200, within_s=30, explain=site.explain)


async def every_kind_of_traffic_flows(site: Site) -> None:
    assert (await site.ask()).status == 200
    reader, writer = await asyncio.open_unix_connection(site.systemd.path(SOCKET))
    writer.write(request("/", "Connection: close"))
    assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
    writer.close()
    await writer.wait_closed()
    context = client_context(alpn=("h2",))
    async with http2_client(site.ports["tls"], tls=context, server_name="shop.example") as client:
        assert (await client.ask()).status == 200
    async with connect(site.ports["tcp"]) as wire:
        wire.writer.write(bytes(BULK_BYTES))
        assert await wire.exactly(BULK_BYTES) == bytes(BULK_BYTES)
    async with udp_client(site.ports["udp"]) as datagrams:
        assert (await datagrams.ask_until_answered(b"x")).endswith(b":x")


async def test_nothing_it_does_is_outside_the_filter_of_system_calls(site: Site) -> None:
    await every_kind_of_traffic_flows(site)
    await site.systemctl("reload", "weirgate")
    await site.obey("Restart and upgrade", "weirgate")  # an edge and a gateway are replaced
    await every_kind_of_traffic_flows(site)
    assert "SIGSYS" not in site.log()
    assert " error " not in site.log()


async def test_systemd_has_nothing_to_complain_of(site: Site) -> None:
    units = ("weirgate.service", "weirgate.socket")
    assert (await site.systemd.done("systemd-analyze", "verify", *units)) == ""


async def test_it_has_one_privilege_and_a_user_of_its_own(site: Site) -> None:
    status = process_status(await site.systemd.main_pid())
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 1 << 10  # NET_BIND_SERVICE
    assert status["Seccomp"] == "2"
    assert status["NoNewPrivs"] == "1"
    assert "0" not in status["Uid"].split()
    log = site.systemd.path("/var/log/weirgate/access.log")
    await eventually(lambda: log.exists() and log.read_text().count("\n") > 0)
    assert log.stat().st_mode & 0o777 == 0o640
    assert int(await site.systemd.property("NFileDescriptorStore")) == 5


async def test_the_log_is_rotated_as_the_service_s_user(site: Site) -> None:
    if shutil.which("logrotate", path="/usr/sbin") is None:
        pytest.skip("logrotate is not installed")
    log = site.systemd.path("/var/log/weirgate/access.log")
    await site.obey("Log rotation")
    assert log.with_name("access.log.1").exists()

    async def goes_on() -> bool:
        await site.ask()
        return log.exists() and log.stat().st_size > 0

    await eventually(goes_on)


@pytest.mark.parametrize("how", ["restart", "kill", "hang"])
async def test_neither_a_restart_nor_a_crash_refuses_anybody(site: Site, how: str) -> None:
    before = await site.systemd.main_pid()
    async with load(80, host=ADDRESS, requests_per_connection=4) as counts:
        await served(site, counts)
        if how == "restart":
            await site.obey("Restart and upgrade", "systemctl")
        else:
            os.kill(before, signal.SIGKILL if how == "kill" else signal.SIGSTOP)
            await eventually(
                lambda: not Path(f"/proc/{before}").exists(), within_s=15, explain=site.explain
            )
        await served(site, counts)
    assert counts.kinds()["connect_refused"] == 0, site.explain()
    if how == "restart":
        assert counts.kinds() == {}
        assert re.search(r"draining signal=SIGTERM\n.* info (not )?drained", site.log()), site.log()
    await site.settled()
    assert await site.systemd.main_pid() != before
    await every_kind_of_traffic_flows(site)


async def test_a_reload_fails_visibly_when_the_file_is_wrong(site: Site) -> None:
    good = site.read(CONFIGURATION)
    site.write(CONFIGURATION, good.replace("pools:", "pool:"))
    try:
        refused = await site.systemd.run("systemctl", "reload", "weirgate")
    finally:
        site.write(CONFIGURATION, good)
    assert refused.code != 0
    assert "WG-C012" in site.log()
    assert (await site.ask()).status == 200
    await site.obey("Change the configuration")


async def test_a_stop_gives_the_ports_back_and_a_socket_unit_keeps_them(site: Site) -> None:
    await site.systemctl("stop", "weirgate")
    with pytest.raises(ConnectionRefusedError):
        await site.ask()
    await site.obey("Socket activation")
    assert (await site.ask()).status == 200
    assert int(await site.systemd.property("NFileDescriptorStore")) == 4  # one is the unit's
    await site.systemctl("restart", "weirgate")
    assert (await site.ask()).status == 200
    assert int(await site.systemd.property("NFileDescriptorStore")) == 4
    await site.systemctl("stop", "weirgate")
    assert await site.systemd.property("ActiveState") == "inactive"
    assert (await site.ask()).status == 200, "the first connection starts the service"
    await site.settled()


async def test_a_drop_in_makes_it_an_edge(site: Site) -> None:
    data = yaml.safe_load(site.read(CONFIGURATION))
    data["gateway"] = {"nodes": NODES}
    site.write(CONFIGURATION, yaml.safe_dump(data))
    await site.obey("Limits")
    await site.obey("An edge or a gateway node")
    await site.settled()
    assert await site.systemd.property("Description") == "Weirgate edge"
    assert await site.systemd.property("LimitNOFILE") == "655360"
    assert "· 1 gateway node ·" in await site.systemd.property("StatusText")
    assert (await site.systemd.done("systemd-analyze", "verify", "weirgate.service")) == ""
