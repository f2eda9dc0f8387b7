"""The service manager's notify protocol (sd_notify), without its library."""

import asyncio
import os
import socket
import time
from collections.abc import Mapping


class Notifier:
    """Sends states to the socket that the service manager named; without one, nothing happens."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        self._address = environ.get("NOTIFY_SOCKET", "")
        watchdog = environ.get("WATCHDOG_USEC", "")
        mine = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        # half the period, as sd_watchdog_enabled(3) recommends
        self.watchdog_seconds = int(watchdog) / 2e6 if mine and watchdog.isdigit() else 0.0

    def ready(self, status: str) -> None:
        """Traffic flows."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self) -> None:
        """A reload has begun; ``ready`` ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The end has begun."""
        self._send("STOPPING=1")

    async def keep_watchdog(self) -> None:
        """Prove twice a period that the loop still turns."""
        while self.watchdog_seconds:
            self._send("WATCHDOG=1")
            await asyncio.sleep(self.watchdog_seconds)

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        address = self._address
        if address.startswith("@"):  # an abstract socket
            address = "\0" + address[1:]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as manager:
            try:
                manager.sendto("\n".join(lines).encode(), address)
            except OSError:
                return  # a manager that does not listen must not stop the node
