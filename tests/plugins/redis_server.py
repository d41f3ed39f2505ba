"""A real Redis server for tests, which can be killed, stalled and started again on the same port."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Self

import pytest
import redis

PROGRAM = shutil.which("redis-server") or "/usr/bin/redis-server"


class RedisServer:
    """`redis-server` on a free port of the loopback interface, which keeps what it has acknowledged.

    Use as a context manager; it is killed at the end. Where the program is missing the test is skipped,
    on CI it fails.

    Args:
        directory: For its files; must exist.
        *options: More options of the program.
        password: What clients have to say; nothing if left out.
        start: Whether it runs from the beginning.

    Attributes:
        port: Its port, the same after each start.
        client: A client that retries nothing.
    """

    def __init__(
        self, directory: Path, *options: str, password: str | None = None, start: bool = True
    ) -> None:
        if not os.access(PROGRAM, os.X_OK) and "CI" not in os.environ:
            pytest.skip(f"{PROGRAM} is not installed")
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port: int = listener.getsockname()[1]
        self._command = [
            PROGRAM, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(directory),
            "--appendonly", "yes", "--appendfsync", "always", "--save", "", *options,
        ]  # fmt: skip
        if password is not None:
            self._command += ["--requirepass", password]
        self._log = directory / "redis.log"
        self._start = start
        self.process: subprocess.Popen[bytes] | None = None
        self.client: Any = redis.Redis(
            port=self.port, password=password, socket_timeout=10, protocol=2, retry=None
        )

    def __enter__(self) -> Self:
        if self._start:
            self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        if self.process is not None and self.process.poll() is None:
            self.kill()

    @property
    def url(self) -> str:
        """Where it listens, without a password."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start the server and wait until it answers."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log)
        deadline = time.monotonic() + 10
        while not self._answers():
            assert self.process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.01)

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.ConnectionError:
            return False

    def stop(self) -> None:
        """End the server the orderly way."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the server at once."""
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)
        self.process.send_signal(number)
        self.process.wait(10)

    def pause(self) -> None:
        """Stall the server: its connections stay open, and nothing answers."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a stalled server go on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)
