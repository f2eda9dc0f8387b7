"""A gRPC application without generated code: bytes in and out, and every kind of call.

It runs as a process of its own, ``python -m tests.support.grpc_app PORT [CERT KEY]``; what a test
wants to know of it afterwards it asks by ``Recorded``. Metadata of a call changes what it does:

- ``x-echo-…`` comes back as initial metadata, and as trailing metadata by the name ``x-trail-…``.
- ``x-gate: NAME``: ``ClientStream`` reads one message, then none until ``Open`` opens the gate.
- ``x-key: NAME``: ``Hang`` records under this name what happens to it.
"""

import asyncio
import json
import signal
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import grpc.aio

SERVICE = "weirgate.test.App"
HEALTH = "grpc.health.v1.Health"
#: What unary calls and streams may carry at most; the default of 4 MiB is for smaller tests.
LIMIT_BYTES = 64 << 20
Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
Metadata = tuple[tuple[str, str | bytes], ...]


class App:
    """The methods, by their names in the service."""

    def __init__(self) -> None:
        self.records: defaultdict[str, list[Any]] = defaultdict(list)
        self.gates: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.health: dict[bytes, int] = {b"": 1}

    async def unary(self, request: bytes, context: Context) -> bytes:
        """Answer with the request."""
        await _echo_metadata(context)
        return request

    async def server_stream(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        """Send ``count`` messages of ``size`` bytes, each but the first behind a ``gate``."""
        await _echo_metadata(context)
        wanted = json.loads(request)
        for number in range(wanted["count"]):
            if number and "gate" in wanted:
                await self.gates[wanted["gate"]].wait()
            yield (b"%d " % number).ljust(wanted["size"], b"x")

    async def client_stream(self, requests: AsyncIterator[bytes], context: Context) -> bytes:
        """Answer with the number of messages and the sum of their sizes."""
        await _echo_metadata(context)
        gate = _one(context, "x-gate")
        count = size = 0
        async for message in requests:
            count, size = count + 1, size + len(message)
            if gate and count == 1:
                self.records[gate].append("waiting")
                await self.gates[gate].wait()
        return json.dumps({"count": count, "bytes": size}).encode()

    async def bidi(self, requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        """Send each message back as it comes."""
        await _echo_metadata(context)
        async for message in requests:
            yield message

    async def hang(self, _: bytes, context: Context) -> bytes:
        """Wait until it is cancelled, whatever the deadline says, and record all of that."""
        record = self.records[_one(context, "x-key")]
        left = context.time_remaining()
        record.append({"begun": True, "time_left": left})
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            record.append({"cancelled": True})
        return b""

    async def fail(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        """Send ``messages`` messages, then fail with ``code``, ``text`` and ``trailing``."""
        wanted = json.loads(request)
        for number in range(wanted.get("messages", 0)):
            yield b"%d" % number
        code = next(code for code in grpc.StatusCode if code.value[0] == wanted["code"])
        trailing = tuple((str(k), str(v)) for k, v in wanted.get("trailing", {}).items())
        await context.abort(code, wanted.get("text", ""), trailing)

    async def metadata(self, request: bytes, context: Context) -> bytes:
        """Answer with the metadata that came; send ``size`` bytes of it back in the trailer."""
        size = json.loads(request or b"{}").get("size", 0)
        context.set_trailing_metadata((("x-big", "y" * size),))
        pairs = [[k, v if isinstance(v, str) else v.hex()] for k, v in _metadata(context)]
        return json.dumps({"metadata": pairs, "peer": context.peer()}).encode()

    async def recorded(self, request: bytes, _: Context) -> bytes:
        """Answer with what was recorded under a name."""
        return json.dumps(self.records[request.decode()]).encode()

    async def open(self, request: bytes, _: Context) -> bytes:
        """Open a gate."""
        self.gates[request.decode()].set()
        return b""

    async def set_health(self, request: bytes, _: Context) -> bytes:
        """Let the health service answer with ``state`` to the question that is ``service``."""
        wanted = json.loads(request)
        name = wanted["service"].encode()
        self.health[b"\x0a" + bytes([len(name)]) + name if name else b""] = wanted["state"]
        return b""

    async def check(self, request: bytes, context: Context) -> bytes:
        """``grpc.health.v1.Health/Check``."""
        if request not in self.health:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        return bytes([8, self.health[request]])

    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        """Return what the server calls."""
        unary = grpc.unary_unary_rpc_method_handler
        methods: dict[str, Any] = {
            "Unary": unary(_typed(self.unary)),
            "ServerStream": grpc.unary_stream_rpc_method_handler(_typed(self.server_stream)),
            "ClientStream": grpc.stream_unary_rpc_method_handler(_typed(self.client_stream)),
            "Bidi": grpc.stream_stream_rpc_method_handler(_typed(self.bidi)),
            "Hang": unary(_typed(self.hang)),
            "Fail": grpc.unary_stream_rpc_method_handler(_typed(self.fail)),
            "Metadata": unary(_typed(self.metadata)),
            "Recorded": unary(_typed(self.recorded)),
            "Open": unary(_typed(self.open)),
            "SetHealth": unary(_typed(self.set_health)),
        }
        health: dict[str, Any] = {"Check": unary(_typed(self.check))}
        return (
            grpc.method_handlers_generic_handler(SERVICE, methods),
            grpc.method_handlers_generic_handler(HEALTH, health),
        )


def _typed(behaviour: Callable[..., Any]) -> Any:
    """Hide a coroutine from types that know of the synchronous server only."""
    return behaviour


def _metadata(context: Context) -> Metadata:
    return tuple(context.invocation_metadata() or ())


def _one(context: Context, name: str) -> str:
    return next((str(v) for k, v in _metadata(context) if k == name), "")


async def _echo_metadata(context: Context) -> None:
    asked = [(k, v) for k, v in _metadata(context) if k.startswith("x-echo-")]
    await context.send_initial_metadata((("x-app", "grpcio"), *asked))
    context.set_trailing_metadata(
        (("x-done", "1"), *((k.replace("x-echo-", "x-trail-"), v) for k, v in asked))
    )


async def serve(port: int, *files: str) -> None:
    """Serve until SIGTERM: then say good-bye (GOAWAY) and let calls end within two seconds."""
    server = grpc.aio.server(
        options=(
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", LIMIT_BYTES),
            ("grpc.max_send_message_length", LIMIT_BYTES),
            ("grpc.max_concurrent_streams", 10_000),
            ("grpc.max_metadata_size", 1 << 20),
            ("grpc.absolute_max_metadata_size", 1 << 20),
        )
    )
    server.add_generic_rpc_handlers(App().handlers())
    address = f"127.0.0.1:{port}"
    if files:
        server.add_secure_port(address, _credentials(*files))
    else:
        server.add_insecure_port(address)
    await server.start()
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    await server.stop(2)


def _credentials(chain: str, key: str) -> grpc.ServerCredentials:
    return grpc.ssl_server_credentials([(Path(key).read_bytes(), Path(chain).read_bytes())])


def method(name: str) -> str:
    """Return the path of a method."""
    return f"/{SERVICE}/{name}"


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), *sys.argv[2:]))
