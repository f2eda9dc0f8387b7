"""One check of one endpoint, whatever its kind."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Sequence

from weirgate.shared.health import grpc, http, tcp
from weirgate.shared.health.check import Target
from weirgate.shared.health.exhaustion import ExhaustedError, is_ours
from weirgate.shared.health.node import probe_node
from weirgate.shared.health.response import BadResponseError
from weirgate.shared.health.result import Result

#: How one address is checked, by the check's kind.
_KINDS: dict[str, Callable[[Target, str], Awaitable[Result]]] = {
    "grpc": grpc.call,
    "http": http.ask,
    "tcp": tcp.knock,
}


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
        return await _KINDS[target.check.kind](target, address)
    except (OSError, ssl.CertificateError) as error:
        if is_ours(error, address):
            raise ExhaustedError(_reason(error)) from error
        return Result(_reason(error))
    except BadResponseError as error:
        return Result(str(error))


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate: {error.verify_message}"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, ConnectionResetError):
        return "connection reset"
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
