"""The check by connecting only."""

import asyncio
from typing import cast

from weirgate.shared.health.check import Target
from weirgate.shared.health.exchange import close, connect
from weirgate.shared.health.introduction import introduction
from weirgate.shared.health.result import Result
from weirgate.shared.health.tls import check_pins


async def knock(target: Target, address: str) -> Result:
    """Connect to an address of the target, and go."""
    version, tls = target.check.proxy_protocol, target.check.tls
    transport, _ = await connect(lambda: _Knock(version), target, address)
    try:
        check_pins(tls, transport)
    finally:
        close(transport, tls)
    return Result()


class _Knock(asyncio.Protocol):
    """Says nothing, but for the PROXY header that an endpoint waits for."""

    def __init__(self, version: str) -> None:
        self._version = version

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # a cast, because uvloop's transports are not instances of asyncio's classes
        cast("asyncio.WriteTransport", transport).write(introduction(self._version, transport))
