"""The service manager's notify protocol (sd_notify), without its library."""

import asyncio
import os
import socket
import struct
import time
from collections.abc import Mapping

#: A manager that has that much else to do keeps no sockets.
_STORE_SECONDS = 1.0


class Notifier:
    """Sends states to the socket that the service manager named; without one, nothing happens."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        address = environ.get("NOTIFY_SOCKET", "")
        # "@" stands for the NUL of an abstract socket
        self._address = "\0" + address[1:] if address.startswith("@") else address
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

    def stopping(self, within_seconds: float) -> None:
        """The end has begun; the manager must not lose patience before it has to be over."""
        self._send("STOPPING=1", f"EXTEND_TIMEOUT_USEC={within_seconds * 1e6:.0f}")

    @property
    def present(self) -> bool:
        """Whether there is a service manager that listens."""
        return bool(self._address)

    def store(self, name: str, kept: socket.socket) -> bool:
        """Have the manager keep a copy of a socket under a name; say whether it has been told."""
        # FDPOLL=0: it need not wake up for each connection to find out whether the socket lives
        text = f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0".encode()
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", kept.fileno()))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.settimeout(_STORE_SECONDS)
            try:
                manager.sendmsg([text], [rights], 0, self._address)
            except OSError:
                return False
        return True

    def forget(self, name: str) -> None:
        """Have the manager close what it keeps under a name."""
        self._send("FDSTOREREMOVE=1", f"FDNAME={name}")

    async def keep_watchdog(self) -> None:
        """Prove twice a period that the loop still turns."""
        while self.watchdog_seconds:
            self._send("WATCHDOG=1")
            await asyncio.sleep(self.watchdog_seconds)

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as manager:
            try:
                manager.sendto("\n".join(lines).encode(), self._address)
            except OSError:
                return  # a manager that does not listen must not stop the node
