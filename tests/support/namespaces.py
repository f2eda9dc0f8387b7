"""Hosts of a test: network namespaces on a bridge of their own, made and removed by the test.

Nothing of this host's own network is touched: the bridge is in a namespace, too.
"""

import asyncio
import contextlib
import ctypes
import os
import shutil
import subprocess
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

_CLONE_NEWNET = 0x40000000
_NETWORK = "10.77.0"


def _ip(*arguments: str) -> None:
    program = shutil.which("ip", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    assert program is not None
    subprocess.run([program, *arguments], check=True, capture_output=True, timeout=30)


class Hosts:
    """Hosts by name; the n-th has the address 10.77.0.n, if no other is given."""

    def __init__(self, *names: str, **addresses: str) -> None:
        self._prefix = f"wg{os.getpid()}-{threading.get_native_id() % 10_000}-"
        self.addresses = {name: f"{_NETWORK}.{n}" for n, name in enumerate(names, start=1)}
        self.addresses |= addresses

    def namespace(self, name: str) -> str:
        return self._prefix + name

    def make(self) -> None:
        """Make the namespaces, the bridge, and a cable from each host to it."""
        hub = self.namespace("hub")
        _ip("netns", "add", hub)
        _ip("-n", hub, "link", "add", "bridge", "type", "bridge")
        _ip("-n", hub, "link", "set", "bridge", "up")
        for name, address in self.addresses.items():
            own = self.namespace(name)
            _ip("netns", "add", own)
            _ip("-n", own, "link", "set", "lo", "up")
            _ip("link", "add", "eth0", "netns", own, "type", "veth", "peer", name, "netns", hub)
            _ip("-n", hub, "link", "set", name, "master", "bridge", "up")
            _ip("-n", own, "address", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", own, "link", "set", "eth0", "up")

    def remove(self) -> None:
        for name in ("hub", *self.addresses):
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip("netns", "del", self.namespace(name))

    def cut(self, name: str) -> None:
        """Pull the cable: packets are lost, and nobody is told."""
        _ip("-n", self.namespace("hub"), "link", "set", name, "down")

    def mend(self, name: str) -> None:
        _ip("-n", self.namespace("hub"), "link", "set", name, "up")

    def on(self, name: str, *command: str | Path) -> tuple[str, ...]:
        """Return the command that runs a command on a host; it keeps its process id."""
        return ("ip", "netns", "exec", self.namespace(name), *map(str, command))

    def run_on(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Run a coroutine on a host: in a thread of its own, whose sockets are that host's."""
        failure: list[BaseException] = []

        def inside() -> None:
            try:
                _enter(self.namespace(name))
                asyncio.run(_awaited(work))
            except BaseException as error:  # noqa: BLE001 - raised again below
                failure.append(error)

        thread = threading.Thread(target=inside, name=f"on {name}")
        thread.start()
        thread.join()
        if failure:
            raise failure[0]


async def _awaited(work: Callable[[], Awaitable[None]]) -> None:
    await work()


def _enter(namespace: str) -> None:
    """Move the calling thread, and what it starts, into a namespace."""
    descriptor = os.open(f"/run/netns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def hosts(*names: str, **addresses: str) -> Iterator[Hosts]:
    """Make hosts, or skip the test where that is not permitted."""
    made = Hosts(*names, **addresses)
    try:
        made.make()
    except (AssertionError, OSError, subprocess.SubprocessError) as error:
        made.remove() if shutil.which("ip") else None
        said = getattr(error, "stderr", None) or str(error).encode()
        pytest.skip(f"no network namespaces here: {said.decode(errors='replace').strip()}")
    try:
        yield made
    finally:
        made.remove()
