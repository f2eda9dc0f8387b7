"""One check of one endpoint: connect, and for HTTP ask and judge the answer."""

import asyncio
import ssl
from collections.abc import Callable, Sequence
from typing import TypeVar, cast

from weirgate.shared.addresses import split_address
from weirgate.shared.health.check import Check, Target, Tls
from weirgate.shared.health.exhaustion import ExhaustedError, is_ours
from weirgate.shared.health.introduction import introduction
from weirgate.shared.health.node import probe_node
from weirgate.shared.health.response import BadResponseError, ResponseReader
from weirgate.shared.health.result import Result
from weirgate.shared.health.tls import check_pins, context_of

_ProtocolT = TypeVar("_ProtocolT", bound=asyncio.Protocol)


async def probe(target: Target, addresses: Sequence[str]) -> Result:
    """Check an endpoint at its addresses in order; the first that passes decides.

    All addresses share the one timeout.

    Raises:
        ExhaustedError: This host could not make the check.
    """
    if target.check.kind == "gateway":
        return await probe_node(target, addresses)
    last = Result("the endpoint has no address")
    try:
        async with asyncio.timeout(target.check.timeout):
            for address in addresses:
                last = await _probe_address(target, address)
                if last.passed:
                    break
    except TimeoutError:
        return Result(f"no answer within {target.check.timeout:g} s")
    return last


async def _probe_address(target: Target, address: str) -> Result:
    try:
        if target.check.kind == "http":
            return await _ask(target, address)
        version, tls = target.check.proxy_protocol, target.check.tls
        transport, _ = await _connect(lambda: _Knock(version), target, address)
        try:
            check_pins(tls, transport)
        finally:
            _close(transport, tls)
    except (OSError, ssl.CertificateError) as error:
        if is_ours(error):
            raise ExhaustedError(_reason(error)) from error
        return Result(_reason(error))
    except BadResponseError as error:
        return Result(str(error))
    return Result()


async def _ask(target: Target, address: str) -> Result:
    check = target.check
    done = asyncio.get_running_loop().create_future()
    reader = ResponseReader(want_body=check.expect_body is not None, no_body=check.method == "HEAD")
    transport, _ = await _connect(
        lambda: _Exchange(
            _request(target.address, check),
            reader,
            done,
            version=check.proxy_protocol,
            tls=check.tls,
        ),
        target,
        address,
    )
    try:
        await done
    finally:
        _close(transport, check.tls)
    return _judge(check, reader)


class _Knock(asyncio.Protocol):
    """Says nothing, but for the PROXY header that an endpoint waits for."""

    def __init__(self, version: str) -> None:
        self._version = version

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # a cast, because uvloop's transports are not instances of asyncio's classes
        cast("asyncio.WriteTransport", transport).write(introduction(self._version, transport))


class _Exchange(asyncio.Protocol):
    """Sends the request at once and feeds the reader; a stream pair would cost twice the CPU."""

    def __init__(
        self,
        request: bytes,
        reader: ResponseReader,
        done: "asyncio.Future[None]",
        *,
        version: str,
        tls: Tls | None,
    ) -> None:
        self._version = version
        self._tls = tls
        self._request = request
        self._reader = reader
        self._done = done

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        try:
            check_pins(self._tls, transport)
        except BadResponseError as error:  # whoever this is, it is told nothing
            self._done.set_exception(error)
            return
        data = introduction(self._version, transport) + self._request
        cast("asyncio.WriteTransport", transport).write(data)

    def data_received(self, data: bytes) -> None:
        self._step(lambda: self._reader.feed(data))

    def eof_received(self) -> None:
        self._step(self._reader.end)

    def connection_lost(self, error: Exception | None) -> None:
        if error is None:
            self._step(self._reader.end)
        elif not self._done.done():
            self._done.set_exception(error)

    def _step(self, step: Callable[[], None]) -> None:
        if self._done.done():
            return
        try:
            step()
        except BadResponseError as error:
            self._done.set_exception(error)
        else:
            if self._reader.done:
                self._done.set_result(None)


async def _connect(
    factory: Callable[[], _ProtocolT], target: Target, address: str
) -> tuple[asyncio.Transport, _ProtocolT]:
    loop = asyncio.get_running_loop()
    tls = target.check.tls
    context = context_of(tls) if tls else None
    name = (tls.server_name or split_address(target.address)[0]) if tls else None
    host, port = split_address(address)
    return await loop.create_connection(
        factory, host, target.check.port or port, ssl=context, server_hostname=name
    )


def _close(transport: asyncio.Transport, tls: Tls | None) -> None:
    # A TLS close waits for the peer's close_notify, for up to half a minute: not worth a socket.
    if tls:
        transport.abort()
    else:
        transport.close()


def _request(address: str, check: Check) -> bytes:
    host = check.host or address
    lines = [f"{check.method} {check.path} HTTP/1.1", f"Host: {host}"]
    if not any(name.lower() == "user-agent" for name, _ in check.headers):
        lines.append("User-Agent: weirgate-health")
    lines += [f"{name}: {value}" for name, value in check.headers if name.lower() != "host"]
    lines += ["Connection: close", "", ""]
    return "\r\n".join(lines).encode("latin-1", "replace")


def _judge(check: Check, reader: ResponseReader) -> Result:
    if not any(low <= reader.status <= high for low, high in check.expect_status):
        return Result(f"status {reader.status}")
    for name, wanted in check.expect_headers:
        got = reader.headers.get(name.lower())
        if got != wanted:
            return Result(f"header {name} is {got!r}, wanted {wanted!r}")
    if check.expect_body is not None and check.expect_body not in reader.body:
        return Result(f"the body does not contain {check.expect_body.decode()!r}")
    return Result()


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate: {error.verify_message}"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, ConnectionResetError):
        return "connection reset"
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
