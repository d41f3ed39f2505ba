"""What the tests share: plugin files from text, the real service in a process, points by number."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import httpx

from lva import MonitoringPoint

PREAMBLE = "import time\nimport threading\nimport trio\nfrom lva import *\n"


def write_plugin(directory: Path, name: str, source: str, preamble: str = PREAMBLE) -> Path:
    """Write a plugin file; its usual imports are added."""
    directory.mkdir(exist_ok=True)
    path = directory / f"{name}.py"
    path.write_text(preamble + textwrap.dedent(source))
    path.chmod(0o644)
    return path


def numbered(count: int, start: int = 0) -> list[MonitoringPoint]:
    """Return points that can be told apart by their field ``n``."""
    return [MonitoringPoint("numbers", 1.0, {}, {"n": n}) for n in range(start, start + count)]


def clean_environment(**extra: str) -> dict[str, str]:
    """Return this process's environment without settings of the service, and with `extra`."""
    kept = {key: value for key, value in os.environ.items() if "LUNA_VIDEO_AGENT" not in key}
    return {**kept, "PYTHONUNBUFFERED": "1", **extra}


class ServiceProcess:
    """`lva run` in a process of its own, on a free port of the loopback interface.

    Use as a context manager; what is still running at its end is killed. Its log is JSON, so that
    tests can look at records.

    Args:
        tmp_path: Its state directory, current directory and plugin directory (``plugins``) are here.
        active: The plugins to run.
        toml: The text of `lva.toml`.
        env: More environment variables.
        arguments: More arguments of `lva run`.
    """

    def __init__(
        self,
        tmp_path: Path,
        active: Iterable[str] = (),
        toml: str = "",
        env: Mapping[str, str] | None = None,
        arguments: Iterable[str] = (),
        command: Iterable[str] | None = None,
    ) -> None:
        (tmp_path / "plugins").mkdir(exist_ok=True)
        config = tmp_path / "lva.toml"
        config.write_text(textwrap.dedent(toml))
        config.chmod(0o644)
        settings = {
            "LUNA_VIDEO_AGENT_ACTIVE_PLUGINS": json.dumps(list(active)),
            "LUNA_VIDEO_AGENT_PLUGINS_DIR": json.dumps([str(tmp_path / "plugins")]),
            "LUNA_VIDEO_AGENT_STATE_DIR": str(tmp_path / "state"),
            "LUNA_VIDEO_AGENT_BIND": "127.0.0.1:0",
            "LUNA_VIDEO_AGENT_LOG_FORMAT": "json",
        }
        self._command = [*(command or [sys.executable, "-m", "lva", "run", *arguments])]
        self._tmp_path = tmp_path
        self._env = clean_environment(**{**settings, **(env or {})})
        self.lines: list[str] = []
        self._news = threading.Condition()

    def __enter__(self) -> ServiceProcess:
        self.process = subprocess.Popen(
            self._command,
            cwd=self._tmp_path,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join(5)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self.lines.append("")  # the end: wakes those who wait for a line that never comes
            self._news.notify_all()

    @property
    def output(self) -> str:
        """Everything the process has printed."""
        return "\n".join(self.lines)

    @property
    def records(self) -> list[dict[str, Any]]:
        """The log records so far."""
        return [json.loads(line) for line in list(self.lines) if line.startswith("{")]

    def wait_for(self, pattern: str, timeout: float = 20.0) -> re.Match[str]:
        """Wait until a line matches the pattern and return the match."""
        deadline = time.monotonic() + timeout
        seen = 0
        with self._news:
            while True:
                for line in self.lines[seen:]:
                    if match := re.search(pattern, line):
                        return match
                seen = len(self.lines)
                left = deadline - time.monotonic()
                if left <= 0 or self.process.poll() is not None and not self._reader.is_alive():
                    raise AssertionError(f"no line matches {pattern!r} in:\n{self.output}")
                self._news.wait(min(left, 0.5))

    @property
    def url(self) -> str:
        """The service's address; waits until it listens."""
        return self.wait_for(r"listening on (http://[^\"\s]+)")[1]

    def wait_until_ready(self, timeout: float = 20.0) -> ServiceProcess:
        """Wait until `/readyz` answers 200."""
        return self.wait_until(lambda: self.get("/readyz").status_code == 200, timeout)

    def wait_until(self, condition: Any, timeout: float = 20.0) -> ServiceProcess:
        """Wait until the condition holds, looking again and again: another process decides."""
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, f"waited {timeout} s in vain:\n{self.output}"
            time.sleep(0.02)
        return self

    def get(self, path: str, timeout: float = 5.0, **options: Any) -> httpx.Response:
        """Send a GET request."""
        return self.request("GET", path, timeout=timeout, **options)

    def request(self, method: str, path: str, timeout: float = 5.0, **options: Any) -> httpx.Response:
        """Send a request over a connection of its own."""
        with httpx.Client(trust_env=False, timeout=timeout) as client:
            return client.request(method, self.url + path, **options)

    def plugin(self, name: str) -> dict[str, Any]:
        """Return what `/plugins/NAME` says."""
        status: dict[str, Any] = self.get(f"/plugins/{name}").json()
        return status

    def signal(self, number: int = signal.SIGTERM) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def wait(self, timeout: float = 40.0) -> int:
        """Wait for the end; return the exit code."""
        code = self.process.wait(timeout)
        self._reader.join(5)
        return code

    def stop(self, timeout: float = 40.0) -> int:
        """Send SIGTERM and wait for the end; return the exit code."""
        self.signal()
        return self.wait(timeout)

    @property
    def receipt(self) -> dict[str, Any]:
        """The receipt; there must be exactly one."""
        found = [record["receipt"] for record in self.records if "receipt" in record]
        assert len(found) == 1, f"{len(found)} receipts in:\n{self.output}"
        receipt: dict[str, Any] = found[0]
        return receipt

    def receipt_of(self, name: str) -> dict[str, Any]:
        """Return one plugin's part of the receipt."""
        return next(item for item in self.receipt["plugins"] if item["name"] == name)
