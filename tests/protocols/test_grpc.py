"""gRPC: grpcio's client through Weirgate to grpcio's server, over HTTP/2 on both sides."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from tests.support.grpc_app import method
from tests.support.grpc_client import called, channel, failure, recorded, rpc
from tests.support.grpc_site import Site, grpc_site
from tests.support.processes import resident_kib
from weirgate.shared.testing import eventually

pytestmark = pytest.mark.anyio

STREAMS = 1000
SLOW_BYTES = 100 << 20
MESSAGE_BYTES = 64 << 10
GROWTH_KIB = 8 << 10


@pytest.fixture(scope="module")
async def site(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    async with grpc_site(tmp_path_factory.mktemp("grpc")) as found:
        yield found


@pytest.mark.parametrize("listener", ["web", "secure"])
async def test_a_unary_call_with_its_metadata_both_ways(site: Site, listener: str) -> None:
    sent = (("x-echo-text", "some text"), ("x-echo-data-bin", b"\0\xff\x01"))
    async with site.channel(listener) as to:
        done = await called(to, "Unary", b"hello", metadata=sent)
    assert done.message == b"hello"
    assert done.initial["x-app"] == "grpcio"
    assert (done.initial["x-echo-text"], done.initial["x-echo-data-bin"]) == (
        "some text",
        b"\0\xff\x01",
    )
    assert (done.trailing["x-done"], done.trailing["x-trail-text"]) == ("1", "some text")
    assert done.trailing["x-trail-data-bin"] == b"\0\xff\x01"
    assert done.code is grpc.StatusCode.OK


async def test_messages_of_every_size_pass_in_every_kind_of_call(site: Site) -> None:
    async with site.channel() as to:
        for size in (0, 1, 16_379, 16_380, 65_536, 5_000_000):
            assert (await called(to, "Unary", b"x" * size)).message == b"x" * size
        wanted = json.dumps({"count": 200, "size": 20_000}).encode()
        numbers = [
            int(message.split(b" ", 1)[0]) async for message in rpc(to, "ServerStream")(wanted)
        ]
        assert numbers == list(range(200))

        async def messages() -> AsyncIterator[bytes]:
            for number in range(300):
                yield b"x" * (number * 100)

        total = await rpc(to, "ClientStream")(messages())
        assert json.loads(total) == {"count": 300, "bytes": sum(n * 100 for n in range(300))}


async def test_a_stream_both_ways_is_not_held_back_until_the_next_message(site: Site) -> None:
    async with site.channel("secure") as to:
        call = rpc(to, "Bidi")()
        async with asyncio.timeout(20):
            for number in range(100):
                await call.write(b"%d" % number)
                assert await call.read() == b"%d" % number
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
            assert await call.code() is grpc.StatusCode.OK


@pytest.mark.parametrize("messages", [0, 3])
async def test_a_failure_arrives_with_its_text_and_trailing_metadata(
    site: Site, messages: int
) -> None:
    """Without a message it is one head that is the trailer, too (trailers-only)."""
    wanted = {"code": 9, "text": "nöt now", "trailing": {"x-why": "because"}, "messages": messages}
    async with site.channel() as to:
        call = rpc(to, "Fail")(json.dumps(wanted).encode())
        got = [await call.read() for _ in range(messages)]
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call.read()
        trailing = dict(await call.trailing_metadata())
    assert got == [b"%d" % number for number in range(messages)]
    assert failed.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert failed.value.details() == "nöt now"
    assert trailing["x-why"] == "because"
    entry = await site.weirgate.access.wait_for(
        lambda e: e.get("path") == method("Fail") and e.get("grpc_status") == 9
    )
    assert (entry["status"], entry["reason"]) == (200, "")


async def test_much_metadata_passes(site: Site) -> None:
    async with site.channel() as to:
        size = json.dumps({"size": 7000}).encode()
        done = await called(to, "Metadata", size, metadata=(("x-long", "z" * 7000),))
    told = dict(json.loads(done.message)["metadata"])
    assert told["x-long"] == "z" * 7000
    assert done.trailing["x-big"] == "y" * 7000


async def test_the_server_sees_a_call_of_grpc_and_where_it_came_from(site: Site) -> None:
    async with site.channel("secure") as to:
        done = await called(to, "Metadata", b"", metadata=(("x-forwarded-for", "6.6.6.6"),))
    told = json.loads(done.message)["metadata"]
    assert [v for k, v in told if k == "x-forwarded-for"] == ["127.0.0.1"]
    assert [v for k, v in told if k == "x-forwarded-proto"] == ["https"]
    assert any("grpc-python" in v for k, v in told if k == "user-agent")


async def test_a_cancelled_call_is_cancelled_at_the_server(site: Site) -> None:
    async with site.channel() as to:
        call = rpc(to, "Hang")(b"", metadata=(("x-key", "cancel"),))
        await eventually(lambda: _begun(site, "cancel"), what="the call at the server")
        call.cancel()
        await eventually(lambda: _cancelled(site, "cancel"), what="a cancelled call")
        assert await call.code() is grpc.StatusCode.CANCELLED
    await site.weirgate.access.wait_for(
        lambda e: e.get("path") == method("Hang") and e["reason"] == "client_gone"
    )


async def _begun(site: Site, key: str) -> bool:
    return bool(await recorded(site.app, key))


async def _cancelled(site: Site, key: str) -> bool:
    return {"cancelled": True} in await recorded(site.app, key)


async def test_a_deadline_arrives_and_is_less_than_it_was(site: Site) -> None:
    async with site.channel() as to:
        failed = await failure(to, "Hang", b"", metadata=(("x-key", "deadline"),), timeout=2.0)
    assert failed.code is grpc.StatusCode.DEADLINE_EXCEEDED
    begun, *_ = await recorded(site.app, "deadline")
    assert 0 < begun["time_left"] < 2.02  # grpcio rounds what it sends up, to three digits
    await eventually(lambda: _cancelled(site, "deadline"), what="a cancelled call")


@pytest.mark.slow
async def test_a_thousand_streams_at_once(site: Site) -> None:
    """All of them are open, and have been answered once, before any ends."""
    async with site.channel() as to:
        calls = [rpc(to, "Bidi")() for _ in range(STREAMS)]
        async with asyncio.timeout(60):
            await asyncio.gather(*[c.write(b"%d" % n) for n, c in enumerate(calls)])
            first = await asyncio.gather(*[c.read() for c in calls])
            assert first == [b"%d" % number for number in range(STREAMS)]
            await asyncio.gather(*[c.write(b"again") for c in calls])
            assert set(await asyncio.gather(*[c.read() for c in calls])) == {b"again"}
            await asyncio.gather(*[c.done_writing() for c in calls])
            codes = await asyncio.gather(*[c.code() for c in calls])
    assert set(codes) == {grpc.StatusCode.OK}


@pytest.mark.slow
async def test_a_slow_reader_holds_the_writer_and_not_the_memory(site: Site) -> None:
    (gateway,) = site.weirgate.gateways()
    key, count = "slow-reader", SLOW_BYTES // MESSAGE_BYTES
    message, sent, grown = b"x" * MESSAGE_BYTES, 0, 0
    async with site.channel() as to, channel(site.app) as direct:
        await called(to, "Unary", message)
        before = resident_kib(gateway)
        call = rpc(to, "ClientStream")(metadata=(("x-gate", key),))

        async def write() -> None:
            nonlocal sent, grown
            for _ in range(count):
                await call.write(message)
                sent += 1
                grown = max(grown, resident_kib(gateway) - before)
            await call.done_writing()

        writing = asyncio.create_task(write())
        await eventually(lambda: recorded(site.app, key), what="the reader at its gate")
        held = await _stands_still(lambda: sent)
        assert held < count // 2, "the writer was not held"
        await called(direct, "Open", key.encode())
        async with asyncio.timeout(90):
            await writing
            total = json.loads(await call)
    assert total == {"count": count, "bytes": SLOW_BYTES}
    assert grown <= GROWTH_KIB, f"{grown} KiB"


async def _stands_still(figure: Any, rounds: int = 50) -> int:
    """Wait until a figure has been the same so many times in a row; return it."""
    last, same = -1, 0

    def still() -> bool:
        nonlocal last, same
        now = figure()
        same = same + 1 if now == last else 0
        last = now
        return same >= rounds

    await eventually(still, within_s=30, what="a figure that stands still")
    return last
