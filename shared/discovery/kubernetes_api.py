"""Calls to a Kubernetes API server: lists in pages, watches line by line, all of it bounded."""

import contextlib
import json
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from weirgate.shared.addresses import join_address
from weirgate.shared.errors import WeirgateError

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
#: An object may have 1.5 MiB in the server's store; its JSON is longer.
MAX_EVENT_BYTES = 8 * 2**20
MAX_PAGE_BYTES = 64 * 2**20
_MAX_FILE_BYTES = 2**20
_MAX_STATUS_BYTES = 64 * 2**10
#: What a message repeats of what the server said.
_MAX_QUOTED = 300

_CONNECT_SECONDS = 5.0
_LIST_SECONDS = 30.0
#: After the server's own end of a watch.
_WATCH_SLACK_SECONDS = 10.0
#: A server that has vanished is found by the kernel, long before a watch should have ended.
_KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)

Parameters = Mapping[str, str]


class ApiError(WeirgateError):
    """The server cannot be asked, or does not answer as it should; the text says why."""


class GoneError(ApiError):
    """The server no longer knows what has changed since then (410): list everything anew."""


class ForbiddenError(ApiError):
    """The server knows who asks, and that this is not allowed (403)."""


@dataclass(frozen=True, slots=True)
class Access:
    """Where the API server is and what it wants to see; the files are read again and again."""

    url: str
    token: Path
    ca: Path

    @classmethod
    def of(
        cls,
        environ: Mapping[str, str],
        url: str | None = None,
        token: Path | None = None,
        ca: Path | None = None,
    ) -> "Access":
        """Fill in what a pod has for itself.

        Raises:
            ApiError: There is no URL, and this runs in no pod.
        """
        return cls(url or _in_cluster(environ), token or _own("token"), ca or _own("ca.crt"))

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator["Connection"]:
        """Open what several calls one after the other need.

        Raises:
            ApiError: The authority cannot be read.
        """
        transport = httpx.AsyncHTTPTransport(
            verify=self._tls(), trust_env=False, socket_options=_KEEPALIVE
        )
        async with httpx.AsyncClient(
            transport=transport, base_url=self.url, trust_env=False, follow_redirects=False
        ) as client:
            yield Connection(self, client)

    def bearer(self) -> str:
        """Read the token: the kubelet replaces the file long before the token ends.

        Raises:
            ApiError: It cannot be read.
        """
        text = read(self.token).strip()
        if not text or not text.isascii() or not text.isprintable():
            raise ApiError(f"{self.token} holds no token")
        return text

    def _tls(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cadata=read(self.ca))
        except (ssl.SSLError, ValueError) as error:
            raise ApiError(f"{self.ca} holds no authority") from error
        # authorities of clusters often lack what newer Pythons insist on by default
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return context


class Connection:
    """Connections to one API server, kept open between calls."""

    def __init__(self, access: Access, client: httpx.AsyncClient) -> None:
        self._access = access
        self._client = client

    async def page(self, path: str, parameters: Parameters) -> dict[str, Any]:
        """Return one page of a list.

        Raises:
            ApiError: As the classes say.
        """
        times = httpx.Timeout(_CONNECT_SECONDS, read=_LIST_SECONDS)
        async with self._get(path, parameters, times) as response:
            return _json(await _whole(response, MAX_PAGE_BYTES))

    @contextlib.asynccontextmanager
    async def watch(
        self, path: str, parameters: Parameters, seconds: int
    ) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """Open a watch, and give its events until the server ends it after so many seconds.

        Raises:
            ApiError: As the classes say; from the iterator as well.
        """
        times = httpx.Timeout(_CONNECT_SECONDS, read=seconds + _WATCH_SLACK_SECONDS)
        wanted = {**parameters, "watch": "1", "timeoutSeconds": str(seconds)}
        async with (
            self._get(path, wanted, times) as response,
            contextlib.aclosing(_events(response)) as events,
        ):
            yield events

    @contextlib.asynccontextmanager
    async def _get(
        self, path: str, parameters: Parameters, times: httpx.Timeout
    ) -> AsyncIterator[httpx.Response]:
        headers = {"authorization": f"Bearer {self._access.bearer()}", "accept": "application/json"}
        begun = _Begun()
        try:
            async with (
                contextlib.aclosing(begun),
                self._client.stream(
                    "GET",
                    path,
                    params=dict(parameters),
                    headers=headers,
                    timeout=times,
                    extensions={"trace": begun.hear},
                ) as response,
            ):
                if response.status_code != 200:
                    raise await _refusal(response)
                yield response
        except httpx.TransportError as error:
            text = f"the API server {self._access.url}: {error or type(error).__name__}"
            raise ApiError(text) from error
        except httpx.DecodingError as error:
            raise ApiError("the API server's answer cannot be decoded") from error


class _Begun:
    """The connection that is being made for a call.

    httpcore forgets, unclosed, one whose call is cancelled during the TLS handshake.
    """

    def __init__(self) -> None:
        self._stream: Any = None

    async def hear(self, event: str, info: Mapping[str, Any]) -> None:
        """Take what httpcore's ``trace`` tells."""
        if event == "connection.connect_tcp.complete":
            self._stream = info["return_value"]
        elif event == "connection.start_tls.complete":
            self._stream = None  # the pool's from now on

    async def aclose(self) -> None:
        """Close it, if it has come to nothing."""
        if self._stream is not None:
            await self._stream.aclose()


def read(path: Path) -> str:
    """Return what a small file holds.

    Raises:
        ApiError: It cannot be read, or is not small.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
        if len(data) <= _MAX_FILE_BYTES:
            return data.decode()
    except OSError as error:
        raise ApiError(f"{path}: {(error.strerror or 'an error').lower()}") from error
    except UnicodeDecodeError:
        pass
    raise ApiError(f"{path}: no text, or too much of it")


def event_error(status: Mapping[str, Any]) -> ApiError:
    """Return what an ``ERROR`` event of a watch stands for."""
    return _error(status.get("code"), status)


def _in_cluster(environ: Mapping[str, str]) -> str:
    host = environ.get("KUBERNETES_SERVICE_HOST", "")
    port = environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host or not port.isdecimal():
        raise ApiError(
            "this runs in no pod (KUBERNETES_SERVICE_HOST is not set): "
            "wanted discovery.kubernetes.api_server"
        )
    return f"https://{join_address(host, int(port))}"


def _own(name: str) -> Path:
    return SERVICE_ACCOUNT / name


async def _whole(response: httpx.Response, limit: int) -> bytes:
    data = bytearray()
    async for chunk in response.aiter_bytes():
        data += chunk
        if len(data) > limit:
            raise ApiError(f"an answer beyond {limit // 2**20} MiB")
    return bytes(data)


async def _events(response: httpx.Response) -> AsyncGenerator[dict[str, Any], None]:
    rest = bytearray()
    async for chunk in response.aiter_bytes():
        begin, searched = 0, len(rest)
        rest += chunk
        while (end := rest.find(b"\n", max(begin, searched))) >= 0:
            line = bytes(rest[begin:end])
            begin = end + 1
            if line.strip():
                yield _json(line)
        del rest[:begin]
        if len(rest) > MAX_EVENT_BYTES:
            raise ApiError(f"an event beyond {MAX_EVENT_BYTES // 2**20} MiB")
    if rest.strip():
        raise ApiError("a watch ended in the middle of an event")


async def _refusal(response: httpx.Response) -> ApiError:
    status: Mapping[str, Any] = {}
    with contextlib.suppress(ApiError):
        status = _json(await _whole(response, _MAX_STATUS_BYTES))
    return _error(response.status_code, status)


def _error(code: Any, status: Mapping[str, Any]) -> ApiError:
    message = str(status.get("message") or "")[:_MAX_QUOTED]
    text = f"the API server answers {code}" + (f": {message}" if message else "")
    if code == 410:
        return GoneError(text)
    return ForbiddenError(text) if code == 403 else ApiError(text)


def _json(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ApiError("the API server's answer is no JSON") from error
    if not isinstance(value, dict):
        raise ApiError("the API server's answer is no object")
    return value
