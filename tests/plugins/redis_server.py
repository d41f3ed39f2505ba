"""A real Redis server for tests, which can be killed, stalled and started again on the same port."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.plugins.programs import Program
from tests.support import free_port

#: Another one, such as Valkey's, is named by an environment variable; see CONTRIBUTING.md.
PROGRAM = (
    os.environ.get("LVA_TEST_REDIS_SERVER")
    or shutil.which("redis-server")
    or "/usr/bin/redis-server"
)


class RedisServer(Program):
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
        self.port: int = free_port()
        command = [
            PROGRAM, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(directory),
            "--appendonly", "yes", "--appendfsync", "always", "--save", "", *options,
        ]  # fmt: skip
        if password is not None:
            command += ["--requirepass", password]
        super().__init__(command, directory / "redis.log", start)
        self.client: Any = redis.Redis(
            port=self.port, password=password, socket_timeout=10, protocol=2, retry=None
        )

    def __exit__(self, *error: object) -> None:
        self.client.close()
        super().__exit__(*error)

    @property
    def url(self) -> str:
        """Where it listens, without a password."""
        return f"redis://127.0.0.1:{self.port}/0"

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.ConnectionError:
            return False
