"""A real Weirgate: ``weirgate up FILE`` as a user starts it, with its ports, logs and children."""

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx

from tests.support.processes import children, end
from weirgate.shared.testing import Configuration, eventually

START_DEADLINE_S = 20.0
STOP_DEADLINE_S = 20.0
COMMAND = (sys.executable, "-P", "-m", "weirgate.shared.cli.main")
EDGE = "weirgate.edge.process"
GATEWAY = "weirgate.appgw.process"

Entry = dict[str, Any]


class AccessLog:
    """The access log of a running Weirgate, one JSON object per line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def entries(self) -> list[Entry]:
        """Return the complete lines written so far."""
        if not self.path.exists():
            return []
        lines = self.path.read_text().split("\n")[:-1]
        return [json.loads(line) for line in lines]

    async def wait_for(self, wanted: Callable[[Entry], bool], *, within_s: float = 10.0) -> Entry:
        """Return the first line that ``wanted`` accepts, as soon as it is there."""
        return await eventually(
            lambda: next((entry for entry in self.entries() if wanted(entry)), None),
            within_s=within_s,
            what="a line of the access log",
            explain=lambda: "\n".join(map(str, self.entries()[-20:])),
        )

    async def of(self, path: str) -> Entry:
        """Return the line of the first request with this path."""
        return await self.wait_for(lambda entry: entry.get("path") == path)


class Running:
    """A started Weirgate."""

    def __init__(
        self,
        config: Configuration,
        directory: Path,
        process: asyncio.subprocess.Process,
        admin: httpx.AsyncClient,
    ) -> None:
        self.config = config
        self.directory = directory
        self.process = process
        self.admin = admin
        self.file = directory / "weirgate.yaml"
        self.access = AccessLog(directory / "access.log")

    @property
    def pid(self) -> int:
        return self.process.pid

    def port(self, listener: str = "web") -> int:
        return self.config.port(listener)

    def edges(self) -> list[int]:
        return children(self.pid, EDGE)

    def gateways(self) -> list[int]:
        return children(self.pid, GATEWAY)

    def log(self) -> str:
        """Return everything that the processes wrote to stdout and stderr."""
        return (self.directory / "weirgate.log").read_text()

    async def ready(self) -> bool:
        """Say whether the node reports that traffic flows."""
        with contextlib.suppress(httpx.TransportError):
            return (await self.admin.get("/health")).status_code == 200
        return False

    async def status(self) -> dict[str, Any]:
        answer = await self.admin.get("/status")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def replaced(self, name: str, pid: int, *, within_s: float = 10.0) -> float:
        """Wait until an ended process has a ready successor; return how long that took."""
        began = time.monotonic()

        async def ready() -> bool:
            processes = {p["name"]: p for p in (await self.status())["processes"]}
            return processes[name]["pid"] not in {None, pid} and processes[name]["state"] == "ready"

        await eventually(ready, within_s=within_s, what=f"a successor of {name}")
        return time.monotonic() - began

    async def endpoint(self, port: int) -> dict[str, Any]:
        """Return what the node says of the endpoint with this port."""
        pools = (await self.status())["pools"]
        found = [e for pool in pools for e in pool["endpoints"]]
        return next(e for e in found if e["address"].endswith(f":{port}"))

    async def metric(self, name: str, **labels: str) -> float:
        """Return the sum of the samples that carry at least these labels."""
        text = (await self.admin.get("/metrics")).text
        return sum(
            value
            for found, carried, value in samples(text)
            if found == name and labels.items() <= carried.items()
        )

    async def counted(self, reason: str, *, within_s: float = 10.0) -> float:
        """Wait until some metric counts this reason; refusals are counted, not logged."""

        async def count() -> float:
            text = (await self.admin.get("/metrics")).text
            return sum(
                value for _, labels, value in samples(text) if labels.get("reason") == reason
            )

        return await eventually(count, within_s=within_s, what=f"a count of {reason}")

    async def reload(self, config: Configuration | bytes | None = None) -> httpx.Response:
        """Write the file (where one is given) and ask for a reload."""
        if isinstance(config, Configuration):
            self.config = _completed(config, self.directory)
            self.config.write(self.file)
        elif config is not None:
            self.file.write_bytes(config)
        return await self.admin.post("/reload", timeout=30)

    async def stop(self, how: signal.Signals = signal.SIGTERM) -> str:
        """Stop it as an operator does; return the logs.

        Raises:
            AssertionError: The exit code was not 0.
        """
        code = await end(self.process, how, within_s=STOP_DEADLINE_S)
        log = self.log()
        assert code == 0, f"exit code {code}\n{log[-4000:]}"
        return log


@contextlib.asynccontextmanager
async def running(
    config: Configuration,
    *,
    env: Mapping[str, str] | None = None,
    directory: Path | None = None,
    stdout: int | None = None,
    verb: str = "up",
) -> AsyncIterator[Running]:
    """Start Weirgate, wait until it serves, and at the end stop it cleanly."""
    with contextlib.ExitStack() as stack:
        if directory is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="weirgate-")))
        file = directory / "weirgate.yaml"
        _completed(config, directory).write(file)
        process = await start(verb, file, directory=directory, env=env, stdout=stdout)
        try:
            async with httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{config.admin_port}", trust_env=False, timeout=10
            ) as admin:
                instance = Running(config, directory, process, admin)
                await _serving(instance)
                yield instance
                if process.returncode is None:
                    await instance.stop()
        except BaseException as error:
            error.add_note((directory / "weirgate.log").read_text()[-6000:])
            raise
        finally:
            if process.returncode is None:  # something failed: that, not a slow end, is the news
                with contextlib.suppress(TimeoutError):
                    await end(process, signal.SIGTERM, within_s=2)


async def start(
    *arguments: str | Path,
    directory: Path,
    env: Mapping[str, str] | None = None,
    stdout: int | None = None,
) -> asyncio.subprocess.Process:
    """Start the command line with its output in ``weirgate.log`` of a directory.

    ``stdout`` is a descriptor that its standard output goes to instead.
    """
    with (directory / "weirgate.log").open("ab") as output:
        return await asyncio.create_subprocess_exec(
            *COMMAND,
            *map(str, arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output if stdout is None else stdout,
            stderr=output,
            env={**os.environ, **(env or {})},
        )


SAMPLE = re.compile(r"^([a-z_:][a-z0-9_:]*)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')


def samples(text: str) -> list[tuple[str, dict[str, str], float]]:
    """Parse Prometheus text."""
    return [
        (match[1], dict(LABEL.findall(match[2] or "")), float(match[3]))
        for match in SAMPLE.finditer(text)
    ]


def _completed(config: Configuration, directory: Path) -> Configuration:
    """Log to a file of this run and drain in seconds, unless the test says otherwise."""
    config.data.setdefault("drain", {"timeout": "5s"})
    access = config.data.setdefault("logs", {}).setdefault("access", {})
    access.setdefault("to", str(directory / "access.log"))
    return config


async def _serving(instance: Running) -> None:
    async def seen() -> bool:
        assert instance.process.returncode is None, "ended before it served"
        return await instance.ready()

    await eventually(seen, within_s=START_DEADLINE_S, what="GET /health = 200")
