"""Servers for tests that are real programs, which can be killed, stalled and started again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import pytest


def program(name: str) -> str:
    """Return where a program is; without it the test is skipped, on CI it fails."""
    path = shutil.which(name)
    if path is None:
        missing = pytest.fail if "CI" in os.environ else pytest.skip
        missing(f"{name} is not installed")
    return path


class Program(ABC):
    """A program that serves. Use as a context manager; it is killed at the end, with what it has started.

    Args:
        command: What starts it.
        log: Where it writes.
        start: Whether it runs from the beginning.
        **options: Of `subprocess.Popen`.
    """

    #: How long, in seconds, it may take until it answers, or until it has ended.
    patience: ClassVar[float] = 20.0

    def __init__(self, command: Sequence[str], log: Path, start: bool, **options: Any) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self._command = command
        self._log = log
        self._start = start
        self._options = options

    @abstractmethod
    def _answers(self) -> bool:
        """Return whether it serves."""

    @property
    def runs(self) -> bool:
        """Whether it has been started, and has not ended."""
        return self.process is not None and self.process.poll() is None

    def __enter__(self) -> Self:
        if self._start:
            self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.runs:
            self.kill()

    def start(self) -> None:
        """Start the server and wait until it answers."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
                **self._options,
            )
        deadline = time.monotonic() + self.patience
        while not self._answers():
            said = self._log.read_text(errors="replace")[-4000:]
            assert self.runs, said
            assert time.monotonic() < deadline, said
            time.sleep(0.01)

    def kill(self) -> None:
        """End the server at once; one that is stalled answers nothing any more."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End the server the orderly way."""
        self.resume()
        self._end(signal.SIGTERM)

    def _end(self, number: int) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, number)
        self.process.wait(self.patience)

    def pause(self) -> None:
        """Stall the server: its connections stay open, and nothing answers."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        os.waitpid(self.process.pid, os.WUNTRACED)  # until it has stopped

    def resume(self) -> None:
        """Let a stalled server go on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)
