"""The rest of h2spec's list: RFC 9113 by section (h2spec counts by those of RFC 7540)."""

import struct

from tests.conformance.h2spec_generic import CANCEL, PINGED, WHOLE, priority, update, window
from tests.support.h2spec import MAX_CONCURRENT_STREAMS, Blocks, Connection, Spec, Step
from tests.support.http2 import (
    ACK,
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
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    frame,
    settings,
)

PROTOCOL, CLOSED, SIZE = "PROTOCOL_ERROR", "STREAM_CLOSED", "FRAME_SIZE_ERROR"
FLOW = "FLOW_CONTROL_ERROR"
UNKNOWN = frame(0x16, 0, 0, bytes(8))
TEST = frame(DATA, END_STREAM, 1, b"test")
RESET = frame(RST_STREAM, 0, 1, CANCEL)
MAXIMUM = (1 << 31) - 1


def connection(number: str, *steps: Step, code: str = PROTOCOL) -> Spec:
    return Spec(f"http2/{number}", steps, "connection error", (code,))


def stream(number: str, *steps: Step, codes: tuple[str, ...] = (PROTOCOL,)) -> Spec:
    return Spec(f"http2/{number}", steps, "stream error", codes)


def answered(number: str, wanted: str, *steps: Step, codes: tuple[str, ...] = ()) -> Spec:
    return Spec(f"http2/{number}", steps, wanted, codes)


def sections(scheme: str) -> list[Spec]:
    """Return the part ``http2``."""
    return [
        *_starting_and_framing(scheme),
        *_states(scheme),
        *_identifiers(scheme),
        *_frames(scheme),
        *_settings_and_pings(),
        *_windows(scheme),
        *_continuation(scheme),
        *_messages(scheme),
    ]


def _starting_and_framing(scheme: str) -> list[Spec]:
    post = frame(HEADERS, END_HEADERS, 1, Blocks(scheme).request("POST"))
    blocks = Blocks(scheme)
    begun = frame(HEADERS, 0, 1, blocks.request())
    second, rest = blocks.request(), frame(CONTINUATION, END_HEADERS, 1, blocks.large())
    huge = Blocks(scheme)
    return [
        Spec("http2/3.5/1", (PREFACE, window(65_535)), "settings", handshake=False),
        Spec("http2/3.5/2", (b"INVALID CONNECTION PREFACE\r\n\r\n",), "close", handshake=False),
        answered("4.1/1", "pong", UNKNOWN, PINGED),
        answered("4.1/2", "pong", frame(PING, 0x16, 0, PINGED[9:])),
        answered("4.1/3", "pong", frame(PING, 0x16, 1 << 31, PINGED[9:])),
        answered("4.2/1", "headers", post, frame(DATA, END_STREAM, 1, b"x" * 16_384)),
        stream("4.2/2", post, frame(DATA, END_STREAM, 1, b"x" * 16_385), codes=(SIZE,)),
        connection("4.2/3", frame(HEADERS, WHOLE, 1, huge.request() + huge.large(5)), code=SIZE),
        connection("4.3/1", frame(HEADERS, WHOLE, 1, b"\x40"), code="COMPRESSION_ERROR"),
        connection("4.3/2", begun, priority(1), rest),
        connection("4.3/3", begun, frame(HEADERS, WHOLE, 3, second), rest),
    ]


def _states(scheme: str) -> list[Spec]:
    both = (CLOSED, PROTOCOL)
    block = Blocks(scheme).request()
    whole, opened = frame(HEADERS, WHOLE, 1, block), frame(HEADERS, END_HEADERS, 1, block)
    blocks = Blocks(scheme)
    first = blocks.request()
    whole_1, opened_1 = frame(HEADERS, WHOLE, 1, first), frame(HEADERS, END_HEADERS, 1, first)
    whole_2, large = frame(HEADERS, WHOLE, 1, blocks.request()), blocks.large()
    behind = frame(CONTINUATION, END_HEADERS, 1, large)
    ended = (whole, "wait for the end")
    return [
        connection("5.1/1", TEST),
        connection("5.1/2", RESET),
        connection("5.1/3", update(1, 100)),
        connection("5.1/4", frame(CONTINUATION, END_HEADERS, 1, block)),
        stream("5.1/5", whole, TEST, codes=(CLOSED,)),
        stream("5.1/6", whole_1, whole_2, codes=(CLOSED,)),
        stream("5.1/7", whole, frame(CONTINUATION, END_HEADERS, 1, block), codes=both),
        stream("5.1/8", opened, RESET, TEST, codes=(CLOSED,)),
        stream("5.1/9", opened_1, RESET, whole_2, codes=(CLOSED,)),
        stream("5.1/10", opened_1, RESET, behind, codes=both),
        stream("5.1/11", *ended, TEST, codes=(CLOSED,)),
        # As h2spec has it: RST_STREAM would not do here.
        connection("5.1/12", *ended, whole, code=CLOSED),
        Spec("http2/5.1/13", (*ended, behind), "connection error", both),
    ]


def _identifiers(scheme: str) -> list[Spec]:
    block = Blocks(scheme).request()
    blocks = Blocks(scheme)
    two = blocks.request(), blocks.request()

    def one_too_many(to: Connection) -> bytes:
        limit = to.settings[MAX_CONCURRENT_STREAMS]
        return b"".join(frame(HEADERS, WHOLE, 2 * n + 1, block) for n in range(limit + 1))

    own = b"\0\0\0\x01\xff"
    return [
        connection("5.1.1/1", frame(HEADERS, WHOLE, 2, block)),
        connection("5.1.1/2", frame(HEADERS, WHOLE, 5, two[0]), frame(HEADERS, WHOLE, 3, two[1])),
        stream(
            "5.1.1/3",
            frame(HEADERS, WHOLE, 5, two[0]),
            frame(HEADERS, WHOLE, 5, two[1]),
            codes=(CLOSED,),
        ),
        stream("5.1.2/1", window(0), one_too_many, codes=(PROTOCOL, "REFUSED_STREAM")),
        stream("5.3.1/1", frame(HEADERS, WHOLE | HAS_PRIORITY, 1, own + block)),
        stream("5.3.1/2", priority(1, 1)),
        answered("5.4.1/1", "close", frame(PING, 0, 3, bytes(8))),
        answered("5.4.1/2", "goaway", frame(PING, 0, 3, bytes(8)), codes=(PROTOCOL,)),
        answered("5.5/1", "pong", UNKNOWN, PINGED),
        connection("5.5/2", frame(HEADERS, END_STREAM, 1, block), UNKNOWN),
    ]


def _frames(scheme: str) -> list[Spec]:
    block = Blocks(scheme).request()
    whole = frame(HEADERS, WHOLE, 1, block)
    done = frame(HEADERS, WHOLE, 1, Blocks(scheme).request("POST"))
    sized = frame(HEADERS, END_HEADERS, 1, Blocks(scheme).request("POST", ("content-length", "4")))
    blocks = Blocks(scheme)
    begun = frame(HEADERS, 0, 1, blocks.request())
    second, rest = blocks.request(), frame(CONTINUATION, END_HEADERS, 1, blocks.large())
    return [
        connection("6.1/1", frame(DATA, END_STREAM, 0, b"test")),
        stream("6.1/2", done, TEST, codes=(CLOSED,)),
        connection("6.1/3", sized, frame(DATA, END_STREAM | PADDED, 1, b"\x06Test")),
        connection("6.2/1", begun, priority(1), rest),
        connection("6.2/2", begun, frame(HEADERS, WHOLE, 3, second), rest),
        connection("6.2/3", frame(HEADERS, WHOLE, 0, block)),
        stream("6.2/4", frame(HEADERS, WHOLE | PADDED, 1, bytes([len(block) + 2]) + block)),
        connection("6.3/1", priority(0)),
        stream("6.3/2", whole, frame(2, 0, 1, b"\x80\0\0\x01"), codes=(SIZE,)),
        answered("6.3/3", "headers", priority(3), whole),
        connection("6.4/1", frame(RST_STREAM, 0, 0, CANCEL)),
        connection("6.4/2", RESET),
        stream("6.4/3", whole, frame(RST_STREAM, 0, 1, bytes(3)), codes=(SIZE,)),
    ]


def _settings_and_pings() -> list[Spec]:
    push_off = settings((2, 0))
    return [
        connection("6.5/1", frame(SETTINGS, ACK, 0, b"\0"), code=SIZE),
        connection("6.5/2", frame(SETTINGS, 0, 1, b"\0\x03\0\0\0\x64")),
        connection("6.5/3", frame(SETTINGS, 0, 0, b"\0\x03\0"), code=SIZE),
        connection("6.5.2/1", settings((2, 2))),
        connection("6.5.2/2", settings((4, 1 << 31)), code=FLOW),
        connection("6.5.2/3", settings((5, 16_383))),
        connection("6.5.2/4", settings((5, 1 << 24))),
        answered("6.5.2/5", "pong", settings((0xFF, 1)), PINGED),
        answered("6.5.3/2", "ack", push_off),
        answered("6.7/1", "pong", PINGED),
        answered("6.7/2", "pong", frame(PING, ACK, 0, b"invalid\0"), PINGED),
        connection("6.7/3", frame(PING, 0, 1, bytes(8))),
        connection("6.7/4", frame(PING, 0, 0, bytes(6)), code=SIZE),
        connection("6.8/1", frame(GOAWAY, 0, 1, bytes(8))),
        answered("7/1", "pong or close", frame(GOAWAY, 0, 0, bytes(7) + b"\xff"), PINGED),
    ]


def _windows(scheme: str) -> list[Spec]:
    whole = frame(HEADERS, WHOLE, 1, Blocks(scheme).request())
    opened = frame(HEADERS, END_HEADERS, 1, Blocks(scheme).request())
    post = frame(HEADERS, END_HEADERS, 1, Blocks(scheme).request("POST"))
    known = "wait for settings"
    return [
        answered("6.5.3/1", "one byte", settings((4, 100), (4, 1)), known, whole),
        connection("6.9/1", update(0, 0)),
        stream("6.9/2", opened, update(1, 0)),
        connection("6.9/3", frame(8, 0, 0, b"\0\0\x01"), code=SIZE),
        answered("6.9.1/1", "one byte", window(1), known, whole),
        answered("6.9.1/2", "goaway", update(0, MAXIMUM), update(0, MAXIMUM), codes=(FLOW,)),
        answered("6.9.1/3", "reset", opened, update(1, MAXIMUM), update(1, MAXIMUM), codes=(FLOW,)),
        answered("6.9.2/1", "one byte", window(0), known, whole, window(1), known),
        answered(
            "6.9.2/2",
            "one byte",
            *(window(3), known, whole, "wait for data", window(2), known, update(1, 2)),
        ),
        connection("6.9.2/3", settings((4, 1 << 31)), code=FLOW),
        answered("7/2", "pong", post, frame(RST_STREAM, 0, 1, b"\0\0\0\xff"), PINGED),
    ]


def _continuation(scheme: str) -> list[Spec]:
    blocks = Blocks(scheme)
    first = blocks.request()
    large = blocks.large(), blocks.large()
    begun, whole = frame(HEADERS, END_STREAM, 1, first), frame(HEADERS, WHOLE, 1, first)
    posts = Blocks(scheme)
    post, large_post = frame(HEADERS, 0, 1, posts.request("POST")), (posts.large(), posts.large())
    middle, last = frame(CONTINUATION, 0, 1, large[0]), frame(CONTINUATION, 4, 1, large[1])
    alone = frame(CONTINUATION, END_HEADERS, 1, large[0])
    middle_post = frame(CONTINUATION, 0, 1, large_post[0])
    return [
        answered("6.10/1", "headers", begun, middle, last),
        connection("6.10/2", begun, alone, last),
        connection("6.10/3", begun, frame(CONTINUATION, END_HEADERS, 0, large[0])),
        connection("6.10/4", whole, alone),
        connection("6.10/5", post, middle_post, TEST),
        connection(
            "6.10/6", post, TEST, middle_post, frame(CONTINUATION, END_HEADERS, 0, large_post[1])
        ),
    ]


def _messages(scheme: str) -> list[Spec]:
    fields = Blocks(scheme).fields()
    method, path_scheme, path, authority = fields
    heads = {
        "8.1.2/1": (*fields, ("X-TEST", "ok")),
        "8.1.2.1/1": (*fields, (":test", "ok")),
        "8.1.2.1/2": (*fields, (":status", "200")),
        "8.1.2.1/4": (("x-test", "ok"), *fields),
        "8.1.2.2/1": (*fields, ("connection", "keep-alive")),
        "8.1.2.2/2": (*fields, ("trailers", "test"), ("te", "trailers, deflate")),
        "8.1.2.3/1": (method, path_scheme, (":path", ""), authority),
        "8.1.2.3/2": (path_scheme, path, authority),
        "8.1.2.3/3": (method, path, authority),
        "8.1.2.3/4": (method, path_scheme, authority),
        "8.1.2.3/5": (*fields, method),
        "8.1.2.3/6": (*fields, path_scheme),
        "8.1.2.3/7": (*fields, path),
    }
    rows = [stream(k, frame(HEADERS, WHOLE, 1, Blocks().of(*v))) for k, v in heads.items()]
    for number, name, flags in [
        ("8.1/1", "x-test", END_HEADERS),
        ("8.1.2.1/3", ":method", WHOLE),
        ("8.1.2.1/3 (without END_STREAM)", ":method", END_HEADERS),
    ]:
        blocks = Blocks(scheme)
        post = frame(HEADERS, END_HEADERS, 1, blocks.request("POST"))
        value = "POST" if name == ":method" else "ok"
        trailers = frame(HEADERS, flags, 1, blocks.of((name, value)))
        rows.append(stream(number, post, frame(DATA, 0, 1, b"test"), trailers))
    short = Blocks(scheme).request("POST", ("content-length", "1"))
    sized = frame(HEADERS, END_HEADERS, 1, short)
    promise = struct.pack("!I", 3) + Blocks(scheme).request()
    return [
        *rows,
        stream("8.1.2.6/1", sized, TEST),
        stream("8.1.2.6/2", sized, frame(DATA, 0, 1, b"test"), TEST),
        connection("8.2/1", frame(PUSH_PROMISE, END_HEADERS, 1, promise)),
    ]
