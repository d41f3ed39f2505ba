"""A real RTSP server for tests, in a process of the system's Python."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Self

import pytest

PYTHON = "/usr/bin/python3"  # Debian's GStreamer is for Debian's Python
PROGRAM = Path(__file__).with_name("rtsp_server_program.py")


class RtspServer:
    """GStreamer's RTSP server on a port of the loopback interface, the same after each start.

    Use as a context manager; it is killed at the end. Where GStreamer is missing the test is skipped; on CI
    it fails.
    """

    def __init__(self) -> None:
        wanted = "import gi; gi.require_version('GstRtspServer', '1.0')"
        found = subprocess.run([PYTHON, "-c", wanted], capture_output=True, check=False)
        if found.returncode and "CI" not in os.environ:
            pytest.skip(f"{PYTHON} has no GStreamer RTSP server (gir1.2-gst-rtsp-server-1.0)")
        self.port = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start the server, and wait until it listens."""
        self._process = subprocess.Popen(
            [PYTHON, PROGRAM, str(self.port)], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def kill(self) -> None:
        """End the server at once."""
        self._process.kill()
        self._process.communicate()

    def url(self, path: str, login: str = "") -> str:
        """Return the address of a path."""
        return f"rtsp://{login}127.0.0.1:{self.port}/{path}"
