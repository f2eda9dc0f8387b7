"""What an operator can see: the access log, metrics over all processes, status, the snapshot."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest

from tests.support import certs
from tests.support.origin import Origin, one_origin
from tests.support.weirgate import Running, running, samples
from tests.support.wire import connect, get, request
from weirgate.shared.testing import Configuration, eventually

pytestmark = pytest.mark.anyio

FIELDS = {
    *("time", "connection_id", "request_id", "listener", "client", "method", "host", "path"),
    *("protocol", "status", "reason", "route", "pool", "endpoint", "bytes_in", "bytes_out"),
    *("accept_to_gateway_us", "tls_us", "head_us", "queue_us", "connect_us", "first_byte_us"),
    *("total_us", "retries", "user_agent"),
}


@dataclass(frozen=True)
class Site:
    origin: Origin
    weirgate: Running


@pytest.fixture(scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    cert = certs.issue(tmp_path_factory.mktemp("certs"), "weirgate.test")
    config = Configuration(workers=2).listen("web")
    config.listen("secure", tls={"certificates": [cert.yaml()]})
    config.gateway(cookie_secret="0f" * 32)
    config.route("ping", match={"path": "/ping"}, respond={"body": "pong"})
    async with one_origin() as origin:
        config.pool("all", origin.port).route("api", pool="all")
        async with running(config) as weirgate:
            yield Site(origin, weirgate)


async def test_line_of_a_request(site: Site) -> None:
    body = b"x" * 1000
    async with connect(site.weirgate.port()) as wire:
        client = wire.local_port
        raw = request("/line?secret=1", "User-Agent: probe/1", method="POST", body=body)
        response = await wire.exchange(raw)
    entry = await site.weirgate.access.wait_for(lambda e: e["user_agent"] == "probe/1")
    assert entry.keys() >= FIELDS
    expected = {
        "listener": "web",
        "method": "POST",
        "host": "weirgate.test",
        "protocol": "HTTP/1.1",
        "status": 200,
        "reason": "",
        "route": "api",
        "pool": "all",
        "endpoint": f"127.0.0.1:{site.origin.port}",
        "retries": 0,
        "tls_us": 0,
    }
    assert {key: entry[key] for key in expected} == expected
    assert entry["client"] == f"127.0.0.1:{client}"
    assert entry["bytes_in"] >= len(body)
    assert entry["bytes_out"] >= len(response.body)
    parts = ("head_us", "queue_us", "connect_us", "first_byte_us", "accept_to_gateway_us")
    assert all(0 <= entry[part] < 10_000_000 for part in parts)
    assert entry["first_byte_us"] <= entry["total_us"]
    assert datetime.fromisoformat(entry["time"]).tzinfo is not None


async def test_requests_of_a_connection_share_its_id(site: Site) -> None:
    async with connect(site.weirgate.port()) as wire:
        for number in range(3):
            assert (await wire.exchange(request(f"/same{number}"))).status == 200
    async with connect(site.weirgate.port()) as wire:
        assert (await wire.exchange(request("/other"))).status == 200
    entries = [await site.weirgate.access.of(f"/same{n}") for n in range(3)]
    other = await site.weirgate.access.of("/other")
    assert len({e["connection_id"] for e in entries}) == 1
    assert other["connection_id"] != entries[0]["connection_id"]
    assert len({e["request_id"] for e in entries}) == 3


async def test_line_of_a_tls_request(site: Site) -> None:
    port = site.weirgate.port("secure")
    context = certs.client_context()
    async with connect(port, tls=context, server_name="weirgate.test") as wire:
        assert (await wire.exchange(request("/tls"))).status == 200
    entry = await site.weirgate.access.of("/tls")
    assert entry["tls_us"] > 0
    assert entry["listener"] == "secure"


async def test_line_of_an_own_answer_names_no_pool(site: Site) -> None:
    assert (await get(site.weirgate.port(), "/ping")).body == b"pong"
    entry = await site.weirgate.access.of("/ping")
    assert (entry["route"], entry["reason"], entry["status"]) == ("ping", "", 200)
    assert not entry["pool"]
    assert not entry["endpoint"]


async def test_log_cannot_be_forged(site: Site) -> None:
    nasty = 'a"} {"x": "\\ \t é'.encode("latin-1", "replace").decode("latin-1")
    assert (await get(site.weirgate.port(), "/nasty", f"User-Agent: {nasty}")).status == 200
    entry = await site.weirgate.access.of("/nasty")
    assert entry["user_agent"].startswith('a"} {"x": "\\')


async def test_metrics_are_added_up_over_the_gateways(site: Site) -> None:
    before = await site.weirgate.metric("weirgate_requests_total", route="api", status="200")
    used = set()
    for _ in range(60):
        await get(site.weirgate.port(), "/counted")
    for process in (await site.weirgate.status())["processes"]:
        if process["tier"] == "gateway" and process["requests_total"]:
            used.add(process["name"])
    assert used == {"gateway-0", "gateway-1"}
    after = await site.weirgate.metric("weirgate_requests_total", route="api", status="200")
    assert after - before == 60


async def test_metrics_text_is_well_formed(site: Site) -> None:
    await get(site.weirgate.port(), "/shape")
    answer = await site.weirgate.admin.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    text = answer.text
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert len(samples(text)) == len(lines)
    declared = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    for name, labels, value in samples(text):
        family = re.sub(r"_(bucket|sum|count)$", "", name)
        kind = declared.get(name) or declared[family]
        assert kind in {"counter", "gauge", "histogram"}
        assert name.startswith("weirgate_")
        assert kind != "counter" or value >= 0
        assert kind != "histogram" or not name.endswith("_bucket") or "le" in labels


async def test_histograms_are_cumulative(site: Site) -> None:
    await get(site.weirgate.port(), "/time")
    text = (await site.weirgate.admin.get("/metrics")).text
    series: dict[tuple[str, ...], list[tuple[float, float]]] = {}
    for name, labels, value in samples(text):
        if name.endswith("_bucket"):
            key = (name, *sorted(f"{k}={v}" for k, v in labels.items() if k != "le"))
            series.setdefault(key, []).append((float(labels["le"]), value))
    assert series
    for buckets in series.values():
        counts = [count for _, count in sorted(buckets)]
        assert counts == sorted(counts)
        assert max(bound for bound, _ in buckets) == float("inf")


async def test_every_process_is_up(site: Site) -> None:
    for process in ("edge-0", "gateway-0", "gateway-1"):
        assert await site.weirgate.metric("weirgate_up", process=process) == 1


async def test_reasons_are_counted(site: Site) -> None:
    bad = request("/bad", "X-A : 1")
    async with connect(site.weirgate.port()) as wire:
        assert (await wire.exchange(bad)).status == 400

    assert await site.weirgate.counted("bad_request_framing") >= 1


async def test_status_shows_the_node(site: Site) -> None:
    status = await site.weirgate.status()
    assert status["ready"] is True
    processes = {p["name"]: p for p in status["processes"]}
    assert processes.keys() == {"edge-0", "gateway-0", "gateway-1"}
    assert {p["pid"] for p in processes.values()} == {
        *site.weirgate.edges(),
        *site.weirgate.gateways(),
    }
    assert {p["state"] for p in processes.values()} == {"ready"}
    listeners = {entry["name"]: entry for entry in status["listeners"]}
    assert listeners["web"]["accepted_total"] > 0
    assert listeners["secure"]["tls"] is True
    (endpoint,) = status["pools"][0]["endpoints"]
    assert endpoint["address"] == f"127.0.0.1:{site.origin.port}"


async def test_open_connections_are_counted(site: Site) -> None:
    async def open_now() -> int:
        processes = (await site.weirgate.status())["processes"]
        return sum(p["connections"] for p in processes if p["tier"] == "gateway")

    async def are(count: int) -> bool:
        return await open_now() == count

    async with connect(site.weirgate.port()) as one, connect(site.weirgate.port()) as two:
        for wire in (one, two):
            assert (await wire.exchange(request())).status == 200
        await eventually(lambda: are(2))
    await eventually(lambda: are(0))


async def test_snapshot_shows_no_secret(site: Site) -> None:
    text = (await site.weirgate.admin.get("/snapshot")).text
    assert "PRIVATE KEY" not in text
    assert "0f" * 32 not in text
    assert '"web"' in text


async def test_combined_format(tmp_path: Path) -> None:
    config = Configuration().listen("web").route("all", respond={"body": "hello"})
    config.logs(access={"to": str(tmp_path / "combined.log"), "format": "combined"})
    async with running(config) as weirgate:
        await get(weirgate.port(), "/x?y", "User-Agent: probe", "Referer: http://a/")
        text = await eventually((tmp_path / "combined.log").read_text)
    line = r'127\.0\.0\.1 - - \[[^\]]+\] "GET /x\?y HTTP/1\.1" 200 5 "http://a/" "probe"'
    assert re.match(line, text), text


async def test_log_off_and_on_stdout(tmp_path: Path) -> None:
    for target, written in (("off", False), ("stdout", True)):
        config = Configuration().listen("web").route("all", respond={"body": "hello"})
        directory = tmp_path / target
        directory.mkdir()
        async with running(config.logs(access={"to": target}), directory=directory) as weirgate:
            await get(weirgate.port(), "/seen-in-the-log")
            await weirgate.stop()
            assert ("/seen-in-the-log" in weirgate.log()) is written


async def test_lines_of_two_gateways_are_whole(site: Site) -> None:
    async def visit(number: int) -> None:
        async with connect(site.weirgate.port()) as wire:
            for part in range(10):
                await wire.exchange(request(f"/whole/{number}/{part}", f"User-Agent: {'u' * 500}"))

    async with asyncio.TaskGroup() as visits:
        for number in range(20):
            visits.create_task(visit(number))

    def all_there() -> bool:
        paths = {e["path"] for e in site.weirgate.access.entries()}
        return all(f"/whole/{n}/{p}" in paths for n in range(20) for p in range(10))

    await eventually(all_there)
