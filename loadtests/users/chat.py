"""A user in a chat room: says something and waits until it comes back to the whole room."""

import secrets
from typing import Any

import websocket
from locust import User, task

from loadtests.users.pace import PLAN, Told, measured, pause

ROOMS = 10
WITHIN_S = 5.0


class Chat(User):
    """One WebSocket, kept as long as it lasts; the time is that of a message there and back."""

    weight = 2
    wait_time = pause(0.3, 1.0)

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.socket: Any = None
        self.broken = False

    @task
    def say(self) -> None:
        """One message."""
        if self.socket is None and not self._enter():
            return
        text = secrets.token_hex(8)
        with measured(self, "message"):
            self.socket.send(text)
            while (said := self.socket.recv()) != text:
                if not said:
                    raise Told("the chat closed the connection")
        if self.broken:
            self.on_stop()

    def on_stop(self) -> None:
        """Leave the room."""
        if self.socket is not None:
            self.socket.close(timeout=1)
            self.socket = None

    def _enter(self) -> bool:
        target = PLAN.target
        host = f"[{target.host}]" if ":" in target.host else target.host
        base = f"ws://{host}:{target.http}" if target.http else f"wss://{host}:{target.tls}"
        url = f"{base}/chat/rooms/room-{secrets.randbelow(ROOMS)}"
        with measured(self, "enter", kind="http"):
            self.socket = websocket.create_connection(
                url, timeout=WITHIN_S, sslopt={"cert_reqs": 0, "check_hostname": False}
            )
        return not self.broken
