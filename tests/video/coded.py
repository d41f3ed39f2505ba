"""Small coded pictures for tests: JPEG, H.264, files, and MPEG-TS written by hand: it may be wrong."""

from __future__ import annotations

import io
from collections.abc import Iterator
from fractions import Fraction
from functools import cache
from typing import Any, Final

import av
import numpy as np

#: Frames from one key frame to the next, and frames a second, of what is coded here.
GROUP: Final = 12
RATE: Final = 25


def jpeg(number: int, size: tuple[int, int] = (64, 48)) -> bytes:
    """Return a JPEG whose brightness tells its number."""
    from lva.video.frame import encode_jpeg

    return encode_jpeg(av.VideoFrame.from_ndarray(_array(number * 20, size), format="rgb24"))


def video(frames: int = 24, fps: int = 12, codec: str = "mpeg4", format: str = "mp4") -> bytes:  # noqa: A002
    """Return a file of video."""
    coded = io.BytesIO()
    with av.open(coded, "w", format=format) as container:
        stream: Any = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(frames):
            picture = av.VideoFrame.from_ndarray(_array(number * 10, (64, 48)), format="rgb24")
            for packet in stream.encode(picture):
                container.mux(packet)
        container.mux(stream.encode(None))
    return coded.getvalue()


@cache
def h264(size: tuple[int, int] = (64, 48)) -> tuple[bytes, ...]:
    """Return a group of H.264 pictures: a key frame with its parameters, and those that build on it.

    Of the size 0, there is one that cannot be decoded.
    """
    if size == (0, 0):
        return (b"\0\0\0\1\x41" + b"\xff" * 99,) * GROUP
    context: Any = av.CodecContext.create("libx264", "w")
    context.width, context.height, context.pix_fmt = *size, "yuv420p"
    context.time_base, context.gop_size = Fraction(1, RATE), GROUP
    context.options = {"preset": "ultrafast", "tune": "zerolatency"}
    coded = []
    for number in range(GROUP):
        picture = av.VideoFrame.from_ndarray(_array(number * 20, size), format="rgb24")
        picture.pts = number
        coded += [bytes(packet) for packet in context.encode(picture)]
    assert len(coded) == GROUP
    return tuple(coded)


def units(picture: bytes) -> list[bytes]:
    """Return the NAL units of a picture of H.264."""
    return [unit.rstrip(b"\0") for unit in picture.split(b"\0\0\1") if unit.rstrip(b"\0")]


def _array(brightness: int, size: tuple[int, int]) -> np.ndarray[Any, Any]:
    return np.full((size[1], size[0], 3), brightness % 256, np.uint8)


class TransportStream:
    """MPEG-TS of one elementary stream.

    Args:
        kind: The number of its type: 0x1b is H.264, 0x03 is audio.
    """

    _TABLES: Final = (0, 0x100)
    _STREAM: Final = 0x101

    def __init__(self, kind: int = 0x1B) -> None:
        programs = bytes([0, 1, 0xE1, 0])
        streams = bytes([0xE1, 1, 0xF0, 0, kind, 0xE1, 1, 0xF0, 0])
        self._sections = (_section(0, programs), _section(2, streams))
        self._audio = kind == 0x03
        self._counts: dict[int, int] = {}

    def picture(self, coded: bytes, at: float) -> bytes:
        """Return the packets of one picture, with the tables before it.

        Args:
            coded: The picture.
            at: Its time in seconds.
        """
        tables = [
            self._packet(pid, b"\0" + section, start=True, fill=True)
            for pid, section in zip(self._TABLES, self._sections, strict=True)
        ]
        time = int(at * 90_000) % 2**33
        stamp = bytes(
            [
                0x21 | time >> 29 & 0x0E, time >> 22 & 0xFF, 0x01 | time >> 14 & 0xFE,
                time >> 7 & 0xFF, 0x01 | time << 1 & 0xFE,
            ]
        )  # fmt: skip
        head = b"\0\0\1" + (b"\xc0" if self._audio else b"\xe0") + b"\0\0\x80\x80\x05" + stamp
        body = head + coded
        return b"".join([*tables, *self._packets(body)])

    def _packets(self, body: bytes) -> Iterator[bytes]:
        for first in range(0, len(body), 184):
            yield self._packet(self._STREAM, body[first : first + 184], start=first == 0)

    def _packet(self, pid: int, payload: bytes, start: bool, fill: bool = False) -> bytes:
        count = self._counts[pid] = (self._counts.get(pid, -1) + 1) % 16
        head = bytes([0x47, (0x40 if start else 0) | pid >> 8, pid & 0xFF])
        if fill:
            return head + bytes([0x10 | count]) + payload.ljust(184, b"\xff")
        if (room := 184 - len(payload)) == 0:
            return head + bytes([0x10 | count]) + payload
        field = bytes([room - 1]) + (b"\0".ljust(room - 1, b"\xff") if room > 1 else b"")
        return head + bytes([0x30 | count]) + field + payload


def _section(table: int, body: bytes) -> bytes:
    head = bytes([table, 0xB0, len(body) + 9, 0, 1, 0xC1, 0, 0])
    return head + body + _crc(head + body).to_bytes(4, "big")


def _crc(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ 0x04C11DB7 if crc & 0x80000000 else crc << 1) & 0xFFFFFFFF
    return crc
