"""SIP: SIPp calls SIPp, by one socket or by many, two servers behind."""

import re
from pathlib import Path

import pytest

from tests.support import services
from tests.support.peers import tool
from tests.support.processes import finished
from tests.support.weirgate import Running, running
from weirgate.shared.testing import Configuration, free_port

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

CALLS = 200
#: Of a call: INVITE, ACK and BYE; 180, 200 and 200.
EACH_WAY = 3


@pytest.mark.parametrize(
    ("transport", "protocol"), [("u1", "udp"), ("un", "udp"), ("t1", "tcp"), ("tn", "tcp")]
)
async def test_no_call_fails(tmp_path: Path, transport: str, protocol: str) -> None:
    """``un``, ``tn``: many sockets; INVITE, ACK and BYE of a call must find the same server."""
    server = "u1" if protocol == "udp" else "t1"
    async with (
        services.sipp_server(tmp_path, server) as one,
        services.sipp_server(tmp_path, server) as two,
    ):
        config = Configuration().listen("sip", protocol=protocol, pool="sip")
        config.pool("sip", one.port, two.port, balance="round_robin")
        config.data["drain"] = {"timeout": "100ms"}  # ends the sessions, which are idle then
        async with running(config) as weirgate:
            said = await _call(weirgate.port("sip"), transport)
            assert _count(said, "Successful call") == CALLS
            assert _count(said, "Failed call") == 0
            await _judge(weirgate, protocol)
            await weirgate.stop()
            lines = [entry for entry in weirgate.access.entries() if entry["listener"] == "sip"]
    if transport in {"un", "tn"}:
        assert len(lines) > 10
        used = {line["endpoint"] for line in lines}
        assert used == {f"127.0.0.1:{peer.port}" for peer in (one, two)}
    if protocol == "udp":
        assert {line["moves"] for line in lines} == {0}
        for way in ("datagrams_in", "datagrams_out"):
            assert sum(line[way] for line in lines) >= EACH_WAY * CALLS


async def _call(port: int, transport: str) -> str:
    """Make the calls; return what SIPp says of them."""
    client = ("-sn", "uac", "-i", "127.0.0.1", "-p", str(free_port()), "-t", transport)
    load = ("-m", str(CALLS), "-r", str(CALLS), "-d", "200", "-max_socket", str(CALLS + 50))
    ends = ("-timeout", "30s", "-timeout_error", "-nostdin")
    done = await finished(tool("sipp"), *client, *load, *ends, f"127.0.0.1:{port}")
    assert done.code == 0, done.text
    return done.text


async def _judge(weirgate: Running, protocol: str) -> None:
    if protocol == "udp":
        assert await weirgate.metric("weirgate_edge_datagrams_dropped_total") == 0
    else:
        assert await weirgate.metric("weirgate_edge_refused_total") == 0


def _count(text: str, counter: str) -> int:
    (found,) = re.findall(rf"{counter}\s+\|\s+\d+\s+\|\s+(\d+)", text)
    return int(found)
