"""What clients may send: requests, HTTP/2 frames, WebSocket handshakes; well-formed, broken, misplaced."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import hpack
from hyperframe import frame as frames

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PATHS = (
    "/livez",
    "/nothing",
    "/echo",
    "/openapi.json",
    "/%ff",
    "*",
    "",
    "livez",
    "/echo?" + "x" * 300,
)
HANDSHAKE = (
    b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
UPGRADE = (
    b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n"
)
_HEADS = (
    b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /livez HTTP/1.0\r\n\r\n",
    b"HEAD /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"POST /nothing HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\nhello",
    UPGRADE,
    HANDSHAKE,
    b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
    PREFACE,
)


def anything(rng: random.Random) -> list[bytes]:
    """Return what one client sends, piece by piece."""
    make: Callable[[random.Random], bytes] = rng.choice((_http1, _http2, _http2, _websocket))
    data = make(rng)
    if rng.random() < 0.4:
        data = _spoiled(data, rng)
    return _pieces(data, rng)


def _http1(rng: random.Random) -> bytes:
    return b"".join(rng.choice(_HEADS) for _ in range(rng.randint(1, 4)))


def _websocket(rng: random.Random) -> bytes:
    return HANDSHAKE + b"".join(_websocket_frame(rng) for _ in range(rng.randint(0, 20)))


def _websocket_frame(rng: random.Random) -> bytes:
    body = rng.randbytes(rng.randint(0, 125))
    mask = rng.choice((0, 0x80))
    return bytes([rng.randrange(256), mask | len(body)]) + body


def _http2(rng: random.Random) -> bytes:
    encoder = hpack.Encoder()
    made = [_frame(rng, encoder) for _ in range(rng.randint(1, 25))]
    opening = [frames.SettingsFrame(0), _headers(rng, encoder, 1)]
    rng.shuffle(opening)
    sent = (opening if rng.random() < 0.9 else []) + made
    return PREFACE + b"".join(frame.serialize() for frame in sent)


def _frame(rng: random.Random, encoder: hpack.Encoder) -> frames.Frame:
    stream = rng.choice((0, 1, 1, 1, 2, 3, 3, 5, 2**31 - 1))
    number = stream or 1
    kind = rng.randrange(12)
    made: frames.Frame
    match kind:
        case 0 | 1:
            made = _headers(rng, encoder, number)
        case 2 | 3 | 4:
            made = frames.DataFrame(number, rng.randbytes(rng.choice((0, 1, 1000, 16_384))))
            if rng.random() < 0.3:
                made.flags.add("END_STREAM")
        case 5:
            made = frames.RstStreamFrame(number, rng.randrange(14))
        case 6:
            made = frames.PriorityFrame(
                number, rng.choice((0, 1, 3, number)), rng.randrange(256), bool(rng.randrange(2))
            )
        case 7:
            made = frames.WindowUpdateFrame(stream, rng.choice((1, 65_535, 2**31 - 1)))
        case 8:
            made = frames.SettingsFrame(
                0, {rng.randrange(1, 10): rng.choice((0, 1, 16_384, 2**31 - 1))}
            )
        case 9:
            made = frames.PingFrame(0, rng.randbytes(8))
        case 10:
            made = frames.GoAwayFrame(0, rng.randrange(9), rng.randrange(14))
        case _:
            made = frames.ContinuationFrame(number, rng.randbytes(rng.randrange(30)))
    return made


def _headers(rng: random.Random, encoder: hpack.Encoder, stream: int) -> frames.HeadersFrame:
    method = rng.choice(("GET", "POST", "POST", "CONNECT", "BREW"))
    fields = [
        (":method", method),
        (":scheme", "http"),
        (":authority", "x"),
        (":path", rng.choice(PATHS)),
    ]
    if method == "CONNECT" and rng.random() < 0.5:
        fields += [(":protocol", "websocket"), ("sec-websocket-version", "13")]
    if rng.random() < 0.2:
        del fields[rng.randrange(len(fields))]
    if rng.random() < 0.3:
        fields.append(rng.choice((("te", "trailers"), ("content-length", "5"), ("Upper", "x"))))
    made = frames.HeadersFrame(stream, encoder.encode(fields))
    made.flags |= {"END_HEADERS"} if rng.random() < 0.9 else set()
    made.flags |= {"END_STREAM"} if rng.random() < 0.3 else set()
    return made


def _spoiled(data: bytes, rng: random.Random) -> bytes:
    spoiled = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(spoiled) + 1)
        match rng.randrange(4):
            case 0:
                spoiled[at:at] = rng.randbytes(rng.randint(1, 20))
            case 1:
                del spoiled[at : at + rng.randint(1, 20)]
            case 2:
                spoiled[at : at + 1] = rng.randbytes(1)
            case _:
                spoiled[at:at] = spoiled[max(0, at - 40) : at]
    return bytes(spoiled)


def _pieces(data: bytes, rng: random.Random) -> list[bytes]:
    """Cut data at up to three places."""
    at = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(4)))
    return [piece for piece in _between(data, [0, *at, len(data)]) if piece]


def _between(data: bytes, at: Sequence[int]) -> list[bytes]:
    return [data[begin:end] for begin, end in zip(at, at[1:], strict=False)]
