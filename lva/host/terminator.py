"""The thread that ends the process when nothing else can.

To users it is the watchdog: so the receipt and the exit codes call it.

It is the only place that calls `os._exit`: past the stop's deadline, at a second signal, and once a
stop is complete but for tasks that were abandoned, which `trio.run` would wait for for ever. It writes
with plain system calls, because whatever is stuck may hold the locks of logging and of the streams.

Where it cannot, because C code keeps the interpreter's lock, a C thread of `faulthandler` ends the process a
little later, with its own exit code, 1.
"""

from __future__ import annotations

import contextlib
import faulthandler
import math
import os
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from lva.host.process.needed_threads import start_needed
from lva.logs.loggers import flush
from lva.logs.writer import Descriptor

#: How long, in seconds, standard error may be full before the rest is given up.
_WRITE_PATIENCE: Final = 0.5
#: How long, in seconds, after its time the process is ended from C.
_LAST_RESORT: Final = 2.0


@dataclass(frozen=True, slots=True)
class _Order:
    at: float  # time.monotonic()
    code: int
    message: str
    dump: bool


class Terminator:
    """Ends the process at the time it was last told.

    Args:
        report: Called in the terminator's thread with the exit code, why the process ends and the seconds
            since the first order; returns the last words, a receipt, or the exit code that was told already.

    Its methods may be called from any thread and from signal handlers.

    Resources: a daemon thread from `start` to `stand_down`; a descriptor for the C thread, which stays.

    Errors: whatever fails at the end, the process ends with the code that was ordered.
    """

    def __init__(self, report: Callable[[int, str, float], str | int]) -> None:
        self._report = report
        # A SimpleQueue may be put to from a signal handler, unlike anything with a Python lock.
        self._orders: queue.SimpleQueue[_Order | None] = queue.SimpleQueue()
        self._stderr: Descriptor
        self._for_c: int | None = None
        self._armed_at: float | None = None
        self._last_resort_at = math.inf
        self._thread = threading.Thread(target=self._run, name="lva-terminator", daemon=True)

    def start(self) -> None:
        """Start the thread.

        Raises:
            NoThreadError: There is none left.
        """
        self._stderr = Descriptor()  # while it is sure to be the right one
        self._for_c = _without_waiting(self._stderr.number())
        start_needed(self._thread)

    def kill_after(self, seconds: float, code: int, message: str) -> None:
        """Past `seconds`, dump all stacks and exit with `code`.

        Replaces an earlier order, unless that leaves less time.
        """
        self._order(seconds, code, message, dump=True)

    def exit_after(self, seconds: float, code: int, message: str = "") -> None:
        """As `kill_after`, without the stacks."""
        self._order(seconds, code, message, dump=False)

    def stand_down(self) -> None:
        """Forget the order and end the thread: the process ends by itself."""
        if self._for_c is not None:
            faulthandler.cancel_dump_traceback_later()
        self._orders.put(None)

    def _order(self, seconds: float, code: int, message: str, dump: bool) -> None:
        now = time.monotonic()
        if self._armed_at is None:
            self._armed_at = now
        at = now + seconds
        self._orders.put(_Order(at, code, message, dump))
        if self._for_c is not None and at < self._last_resort_at:
            self._last_resort_at = at
            with contextlib.suppress(RuntimeError):  # no thread is left for it; the order stands
                faulthandler.dump_traceback_later(
                    seconds + _LAST_RESORT, exit=True, file=self._for_c
                )

    def _run(self) -> None:
        order: _Order | None = self._orders.get()
        while order is not None:
            standing = order
            try:
                order = self._orders.get(timeout=max(0.0, standing.at - time.monotonic()))
                if order is not None and order.at > standing.at:
                    order = standing  # no order gives more time than an earlier one
            except queue.Empty:
                self._exit(standing)

    def _exit(self, order: _Order) -> None:
        code = order.code
        try:
            flush(_WRITE_PATIENCE)  # what was logged before comes first
            if order.message:
                self._write(f"lva: {order.message}\n")
                words = self._report(
                    code, order.message, time.monotonic() - (self._armed_at or 0.0)
                )
                if isinstance(words, int):
                    code = words
                else:
                    self._write(f"{words}\n")
            if order.dump:
                self._dump()
        finally:
            os._exit(code)

    def _write(self, text: str) -> None:
        """Write to standard error for as long as somebody reads."""
        self._stderr.write_within(text.encode(errors="backslashreplace"), _WRITE_PATIENCE)

    def _dump(self) -> None:
        """Write the stacks of all threads."""
        number = self._stderr.number()
        if number is not None:
            # Who does not read what the service writes must not keep it from ending.
            os.set_blocking(number, False)
            faulthandler.dump_traceback(number, all_threads=True)


def _without_waiting(number: int | None) -> int:
    """Open what a descriptor leads to once more, so that a write to it never waits for a reader."""
    if number is not None:
        with contextlib.suppress(OSError):  # a socket
            return os.open(f"/proc/self/fd/{number}", os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK)
    return os.open(os.devnull, os.O_WRONLY)
