"""The node that the tests of gRPC share: the application behind it, and a server that is deaf."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import grpc.aio

from tests.support import certs
from tests.support.grpc_client import channel
from tests.support.http2_origin import Http2Origin, http2_origin
from tests.support.http2_servers import grpc_app
from tests.support.weirgate import Running, running
from weirgate.shared.testing import Configuration, free_port

NAME = "weirgate.test"
CHECK = {"grpc": True, "interval": "100ms", "timeout": "1s", "rise": 1, "fall": 1}
STREAMS = 2000


@dataclass(frozen=True)
class Site:
    weirgate: Running
    app: int
    origin: Http2Origin
    authority: bytes

    def channel(self, listener: str = "web", authority: str = NAME) -> grpc.aio.Channel:
        trusted = self.authority if listener == "secure" else None
        return channel(self.weirgate.port(listener), authority=authority, trusted=trusted)


@contextlib.asynccontextmanager
async def grpc_site(directory: Path) -> AsyncIterator[Site]:
    """Run all of it; the host of a call says which route it takes."""
    tls = {"certificates": [certs.issue(directory, NAME).yaml()]}
    config = Configuration().listen("web").listen("secure", tls=tls)
    config.gateway(http2={"streams": STREAMS, "control_frames": 0})
    config.route(
        "limited",
        match={"host": "limited.test", "grpc": "weirgate.test.App/Unary"},
        filters=[{"rate_limit": {"rate": "1/h", "burst": 1}}],
        pool="app",
    )
    config.route("dead", match={"host": "dead.test"}, pool="dead")
    config.route("deaf", match={"host": "deaf.test"}, pool="deaf")
    config.route("method", match={"host": "m.test", "grpc": "weirgate.test.App/Unary"}, pool="app")
    config.route("service", match={"host": "s.test", "grpc": "weirgate.test.App"}, pool="app")
    config.route("all", match={"host": NAME}, pool="app")
    async with grpc_app(directory) as app, http2_origin() as origin:
        config.pool("app", app.port, protocol="h2c", health=CHECK)
        config.pool("dead", free_port(), protocol="h2c")
        config.pool("deaf", origin.port, protocol="h2c")
        async with running(config) as weirgate:
            authority = certs.authority_file(directory).read_bytes()
            yield Site(weirgate, app.port, origin, authority)
