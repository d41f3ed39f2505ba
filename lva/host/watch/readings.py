"""What the system tells of a thread: when it had a processor, and what it waited for when it had none."""

from __future__ import annotations

import ctypes
import os
import pathlib
import sys
import threading
import time
from contextlib import suppress
from typing import Final, NamedTuple

#: A thread that wants the interpreter asks for it once in each switch interval, and the system wakes it a
#: little late. So many intervals at most lie between two of its wake-ups.
_WAKE_UP: Final = 1.2
#: The part of a wait for the interpreter that other threads must have computed for: who has the interpreter
#: may wait for a processor meanwhile.
_OTHERS: Final = 0.05

# `os.pread` would let go of the interpreter meanwhile, which takes a hundred times as long to come back.
_pread: Final = ctypes.PyDLL(None).pread
_pread.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long)
_pread.restype = ctypes.c_ssize_t


class Reading(NamedTuple):
    """What is known of a thread at a time. All but `at` only grows; differences tell something.

    Attributes:
        at: The time (`time.perf_counter()`), in seconds.
        used: How much processor time the thread has had, in seconds.
        queued: For how long it has waited for a processor, in seconds; 0 where the kernel does not tell.
        turns: How often it has been given one; None where the kernel does not tell.
        others: How much processor time the other threads of the process have had, in seconds.
        runnable: Whether, seen from another thread, it may wait for a processor just now: the kernel counts
            that once it is over.
    """

    at: float
    used: float
    queued: float
    turns: int | None
    others: float
    runnable: bool = False

    def own_since(self, before: Reading) -> float:
        """Return how long, at least, it ran, or waited for something of its own choice, since, in seconds."""
        if self.runnable:
            return self.used - before.used
        queued = self.queued - before.queued
        return self.at - before.at - queued - self.waited_since(before)

    def waited_since(self, before: Reading) -> float:
        """Return for how long, at most, it has waited since for the interpreter that others computed with."""
        waited = self.may_have_waited_since(before)
        # Where the kernel does not tell, it is no longer than what they computed.
        return waited if self.others - before.others >= _OTHERS * waited else 0.0

    def may_have_waited_since(self, before: Reading) -> float:
        """Return for how long, at most, it has waited for the interpreter since, in seconds.

        A thread that waits for the interpreter is woken again and again; one that sleeps, or waits for a
        socket or a lock, is not. Who had it may have waited for a processor all the time.
        """
        slept = self.at - before.at - (self.queued - before.queued) - (self.used - before.used)
        if self.turns is None or before.turns is None:
            return max(0.0, min(slept, self.others - before.others))
        most = (self.turns - before.turns) * sys.getswitchinterval() * _WAKE_UP
        return max(0.0, min(slept, most))


class ThreadReader:
    """Reads what the system tells of one thread, in about two microseconds, keeping the interpreter.

    Resources: a descriptor, until `close`.

    Args:
        native_id: Its `threading.get_native_id()`.
        clock: Its `own_processor_clock()`.
    """

    def __init__(self, native_id: int, clock: int | None) -> None:
        self._native_id = native_id
        self._clock = clock
        self._file: int | None = None
        self._text = ctypes.create_string_buffer(100)
        with suppress(OSError):  # another system than Linux, or the thread has ended
            self._file = os.open(f"/proc/self/task/{native_id}/schedstat", os.O_RDONLY)

    def read_from_outside(self) -> Reading:
        """Return what is known now; called by another thread.

        Raises:
            OSError: The thread has ended.
        """
        runnable = self._is_runnable()  # first: if it was not, it has at most begun to wait since
        return self.read()._replace(runnable=runnable)

    def read(self) -> Reading:
        """Return what is known now; called by the thread itself.

        Raises:
            OSError: The thread has ended.
        """
        at, process = time.perf_counter(), time.process_time()
        # Where processor times cannot be had, the thread is taken to be at work all the time.
        used = at if self._clock is None else time.clock_gettime(self._clock)
        queued, turns = self._schedule()
        return Reading(at, used, queued, turns, max(0.0, process - used))

    def queued(self) -> float:
        """Return for how long the thread has waited for a processor, in seconds. Any thread.

        Raises:
            OSError: The thread has ended.
        """
        return self._schedule()[0]

    def _schedule(self) -> tuple[float, int | None]:
        if self._file is None:
            return 0.0, None
        length = _pread(self._file, self._text, len(self._text), 0)
        try:
            _used, queued, turns = map(int, self._text.raw[: max(0, length)].split())
        except ValueError:
            raise OSError("the thread has ended") from None
        return queued / 1e9, turns

    def _is_runnable(self) -> bool:
        if self._file is None:
            return False
        with pathlib.Path(f"/proc/self/task/{self._native_id}/stat").open("rb") as file:
            # After the thread's name, which is in brackets and may have brackets in it.
            return file.read().rpartition(b")")[2].split()[:1] == [b"R"]

    def close(self) -> None:
        """Give the descriptor back."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def own_reader() -> ThreadReader:
    """Return a reader for the thread that calls."""
    return ThreadReader(threading.get_native_id(), own_processor_clock())


def own_processor_clock() -> int | None:
    """Return the clock of this thread's processor time, for `time.clock_gettime` in any thread.

    None where the system has none, as macOS.
    """
    find = getattr(time, "pthread_getcpuclockid", None)
    return None if find is None else int(find(threading.get_ident()))
