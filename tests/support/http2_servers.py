"""Servers that speak HTTP/2, other people's, as real processes."""

import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from tests.support.certs import Files
from tests.support.peers import Peer, listening
from weirgate.shared.testing import free_port


@contextlib.asynccontextmanager
async def grpc_app(
    directory: Path, *, port: int = 0, files: Files | None = None
) -> AsyncIterator[Peer]:
    """Run the gRPC application of the tests; with certificate files over TLS."""
    port = port or free_port()
    command = (sys.executable, "-m", "tests.support.grpc_app", str(port))
    extra = (files.cert, files.key) if files else ()
    async with listening(directory, port, *command, *extra) as peer:
        yield peer
