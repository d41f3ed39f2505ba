"""A real terminal for tests: what a program shows in it, and keys pressed in it."""

from __future__ import annotations

import itertools
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final, Self

import pytest

_NUMBERS: Final = itertools.count()


class Terminal:
    """A command in a window of a `tmux` server of its own.

    Use as a context manager. Where tmux is missing the test is skipped, on CI it fails.

    Args:
        directory: For its socket.
        command: What runs; the window stays when it has ended.
        env: More environment variables.
        width: In columns.
        height: In lines.
    """

    def __init__(
        self,
        directory: Path,
        command: Iterable[object],
        env: Mapping[str, str] | None = None,
        width: int = 140,
        height: int = 30,
    ) -> None:
        program = shutil.which("tmux")
        if program is None:
            if "CI" in os.environ:
                pytest.fail("tmux is not installed, and CI is set")
            pytest.skip("tmux is not installed (Debian: apt install tmux)")
        # A socket each: the server of the last window may still be about to end.
        socket = directory / f"tmux-{next(_NUMBERS)}"
        self._tmux = [program, "-S", str(socket), "-f", "/dev/null"]
        self._size = (width, height)
        words = shlex.join(map(str, command))
        self._command = f"{words}; echo ended with $?; cat"
        self._env = {**os.environ, "LC_ALL": "C.UTF-8", **(env or {})}

    def __enter__(self) -> Self:
        width, height = map(str, self._size)
        self._run("new-session", "-d", "-x", width, "-y", height, self._command)
        return self

    def __exit__(self, *_: object) -> None:
        self._run("kill-server")

    def _run(self, *arguments: str) -> str:
        done = subprocess.run(
            [*self._tmux, *arguments],
            env=self._env,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
        return done.stdout

    @property
    def text(self) -> str:
        """What is on the screen."""
        return self._run("capture-pane", "-p")

    @property
    def coloured(self) -> str:
        """The same, with escape sequences."""
        return self._run("capture-pane", "-p", "-e")

    @property
    def lines(self) -> list[str]:
        """The screen's lines."""
        return self.text.splitlines()

    def press(self, *keys: str) -> None:
        """Press keys, in tmux's names."""
        self._run("send-keys", *keys)

    def resize(self, width: int, height: int) -> None:
        """Give the window another size."""
        self._run("resize-window", "-x", str(width), "-y", str(height))

    def wait_for(self, what: str | Callable[[str], object], timeout: float = 20.0) -> str:
        """Wait until the screen shows a text, or a condition on it holds; return the screen."""
        deadline = time.monotonic() + timeout
        while True:
            text = self.text
            if (what in text) if isinstance(what, str) else what(text):
                return text
            over = "ended with" in text or time.monotonic() > deadline
            assert not over, f"waited in vain; the screen is:\n{text}"
            time.sleep(0.05)
