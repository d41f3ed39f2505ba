"""Who has had a processor, and who has waited for one: what the system tells of threads."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from lva.host.loops import LoopThread

#: More threads than so many are not asked about.
_MOST_THREADS: Final = 100

#: Of plugins' own threads, by plugin: each thread's clock, and what it shows, in seconds.
ProcessorTimes = Mapping[str, tuple[int, float]]


def own_processor_clock() -> int | None:
    """Return the clock of this thread's processor time, for `time.clock_gettime` in any thread.

    None where the system has none, as macOS.
    """
    find = getattr(time, "pthread_getcpuclockid", None)
    return None if find is None else int(find(threading.get_ident()))


def processor_times(plugins: Mapping[str, LoopThread | None]) -> ProcessorTimes:
    """Return, for each plugin with a thread of its own, the thread's clock and what it shows."""
    found = {}
    for name, thread in plugins.items():
        clock = None if thread is None else thread.processor_clock
        if clock is not None:
            try:
                found[name] = (clock, time.clock_gettime(clock))
            except OSError:
                continue  # the thread has ended
    return found


def busiest(before: ProcessorTimes, now: ProcessorTimes) -> tuple[str, float]:
    """Return which plugin's own thread has had most of a processor since, and for how long."""
    seconds = {
        name: used - before[name][1]
        for name, (clock, used) in now.items()
        if name in before and before[name][0] == clock
    }
    return max(seconds.items(), key=lambda item: item[1], default=("", 0.0))


# `os.pread` would let go of the interpreter meanwhile.
_pread: Final = ctypes.PyDLL(None).pread
_pread.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long)
_pread.restype = ctypes.c_ssize_t


class Schedule(NamedTuple):
    """What the kernel tells of a thread.

    Attributes:
        used: How much processor time it has had, in seconds.
        queued: For how long it has waited for a processor, in seconds.
        turns: How often it has been given one.
    """

    used: float
    queued: float
    turns: int


class ScheduleReader:
    """Asks the kernel again and again about one thread, each time without letting go of the interpreter.

    It takes two microseconds. To have the interpreter back from a busy thread takes a hundred times as long.

    Args:
        thread: Its `threading.get_native_id()`.
    """

    def __init__(self, thread: int) -> None:
        self._file: int | None = None
        self._text = ctypes.create_string_buffer(100)
        with suppress(OSError):  # another system, or there is no such thread
            self._file = os.open(f"/proc/self/task/{thread}/schedstat", os.O_RDONLY)

    def read(self) -> Schedule | None:
        """Return what the kernel tells; None if it does not. Linux does, while the thread is there."""
        if self._file is None:
            return None
        length = _pread(self._file, self._text, len(self._text), 0)
        try:
            used, queued, turns = map(int, self._text.raw[: max(0, length)].split())
        except ValueError:
            return None  # it is not there any more
        return Schedule(used / 1e9, queued / 1e9, turns)

    def close(self) -> None:
        """Ask no more."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def schedule_of(thread: int) -> Schedule | None:
    """Return what the kernel tells of a thread now; None if it does not. Linux does.

    Args:
        thread: Its `threading.get_native_id()`.
    """
    reader = ScheduleReader(thread)
    try:
        return reader.read()
    finally:
        reader.close()


def is_runnable(thread: int) -> bool:
    """Return whether a thread runs or waits for a processor; False if the kernel does not tell.

    Args:
        thread: Its `threading.get_native_id()`.
    """
    try:
        with open(f"/proc/self/task/{thread}/stat", "rb") as file:  # noqa: PTH123 - quick
            told = file.read()
    except OSError:
        return False
    # After the thread's name, which is in brackets and may have brackets in it.
    return told.rpartition(b")")[2].split()[:1] == [b"R"]


def schedules() -> dict[int, Schedule]:
    """Return what the kernel tells of all threads of the process; nothing if there are very many."""
    try:
        threads = os.listdir("/proc/self/task")  # noqa: PTH208 - quick
    except OSError:
        return {}
    if len(threads) > _MOST_THREADS:
        return {}
    found = {int(thread): schedule_of(int(thread)) for thread in threads}
    return {thread: schedule for thread, schedule in found.items() if schedule is not None}
