"""Users of the layer 4 applications: lines over TCP, datagrams over UDP."""

import secrets
import socket
from typing import Any

from locust import User, task

from loadtests.users.pace import PLAN, Told, measured, pause

WITHIN_S = 5.0
#: A datagram without an answer after so long is lost; a load test has no slow path to wait for.
LOST_AFTER_S = 1.0
LINES_PER_CONNECTION = 30


class TcpEcho(User):
    """Keeps a connection for some lines, then takes a new one."""

    weight = 2
    wait_time = pause(0.1, 0.5)

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.socket: socket.socket | None = None
        self.lines: Any = None
        self.left = 0
        self.broken = False

    @task
    def line(self) -> None:
        """One line there and back."""
        if self.left == 0:
            self.on_stop()
            self._connect()
        if self.socket is None:
            return
        self.left -= 1
        text = secrets.token_hex(16).encode() + b"\n"
        with measured(self, "line"):
            self.socket.sendall(text)
            answer = self.lines.readline(4096)
            if not answer:
                raise Told("connection closed")
            if not answer.endswith(b": " + text):
                raise Told("another line came back")
        if self.broken:
            self.on_stop()

    def on_stop(self) -> None:
        """Close the connection."""
        if self.socket is not None:
            self.lines.close()
            self.socket.close()
        self.socket, self.left = None, 0

    def _connect(self) -> None:
        with measured(self, "connect", kind="tcp"):
            self.socket = socket.create_connection((PLAN.target.host, PLAN.target.tcp), WITHIN_S)
            self.lines = self.socket.makefile("rb")
            self.left = LINES_PER_CONNECTION


class UdpEcho(User):
    """Sends datagrams from one port, so that they are one session, and counts what is lost."""

    weight = 2
    wait_time = pause(0.1, 0.5)

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        family = socket.getaddrinfo(PLAN.target.host, PLAN.target.udp, type=socket.SOCK_DGRAM)[0]
        self.socket = socket.socket(family[0], socket.SOCK_DGRAM)
        self.socket.connect(family[4])
        self.socket.settimeout(LOST_AFTER_S)
        self.broken = False

    @task
    def datagram(self) -> None:
        """One datagram there and back."""
        text = secrets.token_hex(16).encode()
        with measured(self, "datagram", kind="udp"):
            self.socket.send(text)
            try:
                while not self.socket.recv(4096).endswith(b": " + text):
                    pass  # the answer to one that was given up as lost
            except TimeoutError:
                raise Told("lost") from None

    def on_stop(self) -> None:
        """Give the port back."""
        self.socket.close()
