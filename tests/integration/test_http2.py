"""HTTP/2 from clients: agreed by TLS or begun at once, to endpoints that speak HTTP/1.1."""

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.support import certs, peers
from tests.support.http2 import (
    DATA,
    END_STREAM,
    GOAWAY,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    Answer,
    fields_of,
    frame,
    get,
    headers,
    http2,
    settings,
)
from tests.support.origin import (
    Exchange,
    Origin,
    answer,
    chunked,
    held,
    message,
    one_origin,
    reset_midway,
    verbatim,
)
from tests.support.processes import Finished, finished
from tests.support.weirgate import Running, running
from tests.support.wire import connect
from weirgate.shared.testing import Configuration, eventually

pytestmark = pytest.mark.anyio

MEGABYTE = bytes(range(256)) * 4096


@dataclass(frozen=True)
class Site:
    origin: Origin
    weirgate: Running
    authority: Path

    @property
    def port(self) -> int:
        return self.weirgate.port()

    @property
    def secure(self) -> str:
        return f"https://weirgate.test:{self.weirgate.port('secure')}"

    async def curl(self, *arguments: str) -> Finished:
        port = self.weirgate.port("secure")
        resolve = ("--resolve", f"weirgate.test:{port}:127.0.0.1", "--cacert", str(self.authority))
        done = await finished(peers.tool("curl"), "-sS", "--max-time", "20", *resolve, *arguments)
        assert done.code == 0, done.text
        return done


@pytest.fixture(scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    directory = tmp_path_factory.mktemp("http2")
    certificate = certs.issue(directory, "weirgate.test")
    tls = {"certificates": [certificate.yaml()]}
    config = Configuration().listen("web").listen("secure", tls=tls)
    config.listen("old", tls={**tls, "alpn": ["http/1.1"]})
    config.gateway(
        http2={"streams": 10},
        timeouts={"idle": "1s", "request_head": "2s"},
        limits={"header_bytes": "15KiB"},
    )
    async with one_origin() as origin:
        config.pool("all", origin.port, retries=0)
        config.route("own", match={"path": "/own"}, respond={"status": 200, "body": "own"})
        config.route("small", match={"path": "/small"}, pool="all", limits={"body_bytes": "10B"})
        config.route(
            "slow", match={"path": "/slow"}, pool="all", timeouts={"response_head": "300ms"}
        )
        config.route("all", match={"host": "weirgate.test"}, pool="all")
        config.route("curl", match={"host": "127.0.0.1"}, pool="all")
        async with running(config) as weirgate:
            yield Site(origin, weirgate, certs.authority_file(directory))


def body(stream: int, data: bytes, *, ends: bool = True) -> bytes:
    return frame(DATA, END_STREAM if ends else 0, stream, data)


def seen(answer: Answer) -> dict[str, object]:
    assert answer.status == 200, answer
    return dict(json.loads(answer.body))


async def test_http2_is_agreed_in_tls_and_older_clients_are_served(site: Site) -> None:
    for listener, offered, wanted in [
        ("secure", ("h2", "http/1.1"), "h2"),
        ("secure", ("http/1.1",), "http/1.1"),
        ("secure", (), None),
        ("old", ("h2", "http/1.1"), "http/1.1"),
    ]:
        context = certs.client_context(alpn=offered)
        port = site.weirgate.port(listener)
        async with connect(port, tls=context, server_name="weirgate.test") as wire:
            tls = wire.writer.get_extra_info("ssl_object")
            assert tls.selected_alpn_protocol() == wanted


async def test_a_request_as_the_endpoint_and_the_log_see_it(site: Site) -> None:
    context = certs.client_context(alpn=("h2",))
    port = site.weirgate.port("secure")
    more = (
        ("cookie", "a=1"),
        ("cookie", "b=2"),
        ("te", "trailers"),
        ("x-forwarded-for", "6.6.6.6"),
    )
    async with http2(port, tls=context, server_name="weirgate.test") as client:
        await client.send(get(1, "/seen/./x?q=1", *more))
        told = seen(await client.answer(1))
    assert told["target"] == "/seen/x?q=1"
    fields = [(name.lower(), value) for name, value in told["headers"]]  # type: ignore[attr-defined]
    assert fields[0] == ("host", "weirgate.test")
    assert [v for n, v in fields if n == "cookie"] == ["a=1; b=2"]
    assert [v for n, v in fields if n == "x-forwarded-for"] == ["127.0.0.1"]
    assert [v for n, v in fields if n == "x-forwarded-proto"] == ["https"]
    assert not {n for n, _ in fields} & {"te", "connection", "transfer-encoding", "content-length"}
    line = await site.weirgate.access.of("/seen/x")
    assert (line["protocol"], line["status"], line["tls"]) == ("HTTP/2", 200, True)
    assert line["request_id"] == line["connection_id"] + "-1"


async def test_bodies_with_and_without_a_length_arrive_whole(site: Site) -> None:
    whole = hashlib.sha256(MEGABYTE).hexdigest()
    pieces = [MEGABYTE[at : at + 16_000] for at in range(0, len(MEGABYTE), 16_000)]
    for number, more in enumerate([(), (("content-length", str(len(MEGABYTE))),)]):
        async with http2(site.port) as client:
            stream = 1
            await client.send(headers(stream, fields_of("/up", *more, method="POST"), ends=False))
            await client.until(lambda f: f.kind == SETTINGS and f.flags == 0)
            windows = {0: 65_535, stream: 256 * 1024}
            for piece in pieces:
                while min(windows.values()) < len(piece):
                    found = await client.read()
                    assert found is not None
                    if found.kind == WINDOW_UPDATE:
                        windows[found.stream] += int.from_bytes(found.payload)
                await client.send(body(stream, piece, ends=False))
                windows = {which: left - len(piece) for which, left in windows.items()}
            await client.send(body(stream, b""))
            told = seen(await client.answer(stream))
            assert (told["length"], told["sha256"]) == (len(MEGABYTE), whole), number


async def test_an_answer_waits_for_the_client_s_windows(site: Site) -> None:
    site.origin.on("/large", answer(200, MEGABYTE))
    async with http2(site.port, first=PREFACE + settings((4, 1000))) as client:
        await client.send(get(1, "/large"), get(3, "/own"))
        assert (await client.answer(3)).body == b"own"
        got = b"".join(f.payload for f in client.frames if f.kind == DATA and f.stream == 1)
        assert len(got) <= 1000
        await client.send(settings((4, 1 << 20)), frame(WINDOW_UPDATE, 0, 0, (1 << 20).to_bytes(4)))
        assert (await client.answer(1)).body == MEGABYTE


async def test_many_small_pieces_that_the_endpoint_is_slow_to_take(site: Site) -> None:
    """A stream of tiny messages (gRPC) while the endpoint stalls: bounded by windows, not ended."""
    release = asyncio.Event()

    async def slow(exchange: Exchange) -> None:
        await release.wait()
        request = await exchange.read()
        await exchange.send(message(200, b"%d" % len(request.body)))

    site.origin.on("/stalled", slow)
    async with http2(site.port) as client:
        await client.until(lambda f: f.kind == SETTINGS and f.flags == 0)
        await client.send(headers(1, fields_of("/stalled", method="POST"), ends=False))
        for _ in range(60):
            await client.send(*[body(1, b"x" * 20, ends=False)] * 100)
        await client.send(body(1, b""), get(3, "/own"))
        assert (await client.answer(3)).status == 200
        release.set()
        answer = await client.answer(1)
        assert answer.body == b"120000", (answer, client.frames[-3:])


async def test_trailers_cross_both_ways(site: Site) -> None:
    site.origin.on("/trailing", chunked([b"a", b"b"], "X-Sum: 2", "Set-Cookie: no"))
    async with http2(site.port) as client:
        await client.send(
            headers(1, fields_of("/up", method="POST"), ends=False),
            body(1, b"x", ends=False),
            headers(1, (("x-t", "1"), ("host", "evil"))),
            get(3, "/trailing"),
        )
        assert seen(await client.answer(1))["trailers"] == [["x-t", "1"]]
        found = await client.answer(3)
        assert (found.body, found.one("x-sum"), found.one("set-cookie")) == (b"ab", "2", None)


async def test_interim_answers_and_answers_without_a_body(site: Site) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    site.origin.on("/hints", verbatim(hints + b"HTTP/1.1 204 No Content\r\n\r\n"))
    site.origin.on("/same", verbatim(b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\n\r\n'))
    async with http2(site.port) as client:
        await client.send(
            get(1, "/hints"),
            get(3, "/same"),
            headers(5, fields_of("/own", method="HEAD")),
            headers(7, fields_of("/up", ("expect", "100-continue"), method="POST"), ends=False),
        )
        found = await client.answer(1)
        assert [dict(head)[":status"] for head in found.heads] == ["103", "204"]
        assert found.one("link") == "</a>"
        assert (await client.answer(3)).status == 304
        head = await client.answer(5)
        assert (head.status, head.body, head.one("content-length")) == (200, b"", "3")
        await client.head(7)
        await client.send(body(7, b"go"))
        found = await client.answer(7)
        assert [dict(head)[":status"] for head in found.heads] == ["100", "200"]


async def test_a_slow_answer_holds_no_other_up_and_too_many_are_refused(site: Site) -> None:
    release = asyncio.Event()
    site.origin.on("/held", held(release))
    async with http2(site.port) as client:
        await client.until(lambda f: f.kind == 4 and f.flags == 0)
        streams = [2 * number + 1 for number in range(9)]
        await client.send(*[get(stream, "/held") for stream in streams])
        await client.send(get(101, "/own"))
        assert (await client.answer(101)).body == b"own"
        await client.send(get(103, "/held"), get(105, "/own"))
        assert (await client.answer(105)).reset == "REFUSED_STREAM"
        release.set()
        for stream in [*streams, 103]:
            assert (await client.answer(stream)).body == b"held"


async def test_a_cancelled_request_is_cancelled_at_the_endpoint(site: Site) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def wait(exchange: Exchange) -> None:
        await exchange.read()
        await exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        begun.set()
        assert await exchange.connection.reader.read(1) == b""
        ended.set()

    site.origin.on("/cancelled", wait)
    async with http2(site.port) as client:
        await client.send(get(1, "/cancelled"))
        await client.until(lambda f: f.kind == DATA)
        await client.send(frame(RST_STREAM, 0, 1, bytes(3) + b"\x08"), get(3, "/own"))
        assert (await client.answer(3)).status == 200
        async with asyncio.timeout(10):
            await ended.wait()
    assert (await site.weirgate.access.of("/cancelled"))["reason"] == "client_gone"


async def test_what_weirgate_answers_itself(site: Site) -> None:
    site.origin.on("/broken", verbatim(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"))
    half = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\nx\r\n"
    site.origin.on("/half-broken", verbatim(half))
    site.origin.on("/slow", held(asyncio.Event()))
    site.origin.on("/cut", reset_midway(b"abc", 10))
    upload = fields_of("/small", ("content-length", "11"), method="POST")
    async with http2(site.port) as client:
        await client.send(
            headers(1, (*fields_of()[:3], (":authority", "other.test"))),
            headers(3, upload, ends=False),
            get(5, "/broken"),
            get(7, "/slow"),
            get(9, "/cut"),
            get(11, "/own", ("expect", "wonders")),
            get(15, "/half-broken"),
            headers(19, (*fields_of(method="HEAD"), ("host", "evil.test"))),
            get(21, "/own", ("x", "y" * 12_000), ("z", "y" * 3_500)),
        )
        for stream, status, reason in [
            (1, 404, "no_route"),
            (3, 413, "body_too_large"),
            (5, 502, "upstream_bad_response"),
            (7, 504, "response_timeout"),
            (11, 417, "expectation_failed"),
            (15, 502, "upstream_bad_response"),
            (19, 400, "bad_host"),
            (21, 431, "header_too_large"),
        ]:
            found = await client.answer(stream)
            assert (found.status, found.one("weirgate-reason")) == (status, reason)
            assert bool(found.body) is (stream != 19)
        assert (await client.answer(9)).reset == "INTERNAL_ERROR"
        # the refused upload may still be coming
        await client.send(get(23, "/own"))
        assert (await client.answer(23)).status == 200
    assert (await site.weirgate.access.of("/cut"))["reason"] in {
        "upstream_closed_early",
        "upstream_reset",
    }


async def test_an_idle_connection_is_said_good_bye(site: Site) -> None:
    async with http2(site.port) as client:
        await client.send(get(1, "/own"))
        assert (await client.answer(1)).status == 200
        assert await client.goaway() == "NO_ERROR"


async def test_only_half_a_preface_is_no_request(site: Site) -> None:
    async with connect(site.port) as wire:
        await wire.send(PREFACE[:10])
        rest = await wire.rest(within_s=15)
        assert rest[3:4] == bytes([SETTINGS])
        assert b"weirgate" not in rest
    async with connect(site.port) as wire:
        for byte in PREFACE + settings() + get(1, "/own"):
            await wire.send(bytes([byte]))
        assert b"own" in await wire.rest()


async def test_cleartext_can_be_turned_off() -> None:
    config = Configuration().listen("web").route("own", respond={"body": "own"})
    config.gateway(http2={"cleartext": False})
    async with running(config) as weirgate, connect(weirgate.port()) as wire:
        await wire.send(PREFACE + settings() + get(1))
        assert (await wire.response()).status in {400, 505}


async def test_a_drain_lets_open_requests_end(site: Site) -> None:
    release = asyncio.Event()
    config = Configuration().listen("web").pool("all", site.origin.port).route("all", pool="all")
    site.origin.on("/held", held(release))
    async with running(config) as weirgate, http2(weirgate.port()) as client:
        await client.send(get(1, "/held"))
        await eventually(lambda: any(h.target == "/held" for h in site.origin.heads))
        stopping = asyncio.create_task(weirgate.stop())
        await eventually(lambda: "drain" in weirgate.log())
        # told while a request is open, and without another one; one that crosses it is served still
        await client.until(lambda f: f.kind == GOAWAY)
        await client.send(get(3, "/up"))
        assert (await client.answer(3)).status == 200
        release.set()
        assert (await client.answer(1)).body == b"held"
        assert await client.goaway() == "NO_ERROR"
        await stopping


async def test_an_idle_connection_hears_of_a_drain_at_once() -> None:
    config = Configuration().listen("web").route("all", respond={"body": "own"})
    config.data["drain"] = {"idle": "1m", "timeout": "1m"}
    async with running(config) as weirgate, http2(weirgate.port()) as client:
        await client.send(get(1))
        assert (await client.answer(1)).body == b"own"
        stopping = asyncio.create_task(weirgate.stop())
        assert await client.goaway() == "NO_ERROR"
        await stopping


async def test_curl(site: Site) -> None:
    for version, base in [
        ("--http2", site.secure),
        ("--http2-prior-knowledge", f"http://127.0.0.1:{site.port}"),
    ]:
        show = ("-w", "\n%{http_version} %{http_code}\n")
        up = (await site.curl(version, *show, "-d", "x" * 100_000, f"{base}/up")).out.splitlines()
        assert up[1] == b"2 200"
        assert json.loads(up[0])["length"] == 100_000
        # answered before the body was read
        own = await site.curl(version, *show, "-d", "x" * 100_000, f"{base}/own")
        assert own.out.splitlines() == [b"own", b"2 200"]


async def test_httpx(site: Site) -> None:
    context = certs.client_context()
    transport = httpx.AsyncHTTPTransport(http2=True, verify=context)
    async with httpx.AsyncClient(transport=transport, trust_env=False) as client:
        url = f"https://127.0.0.1:{site.weirgate.port('secure')}/up"
        extensions = {"sni_hostname": "weirgate.test"}
        answers = await asyncio.gather(
            *[client.post(url, content=b"x" * n, extensions=extensions) for n in range(1, 10)]
        )
    assert all(
        a.http_version == "HTTP/2" and a.json()["length"] == n for n, a in enumerate(answers, 1)
    )


@pytest.mark.parametrize("program", ["nghttp", "h2load"])
async def test_nghttp2_s_clients(site: Site, program: str) -> None:
    tool = peers.tool(program)
    for url in (f"http://127.0.0.1:{site.port}/own", f"{site.secure}/own"):
        address = url.replace("weirgate.test", "127.0.0.1")
        if program == "nghttp":
            done = await finished(tool, "-nv", address)
            assert ":status: 200" in re.sub(r"\x1b\[[0-9;]*m", "", done.text)
        else:
            done = await finished(tool, "-n", "3000", "-c", "3", "-m", "10", address)
            assert "3000 succeeded, 0 failed, 0 errored" in done.text, done.text
