"""The check by HTTP: ask for a path and judge the answer."""

from weirgate.shared.health.check import Check, Target
from weirgate.shared.health.exchange import exchange
from weirgate.shared.health.response import ResponseReader
from weirgate.shared.health.result import Result


async def ask(target: Target, address: str) -> Result:
    """Ask an address of the target once."""
    check = target.check
    reader = ResponseReader(want_body=check.expect_body is not None, no_body=check.method == "HEAD")
    await exchange(target, address, _request(target.address, check), reader)
    return _judge(check, reader)


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
