"""A timer of one thread's processor time, whose signal goes to that thread.

One of the whole process goes off while the thread sleeps and others compute. To be woken, and to wait for a
processor in the midst of a sleep, would make the sleep look like a wait.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import Final, Protocol

_THREAD: Final = 4  # SIGEV_THREAD_ID
_NANOSECONDS: Final = 1_000_000_000
#: The system rounds the interval of a timer by less, in seconds.
_SAME_TIMER: Final = 0.001


class Timer(Protocol):
    """What goes off after so much processor time, as SIGPROF."""

    def set(self, first: float, then: float) -> None:
        """Let it go off after so many seconds, then again and again; never with zeros."""

    def close(self) -> None:
        """Give it back."""


class _Event(ctypes.Structure):
    """`struct sigevent` of Linux, with room for the largest of its unions."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("thread", ctypes.c_int),
        ("rest", ctypes.c_char * 44),
    )


class _Times(ctypes.Structure):
    """`struct itimerspec`."""

    _fields_ = (
        ("interval_seconds", ctypes.c_long),
        ("interval_nanoseconds", ctypes.c_long),
        ("seconds", ctypes.c_long),
        ("nanoseconds", ctypes.c_long),
    )


class ThreadTimer:
    """Counts the processor time of the thread that makes it.

    Resources: a timer of the kernel's, until `close`.

    Raises:
        OSError: The system has none for us.
    """

    def __init__(self) -> None:
        # It keeps the interpreter: to let go of it takes a hundred times as long.
        self._libc = ctypes.PyDLL(None, use_errno=True)
        self._timer = ctypes.c_void_p()
        event = _Event(signal=signal.SIGPROF, notify=_THREAD, thread=threading.get_native_id())
        clock = time.CLOCK_THREAD_CPUTIME_ID
        if self._libc.timer_create(clock, ctypes.byref(event), ctypes.byref(self._timer)):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def set(self, first: float, then: float) -> None:
        """Let it go off after so many seconds, then again and again; never with zeros."""
        parts = (divmod(round(seconds * _NANOSECONDS), _NANOSECONDS) for seconds in (then, first))
        times = _Times(*(number for part in parts for number in part))
        # It fails in a forked child alone, which has no timer.
        self._libc.timer_settime(self._timer, 0, ctypes.byref(times), None)

    def close(self) -> None:
        """Give it back."""
        self._libc.timer_delete(self._timer)


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
