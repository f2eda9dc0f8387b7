"""What the cases share: origins behind an example, and words for what a client saw."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from tests.migrating.site import Product, Site, started
from tests.support.origin import Origin, origins
from tests.support.strict import Response
from tests.support.wire import connect, request

Seen = dict[str, str]
Case = Callable[[Product, Path], Awaitable[Seen]]
#: An address of this machine that the client can have besides 127.0.0.1.
ELSEWHERE = "127.0.0.2"


@contextlib.asynccontextmanager
async def two(
    case: str, product: Product, directory: Path, **places: str
) -> AsyncIterator[tuple[int, list[Origin]]]:
    """Run an example in front of the origins a and b; yield its port 80 and the two."""
    async with origins("a", "b") as pair:
        site = Site(case, directory, places=places).endpoints(*(origin.port for origin in pair))
        async with started(product, site):
            yield site.port(), pair


def who(response: Response) -> str:
    """Say which origin answered, or the status of what the product said itself."""
    return response.one("x-origin") or str(response.status)


def names(responses: list[Response]) -> str:
    """Say who answered, such as ``a and b``; whoever failed stands there with its status."""
    return " and ".join(sorted({who(response) for response in responses}))


async def ask(
    port: int, target: str = "/", *fields: str, method: str = "GET", local: str | None = None
) -> Response:
    """Send one request on a connection of its own, from 127.0.0.1 or another address."""
    body = b"once" if method == "POST" else b""
    async with connect(port, local=local) as wire:
        data = request(target, "Connection: close", *fields, method=method, body=body)
        return await wire.exchange(data, method)
