"""iperf3: streams of datagrams as calls send them, agreed on by TCP on the same port."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support import services
from tests.support.peers import tool
from tests.support.processes import finished
from tests.support.weirgate import Running, running
from weirgate.shared.testing import Configuration

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

#: As of a call with G.711: 50 datagrams of 160 bytes a second.
CALLS, RATE, BYTES, SECONDS = 4, "64k", 160, 2
TRIES = 3


@dataclass(frozen=True)
class Site:
    weirgate: Running

    async def iperf(self, *arguments: str) -> dict[str, Any]:
        """Run a test; now and then, on a busy machine, iperf3 ends well without its summary."""
        where = ("--client", "127.0.0.1", "--port", str(self.weirgate.port("udp")), "--json")
        for _ in range(TRIES):
            done = await finished(tool("iperf3"), *where, *arguments, within_s=30)
            assert done.code == 0, done.text
            end = dict(json.loads(done.out)["end"])
            if "sum_received" in end:
                return end
        raise AssertionError(done.text)


@pytest.fixture(scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with services.iperf_server(tmp_path_factory.mktemp("iperf")) as peer:
        config = Configuration().listen("udp", protocol="udp", pool="voice")
        config.listen("tcp", protocol="tcp", pool="voice").pool("voice", peer.port)
        config.data["listeners"]["tcp"]["bind"] = config.data["listeners"]["udp"]["bind"]
        config.data["drain"] = {"timeout": "100ms"}  # ends the sessions, which are idle then
        async with running(config) as weirgate:
            yield Site(weirgate)


@pytest.mark.parametrize("way", [(), ("--reverse",)], ids=["upwards", "downwards"])
async def test_no_datagram_of_a_call_is_lost(site: Site, way: tuple[str, ...]) -> None:
    load = ("--udp", "--parallel", str(CALLS), "--bitrate", RATE, "--length", str(BYTES))
    end = await site.iperf(*load, "--time", str(SECONDS), *way)
    heard = end["sum_received"]
    print(f"jitter {heard['jitter_ms']:.3f} ms, {heard['packets']} datagrams")  # noqa: T201
    assert heard["lost_packets"] == 0
    assert heard["packets"] >= CALLS * 50 * SECONDS
    assert heard["jitter_ms"] > 0
    assert await site.weirgate.metric("weirgate_edge_datagrams_dropped_total") == 0
