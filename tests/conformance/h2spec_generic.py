"""The first parts of h2spec's list: what must be accepted (``generic``), and HPACK's errors."""

import struct

from tests.support.h2spec import PONG, Blocks, Spec
from tests.support.http2 import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HAS_PRIORITY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    RST_STREAM,
    WINDOW_UPDATE,
    frame,
    settings,
)

WHOLE = END_STREAM | END_HEADERS
PINGED = frame(PING, 0, 0, PONG)
CANCEL = struct.pack("!I", 8)


def update(stream: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, struct.pack("!I", increment))


def priority(stream: int, on: int = 0, weight: int = 255) -> bytes:
    return frame(PRIORITY, 0, stream, struct.pack("!IB", on, weight))


def window(size: int) -> bytes:
    return settings((4, size))


def accepted(scheme: str) -> list[Spec]:
    """Return the part ``generic``."""
    whole = frame(HEADERS, WHOLE, 1, Blocks(scheme).request())
    opened = frame(HEADERS, END_HEADERS, 1, Blocks(scheme).request())
    post = frame(HEADERS, END_HEADERS, 1, Blocks(scheme).request("POST"))
    block = Blocks(scheme).request()
    blocks = Blocks(scheme)
    trailing = (
        frame(HEADERS, END_HEADERS, 1, blocks.request("POST", ("trailer", "x-test"))),
        frame(DATA, 0, 1, b"test"),
        frame(HEADERS, WHOLE, 1, blocks.of(("x-test", "ok"))),
    )
    long = Blocks(scheme)
    begun = frame(HEADERS, END_STREAM, 1, long.request())
    more = (long.large(), long.large())
    return [
        Spec("generic/1/1", (PREFACE, window(65_535)), "settings", handshake=False),
        Spec("generic/2/1", (priority(1), PINGED), "pong"),
        Spec("generic/2/2", (window(0), whole, update(1, 1)), "data"),
        Spec("generic/2/3", (window(0), whole, priority(1), update(1, 1)), "data"),
        Spec("generic/2/4", (whole, frame(RST_STREAM, 0, 1, CANCEL), PINGED), "pong or close"),
        Spec("generic/2/5", (whole, "wait for the end", priority(1), PINGED), "pong"),
        Spec("generic/3.1/1", (post, frame(DATA, END_STREAM, 1, b"test")), "headers"),
        Spec(
            "generic/3.1/2",
            (post, frame(DATA, 0, 1, b"test"), frame(DATA, END_STREAM, 1, b"test")),
            "headers",
        ),
        Spec(
            "generic/3.1/3",
            (post, frame(DATA, PADDED | END_STREAM, 1, b"\x08test" + bytes(8))),
            "headers",
        ),
        Spec("generic/3.2/1", (whole,), "headers"),
        Spec(
            "generic/3.2/2",
            (frame(HEADERS, WHOLE | PADDED, 1, b"\x08" + block + bytes(8)),),
            "headers",
        ),
        Spec(
            "generic/3.2/3",
            (frame(HEADERS, WHOLE | HAS_PRIORITY, 1, b"\0\0\0\0\xff" + block),),
            "headers",
        ),
        Spec("generic/3.3/1", (priority(1, weight=0), whole), "headers"),
        Spec("generic/3.3/2", (priority(1), whole), "headers"),
        Spec("generic/3.3/3", (priority(3, 1, 0), whole), "headers"),
        Spec("generic/3.3/4", (priority(1, 1 << 31, 0), whole), "headers"),
        Spec("generic/3.3/5", (priority(3), whole), "headers"),
        Spec("generic/3.4/1", (opened, frame(RST_STREAM, 0, 1, CANCEL), PINGED), "pong or close"),
        Spec("generic/3.5/1", (window(65_535),), "ack"),
        Spec("generic/3.7/1", (PINGED,), "pong"),
        Spec("generic/3.8/1", (frame(GOAWAY, 0, 0, bytes(8) + b"h2spec"), PINGED), "pong or close"),
        Spec("generic/3.9/1", (update(0, 1), PINGED), "pong"),
        Spec("generic/3.9/2", (whole, update(1, 1)), "headers"),
        Spec("generic/3.10/1", (begun, frame(CONTINUATION, END_HEADERS, 1, more[0])), "headers"),
        Spec(
            "generic/3.10/2",
            (
                begun,
                frame(CONTINUATION, 0, 1, more[0]),
                frame(CONTINUATION, END_HEADERS, 1, more[1]),
            ),
            "headers",
        ),
        Spec("generic/4/1", (whole,), "headers"),
        Spec("generic/4/2", (frame(HEADERS, WHOLE, 1, Blocks(scheme).request("HEAD")),), "headers"),
        Spec("generic/4/3", (post, frame(DATA, END_STREAM, 1, b"test")), "headers"),
        Spec("generic/4/4", trailing, "headers"),
        *_representations(scheme),
    ]


def _representations(scheme: str) -> list[Spec]:
    value = b"\x06h2spec"
    short = bytes.fromhex("849c48aca4")  # the same in Huffman's code
    agent = b"\x0auser-agent"
    agent_short = bytes.fromhex("87b505b161cc5a93")
    test, test_short = b"\x06x-test", bytes.fromhex("85f2b24a84ff")
    behind = [
        b"\xba",
        b"\x40" + agent + value,
        b"\x40" + agent_short + short,
        b"\x40" + test + value,
        b"\x40" + test_short + short,
        b"\x00" + agent + value,
        b"\x00" + agent_short + short,
        b"\x00" + test + value,
        b"\x00" + test_short + short,
        b"\x10" + agent + value,
        b"\x10" + agent_short + short,
        b"\x10" + test + value,
        b"\x10" + test_short + short,
    ]
    block = Blocks(scheme).request()
    all_blocks = [*[block + part for part in behind], b"\x20" + block, b"\x20\x3f\xe1\x1f" + block]
    return [
        Spec(f"generic/5/{number}", (frame(HEADERS, WHOLE, 1, made),), "headers")
        for number, made in enumerate(all_blocks, 1)
    ]


def compression(scheme: str) -> list[Spec]:
    """Return the part ``hpack``."""
    block = Blocks(scheme).request()
    rows = {
        "2.3.3/1": block + b"\xc6",
        "2.3.3/2": block + b"\x7f\x07\x00",
        "4.2/1": block + b"\x21",
        "5.2/1": block + bytes.fromhex("0085f2b24a84ff8449509fff"),
        "5.2/2": block + bytes.fromhex("0085f2b24a84ff83495090"),
        "5.2/3": block + bytes.fromhex("0085f2b24a87fffffffd25427f"),
        "6.1/1": b"\x80" + block,
        "6.3/1": b"\x3f\xe2\x1f" + block,
    }
    return [
        Spec(
            f"hpack/{number}",
            (frame(HEADERS, WHOLE, 1, made),),
            "connection error",
            ("COMPRESSION_ERROR",),
        )
        for number, made in rows.items()
    ]
