"""What plugins log and print in a worker, on its way to the plugins' logs; the worker's side.

Records of `logging`, warnings and what is written to `sys.stdout` and `sys.stderr` are sent as messages. What
is written to the descriptors 1 and 2, as by a native library, goes into a pipe that the service reads: it has
it even if this process can do nothing any more. Nothing of this ever waits.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Callable
from typing import Final

from lva.logs.limits import LogLimits

#: Most characters of one line.
LONGEST: Final = 4000
#: Sends a record: the plugin's name if it is known, level, and text.
Send = Callable[[str | None, int, str], None]


def to_pipe(descriptor: int) -> None:
    """Let the descriptors 1 and 2 be this pipe."""
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            stream.reconfigure(line_buffering=True)


class WorkerOutput(logging.Handler):
    """Takes what plugins log and print; so much of each in ten seconds, and then only how much more.

    Args:
        send: Sends a record.
        current: Returns the name of the plugin whose code runs, if it is known.
        level: Of records that are wanted.
    """

    def __init__(self, send: Send, current: Callable[[], str | None], level: int) -> None:
        super().__init__()
        self._send = send
        self._current = current
        self._limits = LogLimits()
        root = logging.getLogger()
        root.handlers[:] = [self]
        root.setLevel(level)
        logging.captureWarnings(True)
        sys.stdout = _Lines(self, logging.INFO, 1)
        sys.stderr = _Lines(self, logging.WARNING, 2)

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record; one that cannot be formatted says so."""
        try:
            text = self.format(record)
        except Exception as error:  # noqa: BLE001 - the plugin's arguments
            text = f"a log record that cannot be formatted: {type(error).__name__}"
        self.say(record.levelno, text)

    def say(self, level: int, text: str) -> None:
        """Send a text, within the limits."""
        plugin, severe = self._current(), level >= logging.WARNING
        if self._limits.admits(plugin, severe):
            text = text[:LONGEST]
            self._limits.spend(plugin, severe, len(text))
            self._send(plugin, level, text)

    def tell_suppressed(self) -> None:
        """Say how much was left out; to be called each second or so."""
        for plugin, severe, number in self._limits.over():
            level = logging.WARNING if severe else logging.INFO
            self._send(plugin, level, f"{number} more suppressed: too many in 10 s")


class _Lines(io.TextIOBase):
    """Takes what is printed, line by line."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, output: WorkerOutput, level: int, descriptor: int) -> None:
        super().__init__()
        self._output = output
        self._level = level
        self._descriptor = descriptor
        self._part = ""
        self.buffer = _Bytes(self)

    def write(self, text: str) -> int:
        *lines, self._part = (self._part + text).split("\n")
        self._part = self._part[:LONGEST]
        for line in lines:
            if line:
                self._output.say(self._level, line)
        return len(text)

    def fileno(self) -> int:
        return self._descriptor

    def writable(self) -> bool:
        return True


class _Bytes(io.RawIOBase):
    """Takes bytes that are printed, as text."""

    def __init__(self, lines: _Lines) -> None:
        super().__init__()
        self._lines = lines

    def write(self, data: object) -> int:
        given = memoryview(data).tobytes()  # type: ignore[arg-type] # whatever has bytes
        self._lines.write(given.decode(errors="backslashreplace"))
        return len(given)

    def writable(self) -> bool:
        return True
