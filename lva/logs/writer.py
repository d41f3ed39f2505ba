"""The way out for the service's own log: a thread that writes to standard error, for which nobody waits.

It has a descriptor of its own, so that it depends neither on `sys.stderr`, nor on descriptor 2, nor on any
lock of `logging`. When nobody reads, lines are dropped and counted.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import select
import sys
import threading
import time
import weakref
from collections.abc import Callable
from typing import Final, Protocol, TypeAlias

STDERR: Final = 2
#: Most bytes that wait to be written; lines that come then are dropped.
MOST_PENDING: Final = 1 << 20
#: How long, in seconds, the end of the process waits for a reader.
PATIENCE: Final = 0.5
#: Most bytes of one system call of the thread.
_PIECE: Final = 1 << 16

#: A line, or who waits until everything before it is written.
_Item: TypeAlias = bytes | threading.Event


class Writes(Protocol):
    """Where lines go."""

    def write(self, line: str, keep: bool = False) -> None:
        """Take a line.

        Args:
            line: Without its end.
            keep: Whether it must not be dropped.
        """

    def flush(self, seconds: float) -> None:
        """Wait until everything is written, for at most so long."""


class Descriptor:
    """A file descriptor that is known again: code that closes others' must not redirect the log.

    Resources: a duplicate of it, until the process ends.

    Args:
        number: What is duplicated. If it is closed, there is nothing to write to.
    """

    def __init__(self, number: int = STDERR) -> None:
        self._numbers: list[int] = []
        self._file: tuple[int, int] | None = None
        with contextlib.suppress(OSError):
            self._file = _file_of(number)
            self._numbers = [number]
            self._numbers.insert(0, os.dup(number))

    def number(self) -> int | None:
        """Return a descriptor that is still the same file; None if none is left."""
        for number in self._numbers:
            with contextlib.suppress(OSError):
                if _file_of(number) == self._file:
                    return number
        return None

    def write_within(self, data: bytes, seconds: float) -> bool:
        """Write for as long as somebody reads; return whether all was written.

        For the end of the process: the thread that writes otherwise may be stuck.
        """
        deadline = time.monotonic() + seconds
        while data:
            number = self.number()
            if number is None:
                return False
            try:
                _, ready, _ = select.select([], [number], [], max(0.0, deadline - time.monotonic()))
                if not ready:
                    return False
                data = data[os.write(number, data[: select.PIPE_BUF]) :]
            except BlockingIOError:
                continue
            except (OSError, ValueError):
                return False
        return True


def _whole_lines(view: memoryview) -> memoryview:
    """Return the first lines, as many as a pipe takes at once: what others write there comes in between."""
    if len(view) <= select.PIPE_BUF:
        return view
    return view[: bytes(view[: select.PIPE_BUF]).rfind(b"\n") + 1 or _PIECE]


def _file_of(number: int) -> tuple[int, int]:
    status = os.fstat(number)
    return status.st_dev, status.st_ino


class LogWriter:
    """Writes lines in a thread of its own, which begins with the first.

    Args:
        descriptor: Where to.
        loss: Makes the line that says how many were dropped.
        idle: Called in the thread between lines; returns in how many seconds it wants to be called again,
            or None if only after the next line.

    After a fork, in the child, lines are written at once: the thread is not there.
    """

    def __init__(
        self,
        descriptor: Descriptor,
        loss: Callable[[int], str],
        idle: Callable[[], float | None] = lambda: None,
    ) -> None:
        self.descriptor: Final = descriptor
        self._loss = loss
        self._idle = idle
        self._encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
        self._begin()
        _writers.add(self)

    def start(self) -> None:
        """Start the thread now, before code of plugins could meddle with it.

        Resources: a daemon thread, until the process ends; `flush` is called then.

        Errors: where no thread is left, the next line tries again, and `flush` itself writes.
        """
        with self._lock:
            if self._thread is None:
                self._start()

    def _begin(self) -> None:
        # Re-entrant, both: a finalizer or a signal handler may log while a line is being taken.
        self._lines: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._direct = False
        self._pending = 0
        self.dropped: int = 0
        self._untold = 0

    def begin_in_child(self) -> None:
        """Go on in a forked child."""
        self._begin()
        self._direct = True

    def write(self, line: str, keep: bool = False) -> None:
        """Take a line; see `Writes`."""
        self.take(self._encoded(line), keep)

    def take(self, data: bytes, keep: bool = False) -> None:
        """Take bytes as they are; all or nothing of them is dropped."""
        if self._direct:
            self.descriptor.write_within(data, PATIENCE)
            return
        with self._lock:
            if self._pending + len(data) > MOST_PENDING and not keep:
                self._drop(1)
                return
            self._pending += len(data)
            self._lines.put(data)
            self.start()

    def _encoded(self, line: str) -> bytes:
        return line.encode(self._encoding, "backslashreplace") + b"\n"

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="lva-log", daemon=True)
        try:
            self._thread.start()
        except (
            RuntimeError
        ):  # no thread left, or the interpreter is ending: the next line tries again
            self._thread = None

    def _drop(self, count: int) -> None:
        self.dropped += count
        self._untold += count

    def flush(self, seconds: float = PATIENCE) -> None:
        """Wait until everything is written, for at most so long."""
        if self._thread is None:
            self._write_here(seconds)
            return
        written = threading.Event()
        self._lines.put(written)
        if self._thread is not threading.current_thread():
            written.wait(seconds)

    def _write_here(self, seconds: float) -> None:
        """Write in this thread: none was left for it."""
        while not self._lines.empty():
            lines, flushed = self._gather(self._lines.get())
            self.descriptor.write_within(b"".join(lines), seconds)
            with self._lock:
                self._pending -= sum(map(len, lines))
            for event in flushed:
                event.set()

    # In the thread

    def _run(self) -> None:
        while True:
            try:
                first = self._lines.get(timeout=self._idle())
            except queue.Empty:
                continue
            lines, flushed = self._gather(first)
            written = self._write(b"".join(lines))
            with self._lock:
                self._pending -= sum(map(len, lines))
                if not written:
                    self._drop(len(lines))
                told, self._untold = (self._untold, 0) if written else (0, self._untold)
            if told:
                self._write(self._encoded(self._loss(told)))
            for event in flushed:
                event.set()

    def _gather(self, first: _Item) -> tuple[list[bytes], list[threading.Event]]:
        """Return what waits, up to a piece, and who waits for that."""
        lines: list[bytes] = []
        flushed: list[threading.Event] = []
        size = 0
        item = first
        while True:
            if isinstance(item, bytes):
                lines.append(item)
                size += len(item)
            else:
                flushed.append(item)
            if size >= _PIECE:
                return lines, flushed
            try:
                item = self._lines.get_nowait()
            except queue.Empty:
                return lines, flushed

    def _write(self, data: bytes) -> bool:
        """Write, for as long as it takes; return whether that was possible."""
        view = memoryview(data)
        while view:
            number = self.descriptor.number()
            if number is None:
                return False
            try:
                view = view[os.write(number, _whole_lines(view)) :]
            except BlockingIOError:  # somebody has made the file non-blocking
                select.select([], [number], [])
            except OSError:  # the reader has gone, the disk is full
                return False
        return True


_writers: weakref.WeakSet[LogWriter] = weakref.WeakSet()


def flush_all(seconds: float = PATIENCE) -> None:
    """Wait until all writers have written everything, each for at most so long."""
    for writer in list(_writers):
        writer.flush(seconds)


def _begin_all_in_child() -> None:
    for writer in list(_writers):
        writer.begin_in_child()


atexit.register(flush_all)
os.register_at_fork(after_in_child=_begin_all_in_child)
