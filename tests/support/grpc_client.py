"""Calls of the application in ``grpc_app`` by grpcio's client, and what came of them."""

import json
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import pytest

from tests.support.grpc_app import LIMIT_BYTES, method

Metadata = tuple[tuple[str, str | bytes], ...]
DEADLINE_S = 20.0


@dataclass(frozen=True)
class Done:
    """A call that was answered."""

    message: bytes
    code: grpc.StatusCode
    initial: dict[str, str | bytes]
    trailing: dict[str, str | bytes]


@dataclass(frozen=True)
class Failure:
    """A call that failed."""

    code: grpc.StatusCode
    text: str
    metadata: dict[str, str | bytes]

    def one(self, name: str) -> str:
        """Return metadata, wherever it came: a trailers-only answer has but one place."""
        return str(self.metadata.get(name, ""))


def channel(
    port: int, *, authority: str = "weirgate.test", trusted: bytes | None = None
) -> grpc.aio.Channel:
    """Connect to a port of this machine, by TLS where an authority is given to trust.

    The channel has a connection of its own: by default grpcio shares them between equal channels.
    """
    options: list[tuple[str, Any]] = [
        ("grpc.default_authority", authority),
        ("grpc.enable_http_proxy", 0),
        ("grpc.enable_retries", 0),
        ("grpc.max_receive_message_length", LIMIT_BYTES),
        ("grpc.max_send_message_length", LIMIT_BYTES),
        ("grpc.max_metadata_size", 1 << 20),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    address = f"127.0.0.1:{port}"
    if trusted is None:
        return grpc.aio.insecure_channel(address, options)
    options.append(("grpc.ssl_target_name_override", authority))
    return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(trusted), options)


async def called(
    to: grpc.aio.Channel, name: str, message: bytes, *, metadata: Metadata = ()
) -> Done:
    """Make a unary call that succeeds."""
    call = rpc(to, name)(message, metadata=metadata, timeout=DEADLINE_S)
    answer = await call
    return Done(
        answer,
        await call.code(),
        dict(await call.initial_metadata()),
        dict(await call.trailing_metadata()),
    )


async def failure(
    to: grpc.aio.Channel,
    name: str,
    message: bytes,
    *,
    metadata: Metadata = (),
    timeout: float = DEADLINE_S,  # noqa: ASYNC109 - gRPC's own, sent to the server
) -> Failure:
    """Make a unary call that fails."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rpc(to, name)(message, metadata=metadata, timeout=timeout)
    error = caught.value
    initial, trailing = error.initial_metadata(), error.trailing_metadata()
    found = {**dict(initial or ()), **dict(trailing or ())}
    return Failure(error.code(), error.details() or "", found)


async def recorded(port: int, key: str) -> list[Any]:
    """Ask the application itself what it has recorded."""
    async with channel(port) as to:
        return list(json.loads((await called(to, "Recorded", key.encode())).message))


def rpc(to: grpc.aio.Channel, name: str) -> Any:
    """Return what calls a method, of the method's kind: bytes in, bytes out."""
    kinds: dict[str, Any] = {
        "ServerStream": to.unary_stream,
        "Fail": to.unary_stream,
        "ClientStream": to.stream_unary,
        "Bidi": to.stream_stream,
    }
    return kinds.get(name, to.unary_unary)(method(name))
