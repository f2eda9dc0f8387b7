"""The check by HTTP: ask for a path and judge the answer, in the version that the pool speaks."""

from weirgate.shared.health.check import HTTP2, Check, Target
from weirgate.shared.health.exchange import exchange
from weirgate.shared.health.http2 import Http2Exchange, own_headers, request_head
from weirgate.shared.health.response import ResponseReader
from weirgate.shared.health.result import Result


async def ask(target: Target, address: str) -> Result:
    """Ask an address of the target once."""
    answer = await exchange(target, address, lambda alpn: _begin(target, alpn))
    return _judge(target.check, answer)


class Http1Exchange(ResponseReader):
    """A request by HTTP/1.1 and its answer."""

    def __init__(self, target: Target) -> None:
        check = target.check
        want_body = check.expect_body is not None
        super().__init__(want_body=want_body, no_body=check.method == "HEAD")
        self.request = _request(target.address, check)


def _begin(target: Target, alpn: str | None) -> Http1Exchange | Http2Exchange:
    """Speak what the pool speaks; where the endpoint chooses, what it chose."""
    check = target.check
    if alpn != HTTP2 and check.protocol != "h2c":
        return Http1Exchange(target)
    fields = request_head(check, check.method, check.path, target.address)
    fields += own_headers(check.headers)
    return Http2Exchange(fields, head_only=check.expect_body is None)


def _request(address: str, check: Check) -> bytes:
    host = check.host or address
    lines = [f"{check.method} {check.path} HTTP/1.1", f"Host: {host}"]
    if not any(name.lower() == "user-agent" for name, _ in check.headers):
        lines.append("User-Agent: weirgate-health")
    lines += [f"{name}: {value}" for name, value in check.headers if name.lower() != "host"]
    lines += ["Connection: close", "", ""]
    return "\r\n".join(lines).encode("latin-1", "replace")


def _judge(check: Check, answer: Http1Exchange | Http2Exchange) -> Result:
    if not any(low <= answer.status <= high for low, high in check.expect_status):
        return Result(f"status {answer.status}")
    for name, wanted in check.expect_headers:
        got = answer.headers.get(name.lower())
        if got != wanted:
            return Result(f"header {name} is {got!r}, wanted {wanted!r}")
    if check.expect_body is not None and check.expect_body not in answer.body:
        return Result(f"the body does not contain {check.expect_body.decode()!r}")
    return Result()
