"""The dashboard and the scrape configuration ask for metrics and labels that there are."""

import contextlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import yaml

from tests.support.origin import one_origin
from tests.support.peers import listening, tool
from tests.support.weirgate import Running, running, samples
from tests.support.wire import connect, request
from weirgate.shared.testing import Configuration, eventually, free_port

pytestmark = pytest.mark.anyio

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana/dashboards/weirgate.json").read_text())
#: That Prometheus itself adds, by the relabelling of prometheus.yml and from the target.
ADDED = {"tier", "instance", "le"}
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


async def ask(weirgate: Running) -> None:
    """Give the node something to count: an answer, an error of its own, a connection refused."""
    async with connect(weirgate.port()) as wire:
        for path in ("/found", "/lost"):
            await wire.exchange(request(path))
    with contextlib.suppress(ConnectionError):  # at once, or when it is read
        async with connect(weirgate.port("closed")) as refused:
            assert await refused.maybe_response() is None


@pytest.fixture(scope="module")
async def weirgate() -> AsyncIterator[Running]:
    config = Configuration().listen("web").listen("closed", deny=["127.0.0.0/8"])
    async with one_origin() as origin:
        config.pool("all", origin.port).route("all", pool="all", match={"path": "/found"})
        config.data["discovery"] = {"docker": {"endpoint": "unix:///nobody/docker.sock"}}
        async with running(config) as instance:
            await ask(instance)
            await instance.counted("denied")
            yield instance


async def test_every_panel_asks_for_what_a_node_tells(weirgate: Running) -> None:
    text = (await weirgate.admin.get("/metrics")).text
    labels: dict[str, set[str]] = {}
    for name, carried, _ in samples(text):
        labels.setdefault(name, set()).update(carried)
    declared = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    for expression in EXPRESSIONS:
        for name in re.findall(r"weirgate_\w+", expression):
            assert name.removesuffix("_bucket") in declared, expression
            wanted = {
                label.strip()
                for group in re.findall(r"by \(([^)]*)\)", expression)
                for label in group.split(",")
            }
            if labels.get(name):  # one that nothing was counted for yet has no labels
                assert wanted - ADDED <= labels[name], expression


async def test_prometheus_reads_a_node_and_answers_every_panel(
    weirgate: Running, tmp_path: Path
) -> None:
    scrape = yaml.safe_load((DEPLOY / "compose/prometheus.yml").read_text())
    (job,) = scrape["scrape_configs"]
    del job["dns_sd_configs"]  # of the demo's network
    (tmp_path / "token").write_text("ignored by a node without one")
    job["authorization"]["credentials_file"] = str(tmp_path / "token")
    admin = weirgate.admin.base_url.netloc.decode()
    job["static_configs"] = [{"targets": [admin], "labels": {"__meta_dns_name": "node"}}]
    scrape["global"]["scrape_interval"] = "1s"
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(scrape))
    port = free_port()
    options = (
        f"--config.file={tmp_path / 'prometheus.yml'}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    )
    async with (
        listening(tmp_path, port, tool("prometheus"), *options),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as prometheus,
    ):
        silent = list(EXPRESSIONS)

        async def all_answer() -> bool:
            await ask(weirgate)  # a rate needs growth
            for expression in tuple(silent):
                answer = await prometheus.get("/api/v1/query", params={"query": expression})
                assert answer.status_code == 200, answer.text
                if any(entry["value"][1] != "NaN" for entry in answer.json()["data"]["result"]):
                    silent.remove(expression)
            return not silent

        await eventually(all_answer, within_s=30, explain=lambda: f"no answer to {silent}")
        up = await prometheus.get("/api/v1/query", params={"query": "sum by (tier) (weirgate_up)"})
        (entry,) = up.json()["data"]["result"]
        assert (entry["metric"], entry["value"][1]) == ({"tier": "node"}, "2")  # its processes


def test_prometheus_finds_the_services_of_the_demo() -> None:
    scrape = yaml.safe_load((DEPLOY / "compose/prometheus.yml").read_text())["scrape_configs"][0]
    compose = yaml.safe_load((DEPLOY / "compose/compose.yaml").read_text())
    weirgate = yaml.safe_load((DEPLOY / "compose/weirgate.yaml").read_text())
    (found,) = scrape["dns_sd_configs"]
    assert set(found["names"]) <= set(compose["services"])
    assert weirgate["admin"]["bind"] == f"0.0.0.0:{found['port']}"
    own = compose["services"]["prometheus"]
    assert scrape["authorization"]["credentials_file"] == f"/run/secrets/{own['secrets'][0]}"
    # the token is for Weirgate's user alone
    assert own["user"] == "65532:65532"
    assert set(own["networks"]) & set(compose["services"]["edge"]["networks"])
    assert set(own["networks"]) & set(compose["services"]["gateway"]["networks"])
