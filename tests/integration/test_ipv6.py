"""IPv6 on either side of tcp and udp listeners."""

import asyncio
import socket

import pytest

from tests.support.udp import UdpServer, udp_client
from tests.support.weirgate import running
from weirgate.shared.testing import Configuration, free_port

pytestmark = pytest.mark.anyio

FAMILIES = {"::1": "[::1]", "127.0.0.1": "127.0.0.1"}


def _both_there() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.skipif(not _both_there(), reason="no IPv6 on loopback")
@pytest.mark.parametrize("behind", FAMILIES)
@pytest.mark.parametrize("before", FAMILIES)
async def test_a_stream_and_a_datagram_from_any_family_to_any(before: str, behind: str) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read())
        writer.close()

    loop = asyncio.get_running_loop()
    stream = await asyncio.start_server(echo, behind, 0)
    transport, server = await loop.create_datagram_endpoint(UdpServer, local_addr=(behind, 0))
    try:
        port = stream.sockets[0].getsockname()[1]
        config = Configuration().pool("tcp", f"{FAMILIES[behind]}:{port}")
        config.pool("udp", f"{FAMILIES[behind]}:{server.port}")
        ports = {name: free_port() for name in ("tcp", "udp")}
        for name, port in ports.items():
            bind = f"{FAMILIES[before]}:{port}"
            config.listen(name, protocol=name, pool=name, bind=bind)
        config.data["drain"] = {"timeout": "100ms"}  # ends the session, which is idle then
        async with running(config) as weirgate:
            reader, writer = await asyncio.open_connection(before, ports["tcp"])
            writer.write(b"x" * 100_000)
            writer.write_eof()
            assert await reader.read() == b"x" * 100_000
            writer.close()
            await writer.wait_closed()
            async with udp_client(ports["udp"], host=before) as client:
                assert await client.ask(b"y" * 5000) == b"%d:" % server.port + b"y" * 5000
            entry = await weirgate.access.wait_for(lambda e: e["listener"] == "tcp")
            assert entry["client"].startswith(FAMILIES[before] + ":")
            assert entry["endpoint"].startswith(FAMILIES[behind] + ":")
    finally:
        transport.close()
        stream.close()
        await stream.wait_closed()
