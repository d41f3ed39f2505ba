"""Ends this process at a time, by the kernel: also when it is stopped by a signal, or never gets to run.

A POSIX timer whose signal is SIGKILL (timer_create(2)). Its clock goes on while the machine is suspended.
"""

from __future__ import annotations

import ctypes
import os
import signal
from typing import Final

from lva.boot_clock import BOOT_CLOCK

_ABSOLUTE: Final = 1  # TIMER_ABSTIME
_NANOSECONDS: Final = 1_000_000_000


class _Event(ctypes.Structure):
    """`struct sigevent`, with room for the largest of its unions."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("rest", ctypes.c_char * 48),
    )


class _Times(ctypes.Structure):
    """`struct itimerspec`."""

    _fields_ = (
        ("interval_seconds", ctypes.c_long),
        ("interval_nanoseconds", ctypes.c_long),
        ("seconds", ctypes.c_long),
        ("nanoseconds", ctypes.c_long),
    )


class EndTimer:
    """One timer of this process; it is not a forked child's.

    Raises:
        OSError: The kernel has none for us.
    """

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._timer = ctypes.c_void_p()
        event = _Event(signal=signal.SIGKILL)
        if self._libc.timer_create(BOOT_CLOCK, ctypes.byref(event), ctypes.byref(self._timer)):
            raise _error()

    def set(self, at: float | None) -> None:
        """End the process at a time, instead of the one before; at once, if that is over.

        Args:
            at: As `lva.boot_clock.boot_time` will return it; None for never.
        """
        total = 0 if at is None else max(1, round(at * _NANOSECONDS))
        times = _Times(0, 0, *divmod(total, _NANOSECONDS))
        if self._libc.timer_settime(self._timer, _ABSOLUTE, ctypes.byref(times), None):
            raise _error()


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
