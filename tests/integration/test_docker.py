"""Containers that are found by their labels: a real node and the real engine of this machine."""

import asyncio
import ipaddress
import random
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import containers
from tests.support.containers import Site, docker
from tests.support.engine_proxy import engine_proxy
from tests.support.load import load
from tests.support.strict import MalformedError
from tests.support.weirgate import Running, running
from tests.support.wire import get
from weirgate.shared.testing import Configuration, eventually, free_port

pytestmark = pytest.mark.anyio

API = {"weirgate.pool": "api", "weirgate.route.api.match.path": "/api/*"}
#: Answers as the others do, and does not mind being told to end.
DEAF = (
    "mkdir -p /w/api; echo b > /w/api/index.html; trap '' TERM; exec busybox httpd -f -p 8000 -h /w"
)
MATCH = f"{containers.MARK}.site"


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    missing = containers.missing()
    if missing:
        pytest.skip(missing)
    with containers.image() as name:
        yield name


@pytest.fixture
async def site(image: str, request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    name = request.node.name.removeprefix("test_")[:24]
    async with containers.site(image, name) as made:
        yield made


def discovering(site: Site, **docker_section: Any) -> Configuration:
    config = Configuration().listen("web")
    config.data["discovery"] = {"docker": {"match": {MATCH: site.name}, **docker_section}}
    return config


async def discovered(weirgate: Running) -> dict[str, Any]:
    [source] = (await weirgate.status())["discovery"]
    return dict(source)


async def endpoints(weirgate: Running, pool: str = "api") -> int:
    """Return how many endpoints a pool has."""
    pools = {pool["name"]: pool for pool in (await weirgate.status())["pools"]}
    return len(pools[pool]["endpoints"]) if pool in pools else 0


async def has(weirgate: Running, count: int, pool: str = "api") -> None:
    async def seen() -> bool:
        return await endpoints(weirgate, pool) == count

    await eventually(seen, what=f"{count} endpoints in {pool}")


async def answers(weirgate: Running, path: str = "/api/", times: int = 20) -> set[str]:
    """Return who answers."""
    got = set()
    for _ in range(times):
        response = await get(weirgate.port(), path)
        assert response.status == 200, response
        got.add(response.body.decode().strip())
    return got


async def test_containers_come_and_go(site: Site) -> None:
    await site.run("a", API)
    async with running(discovering(site)) as weirgate:
        assert await answers(weirgate) == {"a"}, "known from the first request on"
        await site.run("b", API)
        await has(weirgate, 2)
        assert await answers(weirgate) == {"a", "b"}
        async with load(weirgate.port(), "/api/", connections=4) as traffic:
            await eventually(lambda: traffic.ok > 50)
            await docker("stop", "-t", "5", f"{site.name}-a")
            await has(weirgate, 1)
            await eventually(lambda: traffic.ok > 200)
        assert traffic.failures == [], traffic.kinds()
        assert await answers(weirgate) == {"b"}
        found = await discovered(weirgate)
        assert (found["source"], found["state"], found["objects"]) == ("docker", "ok", 1)
        await site.remove("b")
        await has(weirgate, 0)
        assert (await get(weirgate.port(), "/api/")).status == 404, "its route is gone, too"
        log = weirgate.log()
        assert log.count("objects found") == 2, log
        assert log.count("objects gone") == 2


async def test_a_container_gets_nothing_more_once_it_is_told_to_end(site: Site) -> None:
    await site.run("a", API)
    deaf = await site.run("b", API, script=DEAF)
    await eventually(lambda: site.listens(deaf))
    async with running(discovering(site)) as weirgate:
        await has(weirgate, 2)
        assert await answers(weirgate) == {"a", "b"}
        stopping = asyncio.create_task(docker("stop", "-t", "4", deaf))

        async def left_alone() -> bool:
            return await answers(weirgate) == {"a"}

        await eventually(left_alone)
        assert not stopping.done(), "it would have answered still"
        assert "draining (told to end)" in weirgate.log()
        await stopping
        await has(weirgate, 1)


async def test_what_is_not_well_is_left_out(site: Site) -> None:
    health = ("--health-cmd", "/bin/busybox test -e /w/ok", "--health-interval", "1s",
              "--health-retries", "1")  # fmt: skip
    await site.run("a", API)
    await site.run("b", API, *health)
    async with running(discovering(site)) as weirgate:
        await has(weirgate, 2)
        await docker("exec", f"{site.name}-b", "/bin/busybox", "rm", "/w/ok")
        await has(weirgate, 1)
        assert await answers(weirgate) == {"a"}
        await docker("exec", f"{site.name}-b", "/bin/busybox", "touch", "/w/ok")
        await has(weirgate, 2)
        await docker("pause", f"{site.name}-a")
        await has(weirgate, 1)
        assert await answers(weirgate) == {"b"}
        await docker("unpause", f"{site.name}-a")
        await has(weirgate, 2)
        log = weirgate.log()
        for words in ("down (unhealthy)", "down (paused)"):
            assert log.count(words) == 1, log


async def test_a_bad_label_harms_nobody_else(site: Site) -> None:
    await site.run("a", API)
    async with (
        running(discovering(site, resync="1s")) as weirgate,
        load(weirgate.port(), "/api/", connections=2) as traffic,
    ):
        bad = {**API, "weirgate.pool": "other", "weirgate.route.o.match.path": "no*"}
        await site.run("bad", bad | {"weirgate.pool.balance": "maglef"})
        problems = await eventually(lambda: _problems(weirgate))
        [texts] = problems.values()
        assert list(problems) == [f"container {site.name}-bad"]
        shown = f"container {site.name}-bad: label weirgate.pool.balance: error WG-C015"
        assert any(text.startswith(shown) for text in texts), texts
        assert any("weirgate.route.o.match.path: error WG-C031" in text for text in texts)
        assert await weirgate.metric("weirgate_discovery_errors", source="docker") == 1
        assert await weirgate.metric("weirgate_discovery_objects", source="docker") == 2
        assert await weirgate.metric("weirgate_discovery_up", source="docker") == 1
        ok = traffic.ok
        await eventually(lambda: traffic.ok > ok + 50)
        assert await answers(weirgate) == {"a"}
        await site.remove("bad")
        await eventually(lambda: _no_problems(weirgate))
        assert weirgate.log().count("WG-C015") == 1, "once, not at every look"
    assert traffic.failures == [], traffic.kinds()


async def _problems(weirgate: Running) -> dict[str, list[str]]:
    return dict((await discovered(weirgate))["problems"])


async def _no_problems(weirgate: Running) -> bool:
    return not await _problems(weirgate)


async def test_without_the_engine_the_last_state_holds(site: Site, tmp_path: Path) -> None:
    await site.run("a", API)
    await site.run("b", API)
    async with engine_proxy(tmp_path / "docker.sock") as proxy:
        config = discovering(site, endpoint=f"unix://{proxy.path}")
        async with (
            running(config) as weirgate,
            load(weirgate.port(), "/api/", connections=2) as traffic,
        ):
            await has(weirgate, 2)
            await proxy.cut()

            async def its_socket_is_gone() -> bool:  # what was open is reset before
                lost = await _in_state(weirgate, "error")
                return lost is not None and "no such file or directory" in lost["error"]

            await eventually(its_socket_is_gone)
            assert await weirgate.metric("weirgate_discovery_up", source="docker") == 0
            await site.run("c", API)
            await site.remove("a")
            assert await endpoints(weirgate) == 2, "nobody could tell"
            ok = traffic.ok
            await eventually(lambda: traffic.ok > ok + 50)
            await proxy.restore()
            found = await eventually(lambda: _in_state(weirgate, "ok"), within_s=15)
            assert (found["error"], found["objects"]) == (None, 2)
            await eventually(lambda: _answered_by(weirgate, {"b", "c"}))
            log = weirgate.log()
            assert log.count("discovery is not heard") == 1, log
            assert log.count("discovery is heard again") == 1
        assert traffic.failures == [], traffic.kinds()
        methods = {line.partition(" ")[0] for line in proxy.requests}
        assert methods == {"GET"}
        paths = {line.split()[1].partition("?")[0].rpartition("/")[2] for line in proxy.requests}
        assert paths == {"version", "json", "events"}
        assert not any("exec" in line for line in proxy.requests)


async def test_an_engine_that_hangs_keeps_nobody_from_starting_or_ending(
    site: Site, tmp_path: Path
) -> None:
    async with engine_proxy(tmp_path / "docker.sock") as proxy:
        proxy.blocked = True
        config = discovering(site, endpoint=f"unix://{proxy.path}")
        config.pool("api").route("api", pool="api")
        async with running(config) as weirgate:
            assert (await get(weirgate.port())).status == 503
            await eventually(lambda: _in_state(weirgate, "error"), within_s=15)
            began = time.monotonic()
            await weirgate.stop()
            assert time.monotonic() - began < 3


async def test_thirty_changes_of_scale_under_load_fail_no_request(site: Site) -> None:
    chance = random.Random(20)
    up = {"0"}
    await site.run("0", API)
    async with running(discovering(site)) as weirgate:
        async with load(weirgate.port(), "/api/", connections=4) as traffic:
            for number in range(1, 31):
                if len(up) == 1 or (len(up) < 4 and chance.random() < 0.5):
                    up.add(str(number))
                    await site.run(str(number), API)
                    # not by their number: one that was stopped may still be among them
                    await eventually(lambda: _knows(weirgate, up))
                else:
                    gone = chance.choice(sorted(up))
                    up.remove(gone)
                    await docker("stop", "-t", "5", f"{site.name}-{gone}")
            await has(weirgate, len(up))
            await eventually(lambda: traffic.ok > 1000)
        assert traffic.failures == [], traffic.kinds()
        await eventually(lambda: _answered_by(weirgate, up))


async def _knows(weirgate: Running, names: set[str]) -> bool:
    return await answers(weirgate) >= names


async def _in_state(weirgate: Running, state: str) -> dict[str, Any] | None:
    found = await discovered(weirgate)
    return found if found["state"] == state else None


async def _answered_by(weirgate: Running, names: set[str]) -> bool:
    return await answers(weirgate) == names


async def test_an_edge_finds_its_gateway_nodes_by_their_labels(site: Site) -> None:
    form = "{{range .IPAM.Config}}{{.Gateway}}{{end}}"
    host = await docker("network", "inspect", "-f", form, site.name)
    port, load_port = free_port(), free_port()
    nodes = {
        "bind": f"{host}:{port}",
        # the addresses that the engine gives next; not this host's, which it would translate
        "edges": [str(ipaddress.ip_address(host) + number) for number in range(1, 9)],
        "connect_timeout": "2s",
        "health": {"bind": f"{host}:{load_port}", "timeout": "2s"},
    }
    edge = discovering(site).gateway(nodes=nodes).route("pong", respond={"body": "pong"})
    gateway = Configuration().listen("web").gateway(nodes={**nodes, "endpoints": [nodes["bind"]]})
    gateway.route("pong", respond={"body": "pong"})
    async with running(gateway, verb="gateway"), running(edge, verb="edge") as weirgate:
        assert await endpoints(weirgate, "gateways") == 0
        with pytest.raises((OSError, MalformedError)):  # as with an empty pool
            await get(weirgate.port())
        # in the container is only the way to a node on this host
        relay = " & ".join(
            f"busybox nc -ll -p {each} -e /bin/busybox nc {host} {each}"
            for each in (port, load_port)
        )
        await site.run("node", {"weirgate.gateway": "true"}, script=f"{relay} & wait")
        await has(weirgate, 1, "gateways")
        await eventually(lambda: _pong(weirgate))
        await docker("stop", "-t", "0", f"{site.name}-node")
        await has(weirgate, 0, "gateways")


async def _pong(weirgate: Running) -> bool:
    try:
        return (await get(weirgate.port())).body == b"pong"
    except (OSError, MalformedError):
        return False
