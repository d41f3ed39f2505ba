"""Shared memory of one worker process: what it counts and where it is, readable after it has died.

An anonymous file (memfd) that both sides map: it has no name, so that nothing is left of it. Each slot
is one aligned 64-bit number and has one thread that writes it.
"""

from __future__ import annotations

import faulthandler
import mmap
import os
import time
from bisect import bisect_left
from collections.abc import Mapping
from typing import Final

#: Frames that were not looked at because nobody wanted to: the rate, no key frame, damaged.
SKIPPED: Final = ("rate", "not_key", "corrupt")
#: Frames that were wanted, and not looked at: analytics had no time, the frame was too old (none ever is: the
#: newest takes its place), the stream ended.
DROPPED: Final = ("busy", "stale", "stop")
#: Steps of the analytics' thread, in the order of the numbers in the slot `step`.
STEPS: Final = ("waiting", "loading", "open", "handleFrame", "close")
#: Most analytics plugins of one stream.
MOST_ANALYTICS: Final = 50
#: Upper ends in milliseconds of the classes of frames' ages; the last has no end.
AGES: Final = (5, 10, 20, 35, 50, 75, 100, 150, 200, 300, 500, 750, 1000, 2000, 5000, 10_000)

_COUNTERS: Final = (
    "packets",
    "bytes",
    "decode_errors",
    "time_jumps",
    "size_changes",
    "decoded",
    "analysed",
    "failed",
    *(f"skipped_{reason}" for reason in SKIPPED),
    *(f"dropped_{reason}" for reason in DROPPED),
    *(f"age_{number}" for number in range(len(AGES) + 1)),
    "age_max_ms",
)
_PLACES: Final = (
    "alive",  # when the worker last noted that it is; monotonic ns
    "reading_since",  # monotonic ns; 0 while no call of the decoder's library is under way
    "last_packet",
    "last_frame",
    "last_change",  # when the picture last differed from the one before it
    "step",
    "step_since",
    "step_analytics",
    "step_frame",
    "step_memory",  # resident bytes when the step began, without what is the frame's
    "memory_begun",  # resident bytes before plugins were loaded
    *(f"grown_{number}" for number in range(MOST_ANALYTICS)),  # bytes added in a plugin's calls
    "processes",  # that analytics plugins started, and run
    "ended_processes",  # of those, and nobody has waited for them
    "processes_bytes",
)
_SLOT: Final = {name: number for number, name in enumerate((*_COUNTERS, *_PLACES))}
#: Of those that are written for each frame.
_PACKETS, _BYTES, _LAST_PACKET = _SLOT["packets"], _SLOT["bytes"], _SLOT["last_packet"]
_STEP, _STEP_SINCE = _SLOT["step"], _SLOT["step_since"]
_STEP_ANALYTICS, _STEP_FRAME = _SLOT["step_analytics"], _SLOT["step_frame"]
_FIRST_AGE, _AGE_MAX = _SLOT["age_0"], _SLOT["age_max_ms"]
_SIZE: Final = 8 * len(_SLOT)
#: Bytes behind the slots in which a process that crashes writes where in Python it was.
_LAST_WORDS: Final = 16 * 1024


class Board:
    """The shared memory of one worker.

    Resources: the map, until `close`.

    Args:
        descriptor: Of the memfd, which the board does not close; its map has a descriptor of its own.
    """

    def __init__(self, descriptor: int) -> None:
        self._map = mmap.mmap(descriptor, _SIZE + _LAST_WORDS)
        self._slots = memoryview(self._map)[:_SIZE].cast("q")

    def __getitem__(self, name: str) -> int:
        return self._slots[_SLOT[name]]

    def __setitem__(self, name: str, value: int) -> None:
        self._slots[_SLOT[name]] = value

    def add(self, name: str, count: int = 1) -> None:
        """Count; only the slot's own thread may."""
        self._slots[_SLOT[name]] += count

    def note_packet(self, size: int) -> None:
        """Count a packet of so many bytes."""
        slots = self._slots
        slots[_PACKETS] += 1
        slots[_BYTES] += size
        slots[_LAST_PACKET] = time.monotonic_ns()

    def note_age(self, milliseconds: float) -> None:
        """Count the age of a frame when it was looked at."""
        slots = self._slots
        slots[_FIRST_AGE + bisect_left(AGES, milliseconds)] += 1
        if milliseconds > slots[_AGE_MAX]:
            slots[_AGE_MAX] = int(milliseconds)

    def begin_step(self, step: int, analytics: int, frame: int) -> None:
        """Note which step (its place in `STEPS`) of which analytics plugin begins, and of which frame."""
        slots = self._slots
        slots[_STEP_ANALYTICS], slots[_STEP_FRAME] = analytics, frame
        slots[_STEP_SINCE], slots[_STEP] = time.monotonic_ns(), step

    def end_step(self) -> None:
        """Note that no analytics plugin is at work."""
        self._slots[_STEP] = 0

    def counts(self) -> dict[str, int]:
        """Return all counters by name."""
        return {name: self[name] for name in _COUNTERS}

    @property
    def last_words(self) -> str:
        """What the process wrote when it crashed."""
        return self._map[_SIZE:].partition(b"\0")[0].decode(errors="backslashreplace").strip()

    def close(self) -> None:
        """Unmap the memory."""
        self._slots.release()
        self._map.close()


def take_last_words(descriptor: int) -> None:
    """Let this process, should it crash, write to the board's descriptor, which stays open."""
    os.lseek(descriptor, _SIZE, os.SEEK_SET)
    faulthandler.enable(descriptor)


def new_board() -> tuple[Board, int]:
    """Return a board with all slots 0, and the descriptor to give to the worker.

    Resources: both are the caller's to close.

    Raises:
        OSError: No descriptor can be had.
    """
    descriptor = os.memfd_create("lva-stream", os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, _SIZE + _LAST_WORDS)
        return Board(descriptor), descriptor
    except BaseException:
        os.close(descriptor)
        raise


class FrameLedger:
    """What became of a stream's frames, over all of its workers.

    At every moment ``decoded = analysed + failed + skipped + dropped + held``. A worker that ends, however it
    does, holds nothing any more: what it held is dropped, by `stop`.
    """

    def __init__(self) -> None:
        self._past: dict[str, int] = dict.fromkeys(_COUNTERS, 0)
        self._board: Board | None = None
        #: Reconnects, by the code of what ended the connection before.
        self.reconnects: dict[str, int] = {}

    def begin(self, board: Board) -> None:
        """Count on a worker's board from now on."""
        self._board = board

    def end(self) -> None:
        """Take over what the worker counted; it has ended."""
        if self._board is None:
            return
        for name, count in self._board.counts().items():
            if name == "age_max_ms":
                self._past[name] = max(self._past[name], count)
            else:
                self._past[name] += count
        self._board = None
        self._past["dropped_stop"] += held_of(self._past)

    @property
    def decoded(self) -> int:
        """How many frames were decoded until now."""
        return self._past["decoded"] + (0 if self._board is None else self._board["decoded"])

    def counts(self) -> dict[str, int]:
        """Return all counters as they are now."""
        if self._board is None:
            return dict(self._past)
        now = _consistent(self._board)
        largest = max(now["age_max_ms"], self._past["age_max_ms"])
        return {name: self._past[name] + count for name, count in now.items()} | {
            "age_max_ms": largest
        }

    def frames(self) -> dict[str, object]:
        """Return the account of frames, as `/streams/ID` shows it."""
        counts = self.counts()
        return {
            "decoded": counts["decoded"],
            "analysed": counts["analysed"],
            "failed": counts["failed"],
            "skipped": {reason: counts[f"skipped_{reason}"] for reason in SKIPPED},
            "dropped": {reason: counts[f"dropped_{reason}"] for reason in DROPPED},
            "held": held_of(counts),
        }

    def source(self) -> dict[str, object]:
        """Return what was read: packets, bytes, errors, jumps, changes and reconnects by code."""
        counts = self.counts()
        names = ("packets", "bytes", "decode_errors", "time_jumps", "size_changes")
        return {name: counts[name] for name in names} | {"reconnects": dict(self.reconnects)}

    def ages(self) -> dict[str, float | None]:
        """Return p50, p95 and the maximum of frames' ages when they were looked at, in milliseconds.

        The percentiles are upper ends of classes (`AGES`); None before the first frame.
        """
        counts = self.counts()
        classes = [counts[f"age_{number}"] for number in range(len(AGES) + 1)]
        largest = counts["age_max_ms"]
        return {
            "p50": _percentile(classes, 0.5, largest),
            "p95": _percentile(classes, 0.95, largest),
            "max": float(largest) if sum(classes) else None,
        }


def _consistent(board: Board) -> dict[str, int]:
    """Return counters in which no frame is counted as done before it is counted as decoded.

    The worker counts on while it is read: `decoded` is therefore read last.
    """
    counts = board.counts()
    counts["decoded"] = board["decoded"]
    return counts


def held_of(counts: Mapping[str, int]) -> int:
    """Return how many frames are neither looked at nor given up."""
    gone = counts["analysed"] + counts["failed"]
    gone += sum(counts[f"skipped_{reason}"] for reason in SKIPPED)
    gone += sum(counts[f"dropped_{reason}"] for reason in DROPPED)
    return counts["decoded"] - gone


def _percentile(classes: list[int], share: float, largest: int) -> float | None:
    wanted, seen = share * sum(classes), 0
    if not wanted:
        return None
    for count, end in zip(classes, (*AGES, largest), strict=True):
        seen += count
        if seen >= wanted:
            return float(min(end, largest))
    return float(largest)
