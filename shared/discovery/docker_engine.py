"""The few calls that are made of a Docker engine: all containers, and news of them. GET only."""

import contextlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from weirgate.shared.errors import WeirgateError

if TYPE_CHECKING:
    import requests
    from docker import APIClient

_ANY_VERSION = "1.41"
_VERSION = re.compile(r"1\.[0-9]{1,3}")
MAX_ANSWER_BYTES = 64 * 2**20
_SECONDS = 5
#: A stream of events that says nothing for so long is opened anew, should the engine hang.
_QUIET_SECONDS = 60
_READ_BYTES = 65_536
#: An event carries all labels of its container; a longer one is not understood, only noticed.
MAX_EVENT_BYTES = 2**20
#: What can change the answer. The checks of containers alone would make hundreds of others
#: (``exec_create``, ``exec_start``, ``exec_die``).
_CONTAINER_EVENTS = (
    *("start", "die", "kill", "health_status", "destroy", "pause", "unpause", "rename"),
)
_NETWORK_EVENTS = ("connect", "disconnect")


class EngineError(WeirgateError):
    """The engine does not answer, or not as it should; the text says how."""


class Engine:
    """One engine. Every call blocks."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        #: Agreed upon in the first call, and again after a failure: the engine may be a newer one.
        self._version = ""

    def containers(self, match: Mapping[str, str]) -> list[Any]:
        """Return all running containers, paused ones too, that have these labels.

        Raises:
            EngineError: They cannot be had.
        """
        labels = [f"{name}={value}" for name, value in match.items()]
        filters = {"filters": json.dumps({"label": labels})} if labels else {}
        with self.called("/containers/json", filters, _SECONDS) as response:
            containers = self._read(response)
        if not isinstance(containers, list):
            raise EngineError(f"{self._endpoint}: not a list of containers")
        return containers

    @contextlib.contextmanager
    def called(
        self, path: str, parameters: Mapping[str, str], read_seconds: int
    ) -> Iterator["requests.Response"]:
        """Give the answer to a GET, and close everything afterwards.

        Raises:
            EngineError: There is none, or no good one, or it breaks off while it is read.
        """
        import requests
        from docker import APIClient
        from docker.errors import DockerException

        version, self._version = self._version, ""
        try:
            with contextlib.ExitStack() as stack:
                # given a version it asks nothing while the environment's proxies are on
                client = APIClient(self._endpoint, version=_ANY_VERSION, timeout=_SECONDS)
                stack.callback(client.close)
                client.trust_env = False
                version = version or self._negotiated(client)
                response = self._get(client, stack, f"/v{version}{path}", parameters, read_seconds)
                self._version = version
                yield response
        except (requests.RequestException, DockerException, OSError, ValueError) as error:
            raise EngineError(f"{self._endpoint}: {_reason(error)}") from error

    def _negotiated(self, client: "APIClient") -> str:
        """Return the version of the API that the engine speaks."""
        with contextlib.ExitStack() as stack:
            answer = self._read(self._get(client, stack, "/version", {}, _SECONDS))
        version = answer.get("ApiVersion") if isinstance(answer, dict) else None
        if not isinstance(version, str) or not _VERSION.fullmatch(version):
            raise EngineError(f"{self._endpoint}: /version: not an engine's answer")
        return version

    def _get(
        self,
        client: "APIClient",
        stack: contextlib.ExitStack,
        path: str,
        parameters: Mapping[str, str],
        read_seconds: int,
    ) -> "requests.Response":
        response = client.get(
            f"{client.base_url}{path}",
            params=parameters,
            stream=True,
            allow_redirects=False,
            timeout=(_SECONDS, read_seconds),
        )
        stack.callback(response.close)
        if not response.ok or response.is_redirect:
            raise EngineError(f"{self._endpoint}: {path}: status {response.status_code}")
        return response

    def _read(self, response: "requests.Response") -> Any:
        """Return the whole of an answer in JSON, if it is of a length that can be."""
        data = bytearray()
        for chunk in response.iter_content(_READ_BYTES):
            data += chunk
            if len(data) > MAX_ANSWER_BYTES:
                raise EngineError(f"{self._endpoint}: an answer beyond 64 MiB")
        return json.loads(data)


class Events:
    """The stream of news, an object in JSON on each line; ``news`` takes one, or None at first.

    Each is a reason to look again, also one that cannot be understood, which is given as None.
    """

    def __init__(
        self, engine: Engine, news: Callable[[Any], None], ended: Callable[[], None]
    ) -> None:
        self._engine = engine
        self._news = news
        self._ended = ended
        self._lock = threading.Lock()
        self._closed = False
        self._response: requests.Response | None = None
        self.opened = False
        #: Why there will be no news, if the engine never began to tell any.
        self.error = ""

    def run(self) -> None:
        """Listen until the stream ends or is closed."""
        events = [*_CONTAINER_EVENTS, *_NETWORK_EVENTS]
        filters = {"type": ["container", "network"], "event": events}
        try:
            parameters = {"filters": json.dumps(filters)}
            with self._engine.called("/events", parameters, _QUIET_SECONDS) as response:
                with self._lock:
                    self._response = response
                self.opened = True
                self._news(None)
                for event in _lines(response):
                    if self._closed:
                        break
                    self._news(event)
        except EngineError as error:
            self.error = "" if self.opened else str(error)
        except Exception:  # closed under the reader's hands, at whatever place
            if not self._closed:
                raise
        finally:
            with self._lock:
                self._response = None
            self._ended()

    def close(self) -> None:
        """Let a reader that blocks return."""
        from docker.types import CancellableStream

        with self._lock:
            self._closed = True
            if self._response is not None:
                with contextlib.suppress(Exception):
                    CancellableStream(iter(()), self._response).close()


def _lines(response: "requests.Response") -> Iterator[Any]:
    """Yield what each line says, None for one that says nothing known."""
    begun = b""
    for chunk in response.iter_content(_READ_BYTES):
        *whole, begun = (begun + chunk).split(b"\n")
        if len(begun) > MAX_EVENT_BYTES:
            begun = b""
        for line in whole or [b""]:
            try:
                yield json.loads(line)
            except (ValueError, RecursionError):
                yield None


def _reason(error: BaseException) -> str:
    """Return the system's word for what went wrong, which stands somewhere inside."""
    found: list[BaseException] = [error]
    for each in found:
        if isinstance(each, OSError) and each.errno is not None and each.strerror:
            return each.strerror.lower()
        inner = [*each.args, each.__cause__, each.__context__, getattr(each, "reason", None)]
        found += [e for e in inner if isinstance(e, BaseException) and e not in found]
    return " ".join(str(error).split())[:200]
