"""What a worker wrote to its descriptors 1 and 2: read from a pipe, line by line; the service's side.

The pipe is read at a limited rate, and the worker's end of it never waits: a plugin that fills it loses what
does not fit, and costs the service little.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import trio

from lva.logs.limits import WINDOW, LogLimits

#: Bytes that are read at once, and the seconds until the next.
CHUNK: Final = 64 * 1024
PAUSE: Final = 0.05
#: Most bytes of one line.
LONGEST: Final = 4000
#: Lines that a process which has ended may still say.
LAST_LINES: Final = 60
_SEVERE: Final = False  # as what a program prints on its way


class Printed:
    """The pipe's reading end.

    Args:
        descriptor: It is closed by `close`.
    """

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._part = b""
        self._limits = LogLimits()
        self._suppressed: deque[bytes] = deque(maxlen=LAST_LINES)  # the newest ones

    async def run(self, say: Callable[[int, str], None]) -> None:
        """Read until cancelled, or until nobody can write any more.

        Args:
            say: Gets level and text of each line; called in the same task.
        """
        while True:
            await trio.lowlevel.wait_readable(self._descriptor)
            if not self._read(say):
                return
            self.tell_suppressed(say)
            await trio.sleep(PAUSE)

    def drain(self, say: Callable[[int, str], None]) -> None:
        """Read what is there already. The last lines, which say why a process crashed, are not limited."""
        while data := self._data():
            self._suppressed += self._lines(data)
        for line in (*self._suppressed, self._part):
            self._say(line, say)
        self._part = b""
        self._suppressed.clear()
        self.tell_suppressed(say, time.monotonic() + WINDOW)

    def _read(self, say: Callable[[int, str], None]) -> bool:
        """Read once; return whether more may come."""
        if (data := self._data()) is None:
            return True
        for line in self._lines(data):
            if self._limits.admits(None, _SEVERE):
                self._limits.spend(None, _SEVERE, len(line))
                self._suppressed.clear()
                self._say(line, say)
            else:
                self._suppressed.append(line)
        return bool(data)

    def _data(self) -> bytes | None:
        """Return what there is, nothing at the end; None if nothing is there now."""
        try:
            return os.read(self._descriptor, CHUNK)
        except BlockingIOError:
            return None

    def _lines(self, data: bytes) -> list[bytes]:
        *lines, self._part = (self._part + data).split(b"\n")
        self._part = self._part[:LONGEST]
        return [line[:LONGEST] for line in lines]

    @staticmethod
    def _say(line: bytes, say: Callable[[int, str], None]) -> None:
        if line:
            say(logging.INFO, line.decode(errors="backslashreplace"))

    def tell_suppressed(self, say: Callable[[int, str], None], until: float | None = None) -> None:
        """Say how much was left out in windows that are over, or will be until then."""
        for _, _, number in self._limits.over(until):
            say(logging.INFO, f"{number} more suppressed: too many in 10 s")

    def close(self) -> None:
        """Close the descriptor."""
        with suppress(OSError):
            os.close(self._descriptor)
