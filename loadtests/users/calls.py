"""A user of gRPC: single calls, and conversations on one stream."""

import queue
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import grpc.experimental.gevent
from locust import User, task

from loadtests.users.pace import PLAN, Told, measured, pause

grpc.experimental.gevent.init_gevent()

SERVICE = "/weirgate.demo.Echo/"
WITHIN_S = 10.0
MESSAGES = 5


class Grpc(User):
    """One channel, in cleartext: grpcio cannot be told to trust any certificate."""

    weight = 2
    wait_time = pause(0.2, 0.8)

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        target = PLAN.target
        host = f"[{target.host}]" if ":" in target.host else target.host
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
        # Without these grpcio would send a failed call again, and nobody would know.
        options += [("grpc.enable_retries", 0)]
        self.channel = grpc.insecure_channel(f"{host}:{target.http}", options)
        self.say: Any = self.channel.unary_unary(SERVICE + "Say")
        self.talk: Any = self.channel.stream_stream(SERVICE + "Talk")
        self.broken = False

    def on_stop(self) -> None:
        """Close the connection."""
        self.channel.close()

    @task(4)
    def call(self) -> None:
        """One call."""
        message = secrets.token_bytes(100)
        with measured(self, "Say", kind="http"), _statuses():
            if self.say(message, timeout=WITHIN_S) != message:
                raise Told("another message came back")

    @task(1)
    def converse(self) -> None:
        """A stream: each message is sent when the one before has come back."""
        sent: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        answers = self.talk(iter(sent.get, None), timeout=WITHIN_S)
        for number in range(MESSAGES):
            message = b"%d " % number + secrets.token_bytes(50)
            first = number == 0
            with measured(self, "Talk opened" if first else "Talk", kind="http" if first else ""):
                sent.put(message)
                with _statuses():
                    if next(answers) != message:
                        raise Told("another message came back")
            if self.broken:
                break
        sent.put(None)
        answers.cancel() if self.broken else list(answers)


@contextmanager
def _statuses() -> Iterator[None]:
    """Turn gRPC's errors into their statuses, without the addresses in their texts."""
    try:
        yield
    except grpc.RpcError as error:
        call: Any = error
        raise Told(f"gRPC {call.code().name}") from error
