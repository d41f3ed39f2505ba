"""Reads a source with PyAV: packets, frames, and their times made monotonic. The worker's side.

PyAV is used here, in `opening`, `failures` and `frame`: only what its versions 18 and 19 have alike, so that
nothing has to know which of them it is. https://pyav.org
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import av.error

from lva.video.board import Board
from lva.video.worker.failures import ConnectionLostError, failure_of
from lva.video.worker.opening import open_source

#: A step of the source's clock that is larger than this, in seconds, or backwards, is a jump: times go on
#: from the frame before.
LARGEST_STEP: Final = 5.0
#: Longest wait, in seconds, for the time of a frame that came in a burst.
MOST_WAIT: Final = 1.0
#: Formats without times: FFmpeg makes them up, at 25 frames a second.
_WITHOUT_TIMES: Final = ("mpjpeg", "mjpeg", "jpeg_pipe", "h264", "hevc")
#: Packets in a row that could not be decoded, after which the connection is given up.
MOST_ERRORS: Final = 100
#: Threads that decode a file, at most.
MOST_THREADS: Final = 4


class PresentationTimes:
    """Makes frames' times monotonic: a jump of the source's clock does not become one here.

    Args:
        board: Counts jumps.
        interval: What a frame lasts if its neighbours do not say, in seconds.
    """

    def __init__(self, board: Board, interval: float = 0.04) -> None:
        self._board = board
        self._interval = interval
        self._before: float | None = None
        self._shift = 0.0
        self._now: float | None = None

    def of(self, time_of_frame: float | None) -> float:
        """Return the time for a frame with this time, or without one; in seconds from the first."""
        following = 0.0 if self._now is None else self._now + self._interval
        if time_of_frame is None:
            self._now = following
            return following
        step = None if self._before is None else time_of_frame - self._before
        if step is not None and 0 < step <= LARGEST_STEP:
            self._interval = step
        else:
            self._shift = following - time_of_frame
            if step is not None:
                self._board.add("time_jumps")
        self._before = time_of_frame
        self._now = time_of_frame + self._shift
        return self._now


class Playback:
    """Gives frames that come in bursts, as segments of a playlist do, their own pace again."""

    def __init__(self) -> None:
        self._began: float | None = None

    def wait_for(self, time_of_frame: float) -> None:
        """Wait until a frame is due, for a second at most; who is late does not catch up."""
        now = time.monotonic()
        if self._began is None or now - self._began - time_of_frame > MOST_WAIT:
            self._began = now - time_of_frame
        time.sleep(min(max(0.0, self._began + time_of_frame - now), MOST_WAIT))


class Decoder:
    """One connection to a source.

    Resources: the connection, until `close`; where the source cannot be used, it is closed.

    Args:
        source: As `lva.video.source.Source.as_message` gives it.
        timeout: Seconds for opening it, and for each read.
        board: Counts packets and errors, and says whether a call of FFmpeg's is under way.

    Raises:
        ConnectionLostError: It cannot be opened.
    """

    def __init__(self, source: Mapping[str, Any], timeout: float, board: Board) -> None:
        self._board = board
        self._live = bool(source["live"])
        self._errors = 0
        board["reading_since"] = time.monotonic_ns()  # a call that may block for ever
        try:
            self._container = open_source(source, timeout)
        finally:
            board["reading_since"] = 0
        try:
            self._look(source)
        except BaseException:
            with suppress(Exception):  # what is wrong is known
                self.close()  # a camera may serve one at a time, and the garbage collector comes late
            raise

    def _look(self, source: Mapping[str, Any]) -> None:
        """Look at what was opened, and say how it is to be decoded."""
        self._stream = self._video()
        context = self._stream.codec_context
        # Threads that decode ahead make a file faster, and would make a live picture older.
        self._stream.thread_type = "NONE" if self._live else "AUTO"
        context.thread_count = 1 if self._live else min(MOST_THREADS, len(os.sched_getaffinity(0)))
        rate = self._stream.average_rate
        self.info: dict[str, Any] = {
            "codec": context.name,
            "width": context.width,
            "height": context.height,
            "declared_fps": round(float(rate), 3) if rate else None,
        }
        self._times = PresentationTimes(self._board, 1 / float(rate) if rate else 0.04)
        self._size: tuple[int, int] | None = None
        self._by_arrival = self._live and self._container.format.name in _WITHOUT_TIMES
        self._playback = Playback() if source["kind"] == "hls" else None

    def _video(self) -> Any:
        streams = self._container.streams.video
        if not streams:
            raise ConnectionLostError("no_video", "there is no video in it")
        if streams[0].codec_context is None:
            raise ConnectionLostError("unsupported", "there is no decoder for its video")
        return streams[0]

    def frames(self) -> Iterator[tuple[Any, float]]:
        """Yield pictures and their times in seconds until the source ends.

        Raises:
            ConnectionLostError: The connection breaks, or too many packets in a row cannot be decoded.
        """
        packets = self._container.demux(self._stream)
        while True:
            packet = self._next_packet(packets)
            if packet is None:
                return
            for picture in self._decode(packet):
                size = picture.width, picture.height
                if size != self._size:
                    if self._size is not None:
                        self._board.add("size_changes")
                    self._size = size
                self._board["last_frame"] = time.monotonic_ns()
                at = self._times.of(time.monotonic() if self._by_arrival else picture.time)
                if self._playback is not None:
                    self._playback.wait_for(at)
                yield picture, at

    def _next_packet(self, packets: Iterator[Any]) -> Any:
        self._board["reading_since"] = time.monotonic_ns()
        try:
            packet = next(packets, None)
        except Exception as error:
            if _is_end(error):
                return None
            raise failure_of(error) from error
        finally:
            self._board["reading_since"] = 0
        if packet is not None and packet.size:
            self._board.note_packet(packet.size)
        return packet

    def _decode(self, packet: Any) -> Sequence[Any]:
        self._board["reading_since"] = time.monotonic_ns()
        try:
            pictures = packet.decode()
        except Exception as error:
            if _is_end(error):
                return []
            self._board.add("decode_errors")
            self._errors += 1
            if self._errors >= MOST_ERRORS:
                reason = failure_of(error)
                raise ConnectionLostError("invalid_data", str(reason)) from error
            return []
        finally:
            self._board["reading_since"] = 0
        if pictures:
            self._errors = 0
        found: Sequence[Any] = pictures
        return found

    def close(self) -> None:
        """Close the connection; only the thread that reads may call it."""
        self._board["reading_since"] = time.monotonic_ns()
        try:
            self._container.close()
        finally:
            self._board["reading_since"] = 0


def _is_end(error: Exception) -> bool:
    return isinstance(error, av.error.EOFError)
