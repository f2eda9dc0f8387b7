"""What each way can see and do, each row observed in this run, with requests of our own."""

import contextlib
import json
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import cpu
from benchmarks.processes import wait_until

from loadtests.tiers.paced import exchange
from loadtests.tiers.ways import Way

#: A client that is not at the address that everything else is at.
CLIENT = "127.0.0.77"
TIMEOUT_S = 5.0
TRIES = 10
#: Of a log line, what is shown: the rest is the same everywhere, or times.
SHOWN = (
    *("protocol", "listener", "client", "method", "host", "path", "status", "route", "pool"),
    *("endpoint", "bytes_in", "bytes_out", "closed_by", "reason", "request_id", "connection_id"),
)


@dataclass(frozen=True)
class Sight:
    """One row: what was tried, and what was seen on each way, by its name."""

    tried: str
    seen: dict[str, str]


def observe(ways: list[Way]) -> list[Sight]:
    """Try everything on every way; the last row kills an edge process."""
    rows: dict[str, Callable[[Way], str]] = {
        f"the client is {CLIENT}; the application sees": _client,
        "the application is given a request id": _request_id,
        "`GET /` and `GET /api/whoami` on one connection reach": _paths,
        f"{TRIES} `GET`s, every other endpoint closes without an answer": _mute,
        f"a client with a cookie comes {TRIES} times, on new connections": _sticky,
        f"a limit of 3 a second, {TRIES} requests at once": _limit,
        "one line of its log has": _log,
        "the edge process is killed while a connection is open": _killed,
    }
    return [
        Sight(tried, {way.name: _safely(row, way) for way in ways}) for tried, row in rows.items()
    ]


def log_lines(ways: list[Way]) -> dict[str, str]:
    """A line of the log of each way, shortened; the two tiers apart have one each."""
    found = {}
    for way in ways:
        for file in way.logs:
            if line := _line(way, file):
                name = f"{way.name}, {file.stem}" if len(way.logs) > 1 else way.name
                short = {key: line[key] for key in SHOWN if line.get(key) not in (None, "")}
                found[name] = json.dumps(short)
    return found


def _safely(row: Callable[[Way], str], way: Way) -> str:
    try:
        return row(way)
    except (OSError, ValueError) as error:
        return f"failed: {error}"


def _connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), TIMEOUT_S, (CLIENT, 0))


def _get(port: int, path: str, *fields: str) -> tuple[int, dict[str, str], bytes]:
    """One request on a connection of its own: the status, the headers, the body."""
    with _connect(port) as connection:
        return _ask(connection, path, *fields)


def _ask(connection: socket.socket, path: str, *fields: str) -> tuple[int, dict[str, str], bytes]:
    lines = [f"GET {path} HTTP/1.1", "Host: loadtests", *fields, "", ""]
    data = exchange(connection, "\r\n".join(lines).encode())
    if not data:
        raise ConnectionError("closed without an answer")
    head, _, body = data.partition(b"\r\n\r\n")
    first, *rest = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (f.partition(":") for f in rest)}
    return int(first.split()[1]), headers, body


def _api(way: Way) -> int:
    """The port by which a way reaches the API; layer 4 needs a listener for each application."""
    return way.ports.get("web") or way.ports["raw_api"]


def _client(way: Way) -> str:
    seen = json.loads(_get(_api(way), "/api/whoami")[2])
    if seen["client"]:
        return f"{seen['client']} (`X-Forwarded-For`)"
    text = str(seen["peer"])
    if "raw_lines" in way.ports:
        with _connect(way.ports["raw_lines"]) as connection:
            connection.sendall(b"x\n")
            told = connection.recv(4096).decode().split()[1].split(":")[0]
        text += f"; {told} where the pool has `proxy_protocol: v2`"
    return text


def _request_id(way: Way) -> str:
    return "yes" if json.loads(_get(_api(way), "/api/whoami")[2])["request_id"] else "no"


def _paths(way: Way) -> str:
    with _connect(way.ports.get("web") or way.ports["raw"]) as connection:
        servers = [_server(*_ask(connection, path)) for path in ("/", "/api/whoami")]
    return " and ".join(servers) if len(set(servers)) > 1 else f"{servers[0]} both"


def _server(_: int, headers: dict[str, str], __: bytes) -> str:
    return "the API" if "x-instance" in headers else "the small application"


def _mute(way: Way) -> str:
    port = way.ports.get("web") or way.ports.get("raw_mute")
    if port is None:
        return "the client chooses its endpoint itself"
    answered = 0
    for _ in range(TRIES):
        with contextlib.suppress(ConnectionError):
            answered += _get(port, "/api/slow?ms=0")[0] == 200
    return f"{answered} answered, {TRIES - answered} closed"


def _sticky(way: Way) -> str:
    cookie, instances = "", set()
    for _ in range(TRIES):
        _, headers, _ = _get(_api(way), "/api/cart", *([f"Cookie: {cookie}"] if cookie else []))
        instances.add(headers["x-instance"])
        if not cookie and headers.get("set-cookie", "").startswith("endpoint="):
            cookie = headers["set-cookie"].partition(";")[0]
    if way.name == "direct":
        return "the client chooses its endpoint itself"
    return "one endpoint answers" if len(instances) == 1 else f"{len(instances)} endpoints answer"


def _limit(way: Way) -> str:
    if web := way.ports.get("web"):
        statuses = [_get(web, "/api/items")[0] for _ in range(TRIES)]
        return f"{statuses.count(200)} answered, {statuses.count(429)} got 429 (of a path)"
    if "raw_few" not in way.ports:
        return "no limit"
    answered = 0
    for _ in range(TRIES):
        with contextlib.suppress(ConnectionError):
            answered += _get(way.ports["raw_few"], "/")[0] == 200
    return f"{answered} answered, {TRIES - answered} reset (connections)"


def _log(way: Way) -> str:
    found = [line for file in way.logs if (line := _line(way, file))]
    if not found:
        return "no log but the application's"
    what = ["method, path, status" if "path" in line else "bytes, how it ended" for line in found]
    return "; ".join(what)


def _line(way: Way, file: Path) -> dict[str, object] | None:
    """The first line of what this way logs; None = none within a second."""
    relayed = way.name == "layer 4" or file.stem == "edge"
    found: list[dict[str, object]] = []

    def look() -> bool:
        for text in file.read_text().splitlines() if file.exists() else []:
            with contextlib.suppress(ValueError):
                line = json.loads(text)
                if line.get("client", "").startswith(CLIENT) and ("path" in line) != relayed:
                    found.append(line)
                    return True
        return False

    wait_until(look, 1.0)
    return found[0] if found else None


def _killed(way: Way) -> str:
    """Kill the edge of a way; its supervisor starts another one."""
    if not way.trees:
        return "there is none"
    port = way.ports.get("web") or way.ports["raw"]
    (edge,) = cpu.find_in_tree(way.trees[0].pid, "weirgate.edge.process")
    with _connect(port) as connection:
        _ask(connection, "/")
        os.kill(edge, signal.SIGKILL)
        wait_until(lambda: not (cpu.PROC / str(edge)).exists(), 5)
        try:
            status = _ask(connection, "/")[0]
            text = f"the connection goes on ({status})"
        except ConnectionError:
            text = "the connection breaks"
    wait_until(lambda: _accepts(port), 10)
    return text


def _accepts(port: int) -> bool:
    try:
        return _get(port, "/")[0] == 200
    except OSError:
        return False
