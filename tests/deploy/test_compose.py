"""The Compose demo as it is shipped, in both forms: what clients see, and what is left of it."""

import asyncio
import contextlib
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from loadtests.background import load_in_background
from loadtests.drills.drill import Result
from loadtests.drills.drill import run as run_drill
from loadtests.drills.faults import FAULTS
from loadtests.plan import Target
from scripts.compose import DIRECTORY, FORMS, SECRETS, Project, by_hand, make_secrets
from scripts.image.engine import run

from tests.support.images import Images
from tests.support.load import load
from weirgate.shared.testing import eventually, free_port

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.chaos, pytest.mark.timeout(1200)]

#: What runs in a container with an address of its own, to be seen by the applications.
CLIENT = """
import json, socket, urllib.request
own = socket.gethostbyname(socket.gethostname())
seen = {"own": own}
with urllib.request.urlopen("http://edge:8080/api/whoami", timeout=5) as answer:
    seen["http"] = json.load(answer)["client"]
with socket.create_connection(("edge", 7000), 5) as stream:
    stream.sendall(b"hello\\n")
    seen["tcp"] = stream.recv(200).decode().split()[1].rstrip(":").rpartition(":")[0]
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
    datagrams.settimeout(5)
    datagrams.sendto(b"hello", ("edge", 7001))
    seen["udp"] = datagrams.recv(200).decode().split()[1].rstrip(":").rpartition(":")[0]
print(json.dumps(seen))
"""
ROOT = Path(__file__).parents[2]
PORTS = ("WEB_PORT", "TLS_PORT", "LINES_PORT", "DATAGRAMS_PORT", "ADMIN_PORT")


class Stack:
    """One running form of the demo, beside others that may run on this host."""

    def __init__(self, form: str, images: Images) -> None:
        self.ports = {name: free_port() for name in PORTS}
        environ = {name: str(port) for name, port in self.ports.items()}
        environ |= {"WEIRGATE_IMAGE": images.weirgate, "APPLICATIONS_IMAGE": images.applications}
        name = f"weirgate-test-{uuid.uuid4().hex[:8]}"
        self.project = Project(form, name, environ)

    @property
    def port(self) -> int:
        return self.ports["WEB_PORT"]

    def url(self, path: str, *, tls: bool = False) -> str:
        port = self.ports["TLS_PORT" if tls else "WEB_PORT"]
        return f"http{'s' if tls else ''}://localhost:{port}{path}"

    async def status(self) -> dict[str, Any]:
        """Return what the edge's node says of itself."""
        token = (SECRETS / "admin_token").read_text().strip()
        headers = {"authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(trust_env=False, headers=headers, timeout=10) as client:
            answer = await client.get(f"http://127.0.0.1:{self.ports['ADMIN_PORT']}/status")
            return dict(answer.json())

    async def pool(self, name: str, state: str = "up") -> set[str]:
        """Return the endpoints of a pool in a state, as the edge's node sees them."""
        pools = {pool["name"]: pool for pool in (await self.status())["pools"]}
        return {e["address"] for e in pools[name]["endpoints"] if e["state"] == state}

    async def compose(self, *arguments: str) -> None:
        await asyncio.to_thread(self.project.compose, *arguments)


def started(form: str, images: Images) -> Iterator[Stack]:
    make_secrets()
    stack = Stack(form, images)
    try:
        stack.project.compose("up", "--detach")
        stack.project.wait_healthy()
        yield stack
    finally:
        stack.project.down()
    left = ["--filter", f"label=com.docker.compose.project={stack.project.name}", "--quiet"]
    for what in (["ps", "--all"], ["network", "ls"], ["volume", "ls"]):
        assert run(["docker", *what, *left]) == ""


@pytest.fixture(scope="module")
def apart(images: Images) -> Iterator[Stack]:
    yield from started("apart", images)


@pytest.fixture(scope="module")
def shared(images: Images) -> Iterator[Stack]:
    yield from started("shared", images)


@contextlib.asynccontextmanager
async def visitor() -> AsyncIterator[httpx.AsyncClient]:
    context = ssl.create_default_context(cafile=str(SECRETS / "certificate.pem"))
    async with httpx.AsyncClient(trust_env=False, verify=context, timeout=10) as client:
        yield client


@pytest.fixture(params=["apart", "shared"])
def either(request: pytest.FixtureRequest) -> Stack:
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


async def test_every_listener_answers(either: Stack) -> None:
    states = set(either.project.states().values())
    assert states == {"healthy"}
    async with visitor() as client:
        for tls in (False, True):
            answer = await client.get(either.url("/api/whoami", tls=tls))
            assert answer.json()["scheme"] == ("https" if tls else "http")
        assert "Shop" in (await client.get(either.url("/"))).text
        assert (await client.get(either.url("/ping"))).text == "pong\n"
        carts = {(await client.get(either.url("/api/cart"))).json()["instance"] for _ in range(6)}
        assert len(carts) == 1
        apis = {(await client.get(either.url("/api/whoami"))).json()["instance"] for _ in range(12)}
        assert len(apis) == 2
    reader, writer = await asyncio.open_connection("127.0.0.1", either.ports["LINES_PORT"])
    writer.write(b"hello\n")
    assert (await reader.readline()).endswith(b"hello\n")
    writer.close()
    await writer.wait_closed()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.connect(("127.0.0.1", either.ports["DATAGRAMS_PORT"]))
        datagrams.settimeout(0)
        datagrams.send(b"hello")
        loop = asyncio.get_running_loop()
        assert (await asyncio.wait_for(loop.sock_recv(datagrams, 200), 5)).endswith(b"hello")


async def test_applications_see_the_clients_own_address(either: Stack, images: Images) -> None:
    # the namespace that the edge's ports are in has the name "edge" in one form, "net" in the other
    door = "edge" if either.project.form == "apart" else "net"
    program = CLIENT.replace('"edge', f'"{door}').replace("//edge", f"//{door}")
    network = f"{either.project.name}_front"
    command = ["docker", "run", "--rm", "--network", network, images.applications, "-c", program]
    seen = json.loads(await asyncio.to_thread(run, command))
    assert {seen["http"], seen["tcp"], seen["udp"]} == {seen["own"]}


async def test_more_and_fewer_containers_are_seen_at_once(apart: Stack) -> None:
    async with load(apart.port, "/api/items", connections=4, requests_per_connection=5) as clients:
        await eventually(lambda: clients.ok > 20)
        await apart.compose("up", "-d", "--no-recreate", "--scale", "gateway=5", "--scale", "api=4")

        async def nodes(count: int) -> bool:
            return len(await apart.pool("gateways")) == count

        await eventually(lambda: nodes(5), within_s=60)
        async with visitor() as client:

            async def instances() -> int:
                answers = [await client.get(apart.url("/api/whoami")) for _ in range(16)]
                return len({answer.json()["instance"] for answer in answers})

            await eventually(instances_are(instances, 4), within_s=60)
        await apart.compose("up", "-d", "--no-recreate", "--scale", "gateway=3", "--scale", "api=2")
        await eventually(lambda: nodes(3), within_s=60)
        later = clients.ok + 40
        await eventually(lambda: clients.ok > later, within_s=30)
    assert clients.kinds() == {}


def instances_are(instances: Any, count: int) -> Any:
    async def are() -> bool:
        return bool(await instances() == count)

    return are


async def test_a_gateway_that_is_held_up_is_left_out_and_comes_back(apart: Stack) -> None:
    victim = apart.project.containers("gateway")[0]
    await asyncio.to_thread(run, ["docker", "pause", victim])
    try:

        async def fewer() -> bool:
            return len(await apart.pool("gateways")) == 2

        await eventually(fewer, within_s=20)
        async with visitor() as client:
            for _ in range(8):
                assert (await client.get(apart.url("/ping"))).text == "pong\n"
    finally:
        await asyncio.to_thread(run, ["docker", "unpause", victim])

    async def all_three() -> bool:
        return len(await apart.pool("gateways")) == 3

    await eventually(all_three, within_s=30)


async def test_a_wrong_label_is_that_containers_own(shared: Stack, images: Images) -> None:
    labels = {
        "com.docker.compose.project": shared.project.name,
        "weirgate.pool": "wrong",
        "weirgate.port": "8000",
        "weirgate.route.wrong.match.pth": "/wrong/*",
    }
    options = [word for label in labels.items() for word in ("--label", "=".join(label))]
    name = f"{shared.project.name}-wrong"
    network = f"{shared.project.name}_applications"
    command = ["docker", "run", "-d", "--name", name, "--network", network, *options]
    run([*command, images.applications, "api.py"])
    try:

        async def said() -> str | None:
            (source,) = (await shared.status())["discovery"]
            return next(iter(source["problems"].get(f"container {name}", [])), None)

        text = str(await eventually(said, within_s=30))
        assert "weirgate.route.wrong.match.pth" in text
        assert 'did you mean "path"' in text
        async with visitor() as client:
            assert (await client.get(shared.url("/api/whoami"))).status_code == 200
    finally:
        run(["docker", "rm", "--force", name])


async def test_the_edges_container_killed_and_started_loses_and_refuses_nothing(
    shared: Stack,
) -> None:
    (edge,) = shared.project.containers("edge")
    async with (
        load(shared.port, "/api/items", connections=4) as kept,
        load(shared.port, "/api/items", connections=2, requests_per_connection=1) as fresh,
    ):
        await eventually(lambda: kept.ok > 50 and fresh.ok > 20)
        await asyncio.to_thread(run, ["docker", "kill", edge])
        killed_at = time.monotonic()
        without = kept.ok + 50
        await eventually(lambda: kept.ok > without)  # the gateways go on
        assert kept.kinds() == {}
        await asyncio.to_thread(run, ["docker", "start", edge])
        later = fresh.ok + 20
        await eventually(lambda: fresh.ok > later, within_s=60)
    # the old gateways finish: clients hear of it with an answer, long before drain.idle has passed
    assert kept.kinds() == {}
    # what the edge had taken and not yet handed on died with it; no other connection is refused,
    # but a slow machine may take longer to start the container than a client waits
    assert {failure.kind for failure in fresh.opened_after(killed_at)} <= {"timeout"}
    assert len(fresh.failures) - len(fresh.opened_after(killed_at)) <= 2


@pytest.mark.parametrize("form", ["compose.yaml", "compose.shared.yaml"])
def test_the_file_uses_what_both_compose_tools_know(form: str) -> None:
    text = (ROOT / "deploy" / "compose" / form).read_text()
    only_new = ("include:", "develop:", "!reset", "start_interval", ":+", "dockerfile_inline")
    assert not [word for word in only_new if word in text]
    assert not text.startswith(("name:", "version:"))
    if shutil.which("docker-compose") is None or shutil.which("docker") is None:
        pytest.skip("docker or docker-compose is not installed")
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    tools = [["docker-compose"]] + ([["docker", "compose"]] if plugin.returncode == 0 else [])
    file = str(ROOT / "deploy" / "compose" / form)
    for tool in tools:
        done = subprocess.run([*tool, "-f", file, "config"], capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()


async def test_a_load_test_finds_the_demo_and_all_of_its_nodes(apart: Stack) -> None:
    token = "WEIRGATE_ADMIN_TOKEN"
    program = (
        "import json, sys; import loadtests.containers as c\n"
        "c.Project = lambda form: sys.modules['scripts.compose'].Project(form, sys.argv[1])\n"
        f"t = c.compose_target(); print(json.dumps([t.http, t.admin, c.os.environ[{token!r}]]))"
    )
    environ = {**os.environ, **{name: str(port) for name, port in apart.ports.items()}}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, apart.project.name,
        cwd=ROOT, env=environ, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await process.communicate()
    http, admin, told = json.loads(output)
    assert http == apart.port
    assert sorted(admin) == ["edge", "gateway-1", "gateway-2", "gateway-3"]
    async with httpx.AsyncClient(trust_env=False) as client:
        for url in admin.values():
            answer = await client.get(f"{url}/metrics", headers={"authorization": f"Bearer {told}"})
            assert "weirgate_up" in answer.text


async def test_a_drill_is_run_and_judged(apart: Stack, tmp_path: Path) -> None:
    fault = next(fault for fault in FAULTS if fault.name == "kill-gateway")
    names = ("WEB_PORT", "TLS_PORT", "LINES_PORT", "DATAGRAMS_PORT")
    http, tls, tcp, udp = (apart.ports[name] for name in names)
    target = Target("compose", "127.0.0.1", http, tls, tcp, udp)

    def drill() -> Result:
        with load_in_background(target, tmp_path, users=8, classes=fault.classes) as running:
            return run_drill(fault, apart.project, running, users=8)

    result = await asyncio.to_thread(drill)
    assert result.misses == []
    assert [what for _, what in result.marks] == [
        "a container of gateway is killed",
        "it is started again",
        "quiet again",
    ]


async def test_the_advice_can_be_followed(apart: Stack) -> None:
    """The command for scaling by hand changes nothing but the scale."""
    before = set(apart.project.containers())
    file = DIRECTORY / FORMS["apart"]
    command = f"{by_hand(apart.project)} -p {apart.project.name} -f {file} up -d --no-recreate"
    try:
        await asyncio.to_thread(run, ["bash", "-c", f"{command} --scale api=3"])
        after = set(apart.project.containers())
        assert before < after
        assert len(after - before) == 1
    finally:
        await apart.compose("up", "-d", "--no-recreate", "--scale", "api=2")
        SECRETS.with_name(f"{apart.project.name}.env").unlink()
