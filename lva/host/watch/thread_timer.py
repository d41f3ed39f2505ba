"""A timer of one thread's processor time, whose signal goes to that thread.

One of the whole process goes off while the thread sleeps and others compute. To be woken, and to wait for a
processor in the midst of a sleep, would make the sleep look like a wait.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from contextlib import suppress
from typing import Final, Protocol

from lva.posix_timers import PosixTimer

#: The system rounds the interval of a timer by less, in seconds.
_SAME_TIMER: Final = 0.001


class Timer(Protocol):
    """What goes off after so much processor time, as SIGPROF."""

    def set(self, first: float, then: float) -> None:
        """Let it go off after so many seconds, then again and again; never with zeros."""

    def close(self) -> None:
        """Give it back."""


class ThreadTimer:
    """Counts the processor time of the thread that makes it.

    Resources: a timer of the kernel's, until `close`.

    Raises:
        OSError: The system has none for us.
    """

    def __init__(self) -> None:
        self._timer = PosixTimer(
            time.CLOCK_THREAD_CPUTIME_ID, signal.SIGPROF, threading.get_native_id()
        )

    def set(self, first: float, then: float) -> None:
        """Let it go off after so many seconds, then again and again; never with zeros."""
        with suppress(OSError):  # a forked child has no timer
            self._timer.set_after(first, then)

    def close(self) -> None:
        """Give it back."""
        self._timer.close()


class ProcessTimer:
    """Counts the processor time of the process, where the system has no other."""

    def __init__(self) -> None:
        self._then = 0.0

    def set(self, first: float, then: float) -> None:
        """Let it go off after so many seconds, then again and again; never with zeros."""
        self._then = then
        signal.setitimer(signal.ITIMER_PROF, first, then)

    def close(self) -> None:
        """Let it never go off again; one that somebody else has set since is theirs."""
        if abs(signal.getitimer(signal.ITIMER_PROF)[1] - self._then) < _SAME_TIMER:
            signal.setitimer(signal.ITIMER_PROF, 0)


def new_timer() -> Timer:
    """Return a timer for the thread that calls."""
    if sys.platform == "linux":
        with suppress(OSError):
            return ThreadTimer()
    return ProcessTimer()
