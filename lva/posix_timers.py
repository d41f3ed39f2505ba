"""The kernel's timers that send a signal, on any clock and to any thread (timer_create(2)).

Python has setitimer(2) alone, whose timers are the process's.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

_ABSOLUTE: Final = 1  # TIMER_ABSTIME
_ANY_THREAD, _THREAD = 0, 4  # SIGEV_SIGNAL, SIGEV_THREAD_ID
_NANOSECONDS: Final = 1_000_000_000


class _SignalEvent(ctypes.Structure):
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


class PosixTimer:
    """One timer of this process; it is not a forked child's.

    Resources: a timer of the kernel's, until `close` or the end of the process.

    Args:
        clock: Whose time it counts, as of `time.clock_gettime`.
        signal: What it sends.
        thread: The native id of the thread that gets it; whichever takes it if None.

    Raises:
        OSError: The kernel has none for us.
    """

    def __init__(self, clock: int, signal: int, thread: int | None = None) -> None:
        # It keeps the interpreter: to let go of it takes a hundred times as long.
        self._libc = ctypes.PyDLL(None, use_errno=True)
        self._timer = ctypes.c_void_p()
        event = _SignalEvent(
            signal=signal, notify=_ANY_THREAD if thread is None else _THREAD, thread=thread or 0
        )
        _check(self._libc.timer_create(clock, ctypes.byref(event), ctypes.byref(self._timer)))

    def set_after(self, first: float, then: float) -> None:
        """Let it go off after so many seconds, then again and again; never with zeros.

        Raises:
            OSError: The timer is not this process's.
        """
        self._set(0, first, then)

    def set_at(self, at: float) -> None:
        """Let it go off once at a time of its clock, at once if that is over; never with zero.

        Raises:
            OSError: The timer is not this process's.
        """
        self._set(_ABSOLUTE, at, 0)

    def close(self) -> None:
        """Give it back."""
        self._libc.timer_delete(self._timer)

    def _set(self, flags: int, first: float, then: float) -> None:
        parts = (divmod(round(seconds * _NANOSECONDS), _NANOSECONDS) for seconds in (then, first))
        times = _Times(*(number for part in parts for number in part))
        _check(self._libc.timer_settime(self._timer, flags, ctypes.byref(times), None))


def _check(result: int) -> None:
    """Raise what a function of the C library says has failed."""
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
