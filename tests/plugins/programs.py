"""Servers for tests that are real programs, which can be killed, stalled and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Self

#: How long, in seconds, a program may take until it answers, or until it has ended.
_PATIENCE = 20.0


class Program(ABC):
    """A program that serves. Use as a context manager; it is killed at the end.

    Args:
        command: What starts it.
        log: Where it writes.
        start: Whether it runs from the beginning.
    """

    def __init__(self, command: Sequence[str], log: Path, start: bool) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self._command = command
        self._log = log
        self._start = start

    @abstractmethod
    def _answers(self) -> bool:
        """Return whether it serves."""

    def __enter__(self) -> Self:
        if self._start:
            self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.kill()

    def start(self) -> None:
        """Start the server and wait until it answers."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log)
        deadline = time.monotonic() + _PATIENCE
        while not self._answers():
            assert self.process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.01)

    def kill(self) -> None:
        """End the server at once; one that is stalled answers nothing any more."""
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(_PATIENCE)

    def pause(self) -> None:
        """Stall the server: its connections stay open, and nothing answers."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        os.waitpid(self.process.pid, os.WUNTRACED)  # until it has stopped

    def resume(self) -> None:
        """Let a stalled server go on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)
