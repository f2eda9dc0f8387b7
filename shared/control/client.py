"""The supervisor's side of a child's control API: short timeouts, and two ways to fail.

httpx is imported at the first call: by then the children are starting, and nobody waits for it.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weirgate.shared.errors import WeirgateError

if TYPE_CHECKING:
    import httpx

_SHORT_SECONDS = 1.0
#: A data plane may need a while to parse a large snapshot.
_SNAPSHOT_SECONDS = 10.0
#: A full list is 5 MB, and whoever has it sent waits for it.
_SHUNS_SECONDS = 3.0


class ChildError(WeirgateError):
    """A child did not do what it was asked."""


class ChildUnreachableError(ChildError):
    """The child's endpoint did not answer: it starts, has ended, or is stuck."""


class ChildRefusedError(ChildError):
    """The child answered and refused; the text is its own."""


class ChildClient:
    """Calls one child over its Unix socket."""

    def __init__(self, control_socket: Path) -> None:
        self._socket = control_socket
        self._http: httpx.AsyncClient | None = None

    async def ready(self) -> bool:
        """Say whether the child reports that it is ready; one that does not answer is not."""
        if not self._socket.exists():
            return False
        try:
            return bool((await self._document("/health"))["ready"])
        except ChildError:
            return False

    async def status(self, seconds: float = _SHORT_SECONDS) -> dict[str, Any]:
        """Return the data plane's status, if it comes within so many seconds."""
        document: dict[str, Any] = json.loads(await self._send("GET", "/status", seconds=seconds))
        return document

    async def metrics(self) -> list[dict[str, Any]]:
        """Return the data plane's metric families."""
        families: list[dict[str, Any]] = await self._document("/metrics")
        return families

    async def put_snapshot(self, snapshot: bytes, generation: int) -> None:
        """Put a snapshot in force, or raise ``ChildRefusedError`` with the old one in force."""
        await self._send(
            "PUT", f"/snapshot?generation={generation}", snapshot, seconds=_SNAPSHOT_SECONDS
        )

    async def put_endpoints(self, states: bytes) -> None:
        """Replace the endpoint states."""
        await self._send("PUT", "/endpoints", states)

    async def put_shuns(self, shuns: bytes) -> None:
        """Replace the list of shunned sources."""
        await self._send("PUT", "/shuns", shuns, seconds=_SHUNS_SECONDS)

    async def drain(self, deadline_ms: int) -> None:
        """Ask for a drain; returns as soon as it has begun."""
        await self._send("POST", f"/drain?deadline_ms={deadline_ms}")

    async def close(self) -> None:
        """Close the idle connection."""
        if self._http is not None:
            await self._http.aclose()

    async def _document(self, path: str) -> Any:
        return json.loads(await self._send("GET", path))

    async def _send(
        self, method: str, path: str, body: bytes = b"", seconds: float = _SHORT_SECONDS
    ) -> bytes:
        import httpx

        if self._http is None:
            self._http = _client(self._socket)
        try:
            response = await self._http.request(method, path, content=body, timeout=seconds)
        except httpx.HTTPError as error:
            raise ChildUnreachableError(f"{type(error).__name__}: {error}") from error
        if response.is_success:
            return response.content
        raise ChildRefusedError(_error_text(response))


def _client(control_socket: Path) -> "httpx.AsyncClient":
    import httpx

    return httpx.AsyncClient(
        # verify=False only keeps httpx from loading CA certificates: this is a Unix socket
        transport=httpx.AsyncHTTPTransport(uds=str(control_socket), verify=False),
        base_url="http://child",
        timeout=_SHORT_SECONDS,
        trust_env=False,
    )


def _error_text(response: "httpx.Response") -> str:
    try:
        return str(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        return f"status {response.status_code}"
