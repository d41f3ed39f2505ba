"""The thread that ends the process when nothing else can.

To users it is the watchdog: so the receipt and the exit codes call it.

It is the only place that calls `os._exit`: past the stop's deadline, at a second signal, and once a
stop is complete but for tasks that were abandoned, which `trio.run` would wait for for ever. It writes
with plain system calls, because whatever is stuck may hold the locks of logging and of the streams.
"""

from __future__ import annotations

import faulthandler
import os
import queue
import select
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

_STDERR: Final = 2
#: How long, in seconds, standard error may be full before the rest is given up.
_WRITE_PATIENCE: Final = 0.5


@dataclass(frozen=True, slots=True)
class _Order:
    at: float  # time.monotonic()
    code: int
    message: str
    dump: bool


class Terminator:
    """Ends the process at the time it was last told.

    Args:
        report: Called with the exit code in the terminator's thread; returns the last words, a receipt,
            or the exit code that was told already.

    Its methods may be called from any thread and from signal handlers.
    """

    def __init__(self, report: Callable[[int], str | int]) -> None:
        self._report = report
        # A SimpleQueue may be put to from a signal handler, unlike anything with a Python lock.
        self._orders: queue.SimpleQueue[_Order | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="lva-terminator", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def kill_after(self, seconds: float, code: int, message: str) -> None:
        """Past `seconds`, dump all stacks and exit with `code`.

        Replaces an earlier order, unless that leaves less time.
        """
        self._orders.put(_Order(time.monotonic() + seconds, code, message, dump=True))

    def exit_after(self, seconds: float, code: int, message: str = "") -> None:
        """As `kill_after`, without the stacks."""
        self._orders.put(_Order(time.monotonic() + seconds, code, message, dump=False))

    def stand_down(self) -> None:
        """Forget the order and end the thread: the process ends by itself."""
        self._orders.put(None)

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
            # Who does not read what the service writes must not keep it from ending.
            os.set_blocking(_STDERR, False)
            if order.message:
                _write(f"lva: {order.message}\n")
                words = self._report(code)
                if isinstance(words, int):
                    code = words
                else:
                    _write(f"{words}\n")
            if order.dump:
                faulthandler.dump_traceback(_STDERR, all_threads=True)
        finally:
            os._exit(code)


def _write(text: str) -> None:
    """Write to standard error for as long as somebody reads."""
    data = text.encode(errors="backslashreplace")
    while data:
        _, writable, _ = select.select([], [_STDERR], [], _WRITE_PATIENCE)
        if not writable:
            return
        data = data[os.write(_STDERR, data) :]
