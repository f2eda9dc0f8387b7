"""A gRPC echo without generated code: messages are bytes, the service is ``weirgate.demo.Echo``.

``Say`` answers a call with its message, ``Talk`` each message of a stream as it comes, and the
initial metadata ``x-instance`` says who answered. ``grpc.health.v1.Health`` has ``Check`` and
``Watch``.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import grpc
import grpc.aio
from common import (
    FINISH_SECONDS,
    GRACE_SECONDS,
    HOST,
    INSTANCE,
    PORT,
    STOPPING,
    address,
    told_to_end,
)

SERVICE = "weirgate.demo.Echo"
HEALTH = "grpc.health.v1.Health"
SERVING, NOT_SERVING, SERVICE_UNKNOWN = b"\x08\x01", b"\x08\x02", b"\x08\x03"
#: HealthCheckRequest without a name (the whole server), and with the service's.
KNOWN = {b"", b"\x0a" + bytes([len(SERVICE)]) + SERVICE.encode()}
Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"


async def _say(request: bytes, context: Context) -> bytes:
    await context.send_initial_metadata((("x-instance", INSTANCE),))
    return request


async def _talk(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
    await context.send_initial_metadata((("x-instance", INSTANCE),))
    async for message in requests:
        yield message


async def _check(request: bytes, context: Context) -> bytes:
    if request not in KNOWN:
        await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
    return NOT_SERVING if STOPPING.is_set() else SERVING


async def _watch(request: bytes, _: Context) -> AsyncIterator[bytes]:
    if request not in KNOWN:
        yield SERVICE_UNKNOWN
        await STOPPING.wait()
        return
    yield NOT_SERVING if STOPPING.is_set() else SERVING
    await STOPPING.wait()
    yield NOT_SERVING


def _handlers() -> tuple[grpc.GenericRpcHandler, ...]:
    unary: Any = grpc.unary_unary_rpc_method_handler
    stream: Any = grpc.unary_stream_rpc_method_handler
    both: Any = grpc.stream_stream_rpc_method_handler
    return (
        grpc.method_handlers_generic_handler(SERVICE, {"Say": unary(_say), "Talk": both(_talk)}),
        grpc.method_handlers_generic_handler(
            HEALTH, {"Check": unary(_check), "Watch": stream(_watch)}
        ),
    )


async def serve() -> None:
    """Serve until SIGTERM."""
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    server.add_generic_rpc_handlers(_handlers())
    if not server.add_insecure_port(f"{address(HOST, PORT)}"):
        raise OSError(f"cannot listen on {address(HOST, PORT)}")
    await server.start()
    await told_to_end()
    await asyncio.sleep(GRACE_SECONDS)
    await server.stop(FINISH_SECONDS)


if __name__ == "__main__":
    asyncio.run(serve())
