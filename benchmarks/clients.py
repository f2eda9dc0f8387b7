"""The load: each function drives one client program for some seconds and says what it did."""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.netns import Cores, pinned

HERE = Path(__file__).parent
TLS_PROCESSES = 4


class ClientError(Exception):
    """A client program could not do its work; the text says why."""


@dataclass(frozen=True)
class Load:
    """What a client did: units of work, how long, at what own cost, with which errors."""

    work: float
    seconds: float
    client_cpu_s: float
    errors: dict[str, int]
    values: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


def wrk(
    cores: Cores,
    port: int,
    seconds: float,
    *,
    connections: int = 64,
    tls: bool = False,
    close: bool = False,
    path: str = "/",
    script: Sequence[str] = (),
) -> Load:
    """One wrk thread; with `close`, each request has a connection of its own."""
    program = shutil.which("wrk")
    if program is None:
        raise ClientError("wrk: not installed")
    scheme = "https" if tls else "http"
    # wrk takes whole seconds only
    command = [
        program,
        "-t1",
        f"-c{connections}",
        f"-d{max(1, round(seconds))}s",
        "--timeout",
        "10s",
    ]
    command += ["-s", str(HERE / "wrk.lua"), *(["-H", "Connection: close"] if close else [])]
    command += [f"{scheme}://127.0.0.1:{port}{path}", "--", *script]
    (said,), took, spent = _run(cores, [command])
    line = next((line for line in said.splitlines() if line.startswith("BENCH ")), None)
    if line is None:
        raise ClientError(f"wrk gave no result: {said[-300:]}")
    return parse_wrk(json.loads(line.removeprefix("BENCH ")), took, spent)


def parse_wrk(totals: dict[str, int], took: float, spent: float) -> Load:
    """The totals that wrk.lua prints, as a load."""
    errors = {name: totals[name] for name in ("connect", "read", "write", "status", "timeout")}
    values = {"p50_ms": totals["p50_us"] / 1000, "p99_ms": totals["p99_us"] / 1000}
    values["per_second"] = totals["requests"] / (totals["duration_us"] / 1e6)
    return Load(totals["requests"], took, spent, errors, values)


def h2load(cores: Cores, port: int, seconds: float) -> Load:
    """HTTP/2 by TLS on four connections with a hundred streams each."""
    program = shutil.which("h2load")
    if program is None:
        raise ClientError("h2load: not installed")
    command = [program, "-t1", "-c4", "-m100", f"-D{max(1, round(seconds))}"]
    (said,), took, spent = _run(cores, [[*command, f"https://127.0.0.1:{port}/"]])
    return parse_h2load(said, took, spent)


def parse_h2load(said: str, took: float, spent: float) -> Load:
    """Read the counts that h2load prints."""
    counts = re.search(
        r"(\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", said
    )
    other = re.search(r"status codes: (\d+) 2xx", said)
    if counts is None or other is None or "Application protocol: h2" not in said:
        raise ClientError(f"h2load gave no result: {said[-300:]}")
    done, _, failed, errored, late = map(int, counts.groups())
    errors = {"failed": failed, "errored": errored, "timeout": late}
    errors["status"] = done - int(other[1])
    return Load(done, took, spent, errors, {"per_second": done / took})


def handshakes(cores: Cores, port: int, seconds: float, *, rate: float, resume: bool) -> Load:
    """TLS connections at a fixed rate; a handshake of the wrong kind is an error."""
    command = [sys.executable, "-m", "benchmarks.tls_client", str(port), "--seconds", str(seconds)]
    command += ["--rate", str(rate / TLS_PROCESSES), *(["--resume"] if resume else [])]
    said, took, spent = _run(cores, [command] * TLS_PROCESSES)
    return sum_handshakes([json.loads(text) for text in said], took, spent, resume=resume)


def sum_handshakes(
    parts: Sequence[dict[str, Any]], took: float, spent: float, *, resume: bool
) -> Load:
    """Add up what the TLS clients counted."""
    total = {
        name: sum(int(part[name]) for part in parts)
        for name in ("connections", "full", "resumed", "failed", "status", "late")
    }
    wrong = total["full"] if resume else total["resumed"]
    errors = {
        "failed": total["failed"],
        "status": total["status"],
        "wrong_kind_of_handshake": wrong,
    }
    errors["behind_schedule"] = total["late"]
    first = next((part["first_error"] for part in parts if part["first_error"]), "")
    return Load(total["connections"], took, spent, errors, details=total | {"first_error": first})


def downloads(cores: Cores, port: int, seconds: float) -> Load:
    """Large answers on keep-alive connections; the unit of work is 10^9 bytes."""
    command = [sys.executable, "-m", "benchmarks.bulk_client", str(port), "--seconds", str(seconds)]
    (said,), took, spent = _run(cores, [command])
    total = json.loads(said)
    errors = {name: int(total[name]) for name in ("cut", "status", "failed")}
    gigabytes = total["bytes"] / 1e9
    return Load(gigabytes, took, spent, errors, {"gbit_per_second": gigabytes * 8 / seconds}, total)


def datagrams(cores: Cores, port: int, seconds: float) -> Load:
    """UDP echo over many flows; the unit of work is a datagram carried, either way."""
    script = "benchmarks.datagram_client"
    (said,), took, spent = _run(
        cores, [[sys.executable, "-m", script, str(port), "--seconds", str(seconds)]]
    )
    total = json.loads(said)
    carried = 2.0 * total["answered"]
    return Load(
        carried, took, spent, {"wrong": int(total["wrong"]), "lost": int(total["lost"])}, {}, total
    )


@contextmanager
def idle_connections(cores: Cores, port: int, count: int, *, kind: str) -> Iterator[dict[str, int]]:
    """Hold `count` connections open inside the block; gives how many stand and how many failed."""
    command = [sys.executable, "-m", "benchmarks.idle_client", str(port), str(count)]
    with (
        pinned(cores.client),
        subprocess.Popen(
            [*command, *([] if kind == "plain" else [f"--{kind}"])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as client,
    ):
        try:
            line = client.stdout.readline() if client.stdout else ""
            if not line:
                raise ClientError("the idle client ended before its connections stood")
            yield json.loads(line)
        finally:
            if client.stdin:
                client.stdin.close()


def _run(cores: Cores, commands: Sequence[Sequence[str]]) -> tuple[list[str], float, float]:
    """Run client programs side by side: what each printed, the time it took, their CPU time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.monotonic()
    running: list[subprocess.Popen[str]] = []
    try:
        with pinned(cores.client):
            for command in commands:
                running.append(  # noqa: PERF401 - a list that the finally can see half made
                    subprocess.Popen(
                        command,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.STDOUT,
                        text=True,
                        cwd=HERE.parent,
                        env=os.environ | {"PYTHONPATH": str(HERE.parent)},
                    )
                )
        said = [client.communicate(timeout=120)[0] for client in running]
    finally:
        for client in running:
            if client.poll() is None:
                client.kill()
                client.wait()
    took = time.monotonic() - begin
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    for client, text in zip(running, said, strict=True):
        if client.returncode != 0:
            raise ClientError(f"{client.args!r} ended with {client.returncode}: {text[-300:]}")
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return said, took, spent
