"""gRPC-Web from browsers, by HTTP/1.1 and HTTP/2, to a server that knows gRPC only."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.support.grpc_app import method
from tests.support.grpc_client import called, channel
from tests.support.grpc_web import WebAnswer, as_text, framed, of_text, read
from tests.support.http2_client import http2_client
from tests.support.http2_servers import grpc_app
from tests.support.weirgate import Running, running
from weirgate.shared.testing import Configuration, eventually, free_port

pytestmark = pytest.mark.anyio

BINARY = ("application/grpc-web", "application/grpc-web+proto")
TEXT = ("application/grpc-web-text", "application/grpc-web-text+proto")
TYPES = pytest.mark.parametrize("content_type", [*BINARY, *TEXT])
ONE_OF_EACH = pytest.mark.parametrize("content_type", [BINARY[1], TEXT[1]])


@dataclass(frozen=True)
class Site:
    weirgate: Running
    app: int
    client: httpx.AsyncClient

    async def call(
        self, name: str, content_type: str, *messages: bytes, **headers: str
    ) -> tuple[httpx.Response, WebAnswer]:
        """Make a call; return the answer and what its body holds."""
        body = framed(*messages)
        fields = {"content-type": content_type, "accept": content_type, "x-grpc-web": "1"}
        fields |= {key.replace("_", "-"): value for key, value in headers.items()}
        text = content_type in TEXT
        answer = await self.client.post(
            method(name), content=as_text(body) if text else body, headers=fields
        )
        assert answer.status_code == 200, answer.text
        return answer, read(of_text(answer.content) if text else answer.content)


@pytest.fixture(scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    config = Configuration().listen("web")
    bridge: dict[str, Any] = {"filters": [{"grpc_web": {}}]}
    config.route("dead", match={"host": "dead.test"}, pool="dead", **bridge)
    config.route("plain", match={"host": "plain.test"}, pool="app")
    config.route("app", match={"grpc": "weirgate.test.App"}, pool="app", **bridge)
    async with grpc_app(tmp_path_factory.mktemp("grpc-web")) as app:
        config.pool("app", app.port, protocol="h2c").pool("dead", free_port(), protocol="h2c")
        async with running(config) as weirgate:
            url = f"http://127.0.0.1:{weirgate.port()}"
            async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=20) as client:
                yield Site(weirgate, app.port, client)


@TYPES
async def test_a_unary_call(site: Site, content_type: str) -> None:
    for message in (b"", b"hello", bytes(range(256)) * 4096):
        answer, told = await site.call("Unary", content_type, message, x_echo_one="1")
        assert told.messages == [message]
        assert told.trailers["grpc-status"] == "0"
        assert (told.trailers["x-done"], told.trailers["x-trail-one"]) == ("1", "1")
        assert (answer.headers["x-app"], answer.headers["x-echo-one"]) == ("grpcio", "1")
        assert answer.headers["content-type"].startswith(content_type.removesuffix("+proto"))


@TYPES
async def test_messages_that_the_server_streams(site: Site, content_type: str) -> None:
    wanted = json.dumps({"count": 100, "size": 10_007}).encode()
    _, told = await site.call("ServerStream", content_type, wanted)
    assert [int(message.split(b" ", 1)[0]) for message in told.messages] == list(range(100))
    assert {len(message) for message in told.messages} == {10_007}
    assert told.trailers["grpc-status"] == "0"


@ONE_OF_EACH
@pytest.mark.parametrize("messages", [0, 2])
async def test_a_failure_arrives_with_its_text_and_metadata(
    site: Site, content_type: str, messages: int
) -> None:
    wanted = {"code": 9, "text": "not now", "trailing": {"x-why": "because"}, "messages": messages}
    answer, told = await site.call("Fail", content_type, json.dumps(wanted).encode())
    # without a message it may be trailers-only: then they are headers
    found = {**dict(answer.headers), **told.trailers}
    assert (found["grpc-status"], found["grpc-message"]) == ("9", "not now")
    assert found["x-why"] == "because"
    assert told.messages == [b"%d" % number for number in range(messages)]


@ONE_OF_EACH
async def test_the_server_sees_a_call_of_grpc(site: Site, content_type: str) -> None:
    _, told = await site.call("Metadata", content_type, b"", x_own="1", grpc_timeout="5S")
    seen = dict(json.loads(told.messages[0])["metadata"])
    assert seen["x-own"] == "1"
    entry = await site.weirgate.access.of(method("Metadata"))
    assert (entry["grpc_status"], entry["status"]) == (0, 200)


async def test_messages_are_not_held_back_until_the_end(site: Site) -> None:
    """The first message is read before the server is allowed to send the next one."""
    for content_type in (BINARY[0], TEXT[0]):
        gate = f"web {content_type}"
        request = framed(json.dumps({"count": 2, "size": 10, "gate": gate}).encode())
        text = content_type in TEXT
        async with (
            asyncio.timeout(20),
            channel(site.app) as direct,
            site.client.stream(
                "POST",
                method("ServerStream"),
                content=as_text(request) if text else request,
                headers={"content-type": content_type, "accept": content_type},
            ) as answer,
        ):
            got = bytearray()
            pieces = answer.aiter_raw()
            while not (got if not text else of_text(bytes(got))):
                got += await anext(pieces)
            await called(direct, "Open", gate.encode())
            async for piece in pieces:
                got += piece
        told = read(of_text(bytes(got)) if text else bytes(got))
        assert len(told.messages) == 2


@ONE_OF_EACH
async def test_what_weirgate_answers_itself(site: Site, content_type: str) -> None:
    answer, told = await site.call("Unary", content_type, b"", host="dead.test")
    found = {**dict(answer.headers), **told.trailers}
    assert (found["grpc-status"], found["weirgate-reason"]) == ("14", "connect_refused")


async def test_over_http2(site: Site) -> None:
    async with http2_client(site.weirgate.port()) as client:
        reply = await client.ask(
            method("Unary"), ("content-type", BINARY[0]), method="POST", body=framed(b"hello")
        )
    told = read(reply.body)
    assert (told.messages, told.trailers["grpc-status"]) == ([b"hello"], "0")
    assert not reply.trailers


async def test_calls_of_grpc_itself_pass_the_bridge_untouched(site: Site) -> None:
    async with channel(site.weirgate.port()) as to:
        done = await called(to, "Unary", b"hello")
    assert (done.message, done.trailing["x-done"]) == (b"hello", "1")


async def test_a_body_that_is_not_the_text_form_is_refused(site: Site) -> None:
    headers = {"content-type": TEXT[0], "accept": TEXT[0]}
    answer = await site.client.post(method("Unary"), content=b"not base64!", headers=headers)
    status = answer.headers.get("grpc-status") or _status(answer)
    assert answer.status_code == 400 or status not in {"", "0"}

    async def serves() -> bool:
        _, told = await site.call("Unary", TEXT[0], b"on")
        return told.trailers["grpc-status"] == "0"

    await eventually(serves, what="a call after it")


def _status(answer: httpx.Response) -> str:
    try:
        return read(of_text(answer.content)).trailers.get("grpc-status", "")
    except (AssertionError, ValueError):
        return ""


async def test_without_the_filter_nothing_is_translated(site: Site) -> None:
    answer = await site.client.post(
        method("Unary"),
        content=framed(b"x"),
        headers={"content-type": BINARY[0], "host": "plain.test"},
    )
    assert not answer.headers["content-type"].startswith("application/grpc-web")
