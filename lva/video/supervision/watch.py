"""Watches a worker: whether it hangs, gets no data, gets no frames, grows too large, or is silent.

All times are of monotonic clocks.
"""

from __future__ import annotations

import time
from typing import Final

import trio

from lva.video.board import STEPS, Board
from lva.video.codes import Ended, StreamState
from lva.video.processes.process import WorkerProcess
from lva.video.supervision.stream import Stream

#: Seconds between two looks at a worker; for how long it may give no sign of life.
LOOK: Final = 0.5
SILENT: Final = 5.0
#: Seconds without a sign of life after which a source is not judged by what was read of it.
QUIET: Final = 1.5
#: Most processes that analytics plugins of a stream may have started and that run, and that have ended and
#: nobody has waited for.
MOST_PROCESSES: Final = 64
MOST_ENDED: Final = 500
#: Longest interval between two packets, in seconds, to which the limit of a stall adapts.
MOST_INTERVAL: Final = 120.0
#: Longest limit, in seconds, that only patience leads to; looks in a row that end it.
MOST_PATIENCE: Final = 75.0
QUICK: Final = 20
#: Least limit, in seconds, on loading a plugin: large libraries and models take their time.
LOADING: Final = 120.0
_LOADING: Final = STEPS.index("loading")
_SECOND: Final = 1e9


class StallLimit:
    """For how long no data may come: it adapts to what was seen, over all connections of a stream.

    One frame a minute is no stall: the limit is doubled with each stall, and is several of the intervals that
    were seen. A stream that is quick is judged by its `timeout` again.

    Args:
        timeout: The stream's, in seconds.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._longest = 0.0  # seconds between two packets, so far
        self._patience = 1.0
        self._quick = 0
        self._last_packet = 0

    @property
    def seconds(self) -> float:
        """The limit now."""
        patient = min(self._timeout * self._patience, max(self._timeout, MOST_PATIENCE))
        return max(patient, 4 * self._longest)

    def note_packet(self, at: int) -> None:
        """Take the time of the newest packet, in monotonic nanoseconds, at each look."""
        if at == self._last_packet:
            return
        interval = (at - self._last_packet) / _SECOND
        if self._last_packet and interval < MOST_INTERVAL:
            self._longest = max(self._longest, interval)
            self._quick = self._quick + 1 if interval <= self._timeout else 0
            if self._quick >= QUICK:
                self._patience = 1.0
        self._last_packet = at

    def note_stall(self) -> None:
        """Be more patient the next time."""
        self._quick = 0
        if self.seconds < MOST_PATIENCE:
            self._patience *= 2


class Watch:
    """The watch over one worker of a stream.

    Args:
        stream: It.
        worker: The process.
        stall: The stream's limit.
    """

    def __init__(self, stream: Stream, worker: WorkerProcess, stall: StallLimit) -> None:
        self._stream = stream
        self._worker = worker
        self._stall = stall
        self._began = time.monotonic_ns()
        self._same = False

    async def run(self) -> Ended:
        """Look at the worker from time to time; return what it is to be ended for.

        After a pause of the service itself, nobody is judged for a while.

        Cancellation: ends the watch; the worker is not touched.
        """
        looked = trio.current_time()
        judge_from = 0.0
        while True:
            await trio.sleep(LOOK)
            now = trio.current_time()
            if now - looked > LOOK + 1:
                judge_from = now + SILENT
            looked = now
            self._stream.look(self._worker)
            if now < judge_from:
                continue
            ended = (
                self._hung()
                or self._stalled()
                or self._too_large()
                or self._too_many()
                or self._silent()
            )
            if ended is not None:
                self._worker.hangs = True
                return ended
            self._note_same_picture()

    def _hung(self) -> Ended | None:
        limit = self._stream.definition.analytics_timeout
        board = self._worker.board
        if board["step"] == _LOADING:
            limit = max(limit, LOADING)
        if not board["step"] or _seconds_since(board["step_since"]) <= limit:
            return None
        step = self._worker.step()
        if step is None:
            return None
        return Ended("analytics_hung", f"{step[1]} took longer than {limit:g} s", blamed=step[0])

    def _stalled(self) -> Ended | None:
        if self._quiet() > QUIET:  # who reads the source cannot run either: it says nothing of that
            return None
        board, timeout = self._worker.board, self._stream.definition.timeout
        reading = board["reading_since"]
        if self._stream.state is not StreamState.IN_PROGRESS:
            # FFmpeg's own limit counts for opening and once more for looking into the stream.
            limit = 2 * self._stall.seconds + 1
            if reading and _seconds_since(reading) > limit:
                self._stall.note_stall()
                return Ended("timeout", f"no frame within {limit:g} s of connecting")
            return None
        if not reading or not self._stream.source.live:
            limit = 10 * timeout
            silent = bool(reading) and _seconds_since(reading) > limit
            return Ended("stalled", f"one read took longer than {limit:g} s") if silent else None
        return self._without_data(board)

    def _without_data(self, board: Board) -> Ended | None:
        waits, limit = _seconds_since(board["last_packet"]), self._stall.seconds
        if waits > limit:
            self._stall.note_stall()
            return Ended("stalled", f"no data for {limit:.1f} s")
        self._stall.note_packet(board["last_packet"])
        silent_frames = (board["last_packet"] - board["last_frame"]) / _SECOND
        if silent_frames > 3 * limit:
            return Ended("stalled", f"data, but no frame for {silent_frames:.1f} s")
        return None

    def _too_large(self) -> Ended | None:
        limit = self._stream.definition.memory_limit
        own, started = self._worker.memory() or 0, self._worker.board["processes_bytes"]
        if own + started <= limit:
            return None
        more = f"of memory, more than {limit // 2**20} MiB"
        if own <= limit:
            whose = f"{started // 2**20} of them of processes that analytics plugins started"
            what = f"{(own + started) // 2**20} MiB {more}; {whose}"
            return Ended("memory_limit", what, blamed=self._worker.culprit())
        size = f"{own // 2**20} MiB {more}"
        if (grown := self._worker.grew_most(own)) is None:
            return Ended("memory_limit", size)
        analytics, added = grown
        return Ended(
            "memory_limit", f"{size}; {added // 2**20} MiB of it in {analytics}", blamed=analytics
        )

    def _too_many(self) -> Ended | None:
        board = self._worker.board
        if (count := board["processes"]) > MOST_PROCESSES:
            what = (
                f"analytics plugins started {count} processes, more than {MOST_PROCESSES} at once"
            )
        elif (count := board["ended_processes"]) > MOST_ENDED:
            what = f"analytics plugins did not wait for {count} processes that have ended"
        else:
            return None
        return Ended("process_limit", what, blamed=self._worker.culprit())

    def _note_same_picture(self) -> None:
        """Warn of a live picture that does not change, and tell when it does again."""
        stream, board = self._stream, self._worker.board
        limit = stream.definition.same_picture_limit
        if limit is None or not stream.source.live or not board["last_change"]:
            return
        same = (board["last_frame"] - board["last_change"]) / _SECOND > limit
        if same == self._same or stream.state is not StreamState.IN_PROGRESS:
            return
        self._same = same
        if same:
            why = f"frames come, but the picture has not changed for {limit:g} s"
            stream.move(stream.state, why, "same_picture")
        else:
            stream.move(stream.state, "the picture changes again")

    def _silent(self) -> Ended | None:
        # Native code that computes in a plugin may keep the interpreter from everything else.
        step = self._worker.step()
        limit = SILENT if step is None else max(SILENT, self._stream.definition.analytics_timeout)
        if self._quiet() <= limit:
            return None
        silence = f"no sign of life of the worker for {limit:.0f} s"
        if step is None:
            return Ended("worker_silent", silence)
        return Ended("worker_silent", f"{silence}, in {step[1]}", blamed=step[0])

    def _quiet(self) -> float:
        """Return for how many seconds there was no sign of life; it comes once a second."""
        return _seconds_since(self._worker.board["alive"] or self._began)


def _seconds_since(nanoseconds: int) -> float:
    return (time.monotonic_ns() - nanoseconds) / _SECOND
