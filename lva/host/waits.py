"""How long a step of the event loop waits for what is no doing of its own: for its turn with the interpreter,
for a thread that has yet to start.

Where the kernel tells (Linux does), a wait for a turn shows in how often the thread is woken meanwhile: it
asks again every few milliseconds. Whoever sleeps, or waits for a socket or a lock, is not woken at all.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping
from types import FrameType
from typing import Final, NamedTuple

from lva.host.processor import Schedule, schedules

#: The part of a time that other threads of the process must have wanted a processor for, with or without
#: getting it, if somebody waited for them: when that shows, and when it is only likely, since a lock is
#: waited for.
_OTHERS: Final = 0.25
_OTHERS_AND_A_LOCK: Final = 0.5
#: The same where only what they got is known: on a busy machine that is a small part of what they wanted.
_OTHERS_HAD: Final = 0.05
#: For so many times the limit at most, a lock that is waited for next to a busy thread is no hold.
MOST_FOR_A_LOCK: Final = 10


class Look(NamedTuple):
    """What was seen at a time.

    Attributes:
        at: When (`time.monotonic()`).
        loop: What the kernel told of the event loop's thread.
        all_used: How much processor time the process had had.
        others: How much processor time each other thread had had, or waited for, by then. Not this one.
            None if that was not looked at.
        frame: Where the event loop's thread was, if that was looked at.
    """

    at: float
    loop: Schedule
    all_used: float
    others: Mapping[int, float] | None = None
    frame: FrameType | None = None

    def others_since(self, earlier: Look) -> float:
        """Return for how long other threads have wanted a processor.

        What they have waited for one is in it only if both times they were looked at.
        """
        if self.others is None or earlier.others is None:
            loop = self.loop.used - earlier.loop.used
            return max(0.0, self.all_used - earlier.all_used - loop)
        before = earlier.others
        return sum(wanted - before.get(thread, 0.0) for thread, wanted in self.others.items())


class Waits:
    """What one step after the other waits for. In the watchdog's thread only.

    Args:
        limit: What counts as a hold, in seconds.

    Attributes:
        for_a_turn: How long the step at hand has waited for its turn with the interpreter, or for a thread to
            start, in seconds. Waits for a processor are not in it.
        for_a_lock: The same for a lock while another thread was busy, to which it may belong.
        unexplained: How much of the time between the last two looks it neither ran nor waited, as far as is
            known. The kernel tells of a wait for a processor once it is over, so it may be that.
    """

    def __init__(self, limit: float) -> None:
        self._most_for_a_lock = MOST_FOR_A_LOCK * limit
        self._last: Look | None = None
        self._first_close: Look | None = None
        self.for_a_turn: float = 0.0
        self.for_a_lock: float = 0.0
        self.unexplained: float = 0.0

    @property
    def seconds(self) -> float:
        """For how long the step at hand has waited in all."""
        return self.for_a_turn + min(self.for_a_lock, self._most_for_a_lock)

    def forget(self) -> None:
        """Begin anew: another step runs."""
        self._last = self._first_close = None
        self.for_a_turn = self.for_a_lock = self.unexplained = 0.0

    def skip(self) -> None:
        """Leave out what has gone by since the last look."""
        self._last = None

    def look(self, look: Look | None) -> None:
        """Take note of what the step has waited for since the last look.

        Args:
            look: None where the kernel does not tell.
        """
        last, self._last = self._last, look
        self.unexplained = 0.0
        if self._first_close is None and look is not None and look.others is not None:
            self._first_close = look
        if last is None or look is None:
            return
        waited_before = self.for_a_turn + self.for_a_lock
        lasted = look.at - last.at
        queued = look.loop.queued - last.loop.queued
        slept = max(0.0, lasted - queued - (look.loop.used - last.loop.used))
        others = look.others_since(last)
        if starts_a_thread(look.frame):
            self.for_a_turn += slept
        elif others >= _OTHERS_AND_A_LOCK * lasted and _waits_for_a_lock(look.frame):
            self.for_a_lock += slept
        elif others >= slept * (_OTHERS_HAD if last.others is None else _OTHERS):
            turns = look.loop.turns - last.loop.turns
            self.for_a_turn += min(slept, turns * sys.getswitchinterval())
        self.unexplained = slept - (self.for_a_turn + self.for_a_lock - waited_before)

    def wanted_by(self, thread: int | None) -> float:
        """Return for how long another thread has wanted a processor, with or without getting it.

        Since this step was first looked at closely; the thread's `threading.get_native_id()` tells which.
        """
        first, last = self._first_close, self._last
        if first is None or last is None or first.others is None or last.others is None:
            return 0.0
        if thread is None or thread not in first.others or thread not in last.others:
            return 0.0
        return last.others[thread] - first.others[thread]


def look_closely_at(ident: int, native_id: int) -> Look | None:
    """Look at a thread from another, and at all others; None where the kernel does not tell.

    Args:
        ident: Its `threading.get_ident()`.
        native_id: Its `threading.get_native_id()`.
    """
    told = schedules()
    if native_id not in told:
        return None
    loop = told.pop(native_id)
    told.pop(threading.get_native_id(), None)
    others = {thread: schedule.used + schedule.queued for thread, schedule in told.items()}
    frame = sys._current_frames().get(ident)  # noqa: SLF001 - the documented way to see a stack
    return Look(time.monotonic(), loop, time.process_time(), others, frame)


def starts_a_thread(frame: FrameType | None) -> bool:
    """Return whether a thread waits for one that it has started to have its first turn."""
    while frame is not None and _is_of_threading(frame):
        if frame.f_code is threading.Thread.start.__code__:
            return True
        frame = frame.f_back
    return False


def _waits_for_a_lock(frame: FrameType | None) -> bool:
    return frame is not None and _is_of_threading(frame)


def _is_of_threading(frame: FrameType) -> bool:
    return frame.f_code.co_filename == threading.__file__
