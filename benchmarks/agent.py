"""What the benchmarks of streams share: the service with streams in it, and a server of cameras."""

from __future__ import annotations

import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import av
from video import encode


class Agent:
    """`lva run` with the plugins `streams` and `motion`, in a directory of its own; a context manager.

    Args:
        active: More plugins.
        plugins: The text of files of theirs, by name.
    """

    def __init__(self, *active: str, plugins: Mapping[str, str] = MappingProxyType({})) -> None:
        self._directory = tempfile.TemporaryDirectory()
        home = Path(self._directory.name)
        (home / "plugins").mkdir()
        for name, text in plugins.items():
            (home / "plugins" / name).write_text(text, encoding="utf-8")
        self._home = home
        self._active = ["streams", "motion", *active]

    def __enter__(self) -> Self:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        environment = {
            **os.environ,
            "LUNA_VIDEO_AGENT_STATE_DIR": str(self._home / "state"),
            "LUNA_VIDEO_AGENT_PLUGINS_DIR": json.dumps([str(self._home / "plugins")]),
            "LUNA_VIDEO_AGENT_ACTIVE_PLUGINS": json.dumps(self._active),
        }
        command = [sys.executable, "-m", "lva", "run", "--bind", f"127.0.0.1:{self.port}"]
        self.process = subprocess.Popen(
            [*command, "--log-level", "WARNING"],
            cwd=self._home, env=environment, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.until(self._ready, 30)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self._directory.cleanup()

    def _ready(self) -> bool:
        try:
            return self.request("GET", "/readyz")[0] == 200
        except OSError:
            return False

    def request(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Return the status and the document of a response; what comes too often is asked for again."""
        while (found := self._request(method, path, body))[0] == 429:
            time.sleep(0.2)
        return found

    def _request(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        headers = {"Content-Type": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        response = connection.getresponse()
        text = response.read()
        connection.close()
        return response.status, json.loads(text) if text else None

    def get(self, path: str) -> Any:
        """Return a document."""
        status, document = self.request("GET", path)
        assert status == 200, (status, document)
        return document

    def post(self, name: str, source: str, **more: Any) -> str:
        """Create a stream with `motion`, and return its id."""
        body = {"name": name, "source": source, "analytics": [{"name": "motion"}], **more}
        status, document = self.request("POST", "/streams", body)
        assert status == 201, document
        return str(document["stream_id"])

    def stream(self, stream_id: str) -> dict[str, Any]:
        """Return what is known of a stream."""
        return dict(self.get(f"/streams/{stream_id}"))

    def until(
        self, condition: Callable[[], object], seconds: float = 30, pause: float = 0.01
    ) -> float:
        """Wait for a condition, and return how long it took; it is looked at every `pause` seconds."""
        begun = time.perf_counter()
        while not condition():
            if time.perf_counter() - begun > seconds:
                raise TimeoutError(f"not within {seconds} s")
            time.sleep(pause)
        return time.perf_counter() - begun

    def working(self, streams: list[str], seconds: float = 60) -> list[int]:
        """Wait until frames of all these streams are looked at; return their workers' process ids."""
        for stream_id in streams:
            self.until(lambda: self.stream(stream_id)["frames"]["analysed"], seconds, 0.05)  # noqa: B023
        return [self.stream(stream_id)["worker"]["pid"] for stream_id in streams]

    def stop(self) -> tuple[int, float]:
        """Send SIGTERM; return the exit code, and the seconds until then."""
        begun = time.perf_counter()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(), time.perf_counter() - begun


class Cameras:
    """Serves H.264 in MPEG-TS over HTTP at its own pace, in a thread for each connection; a context manager.

    Args:
        size: Of the pictures.
        fps: Of each stream.
        seconds: How long each stream is; then it begins anew.
    """

    def __init__(
        self, size: tuple[int, int] = (640, 360), fps: int = 10, seconds: int = 90
    ) -> None:
        file = _Pieces()
        with av.open(file, "w", format="mpegts") as container:
            for _ in encode(container, size, fps * seconds, fps, gop=fps):
                file.cut()
        self._pieces, self._interval = file.pieces, 1 / fps

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/"
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: video/mp2t\r\n\r\n")
            due = time.monotonic()
            for piece in self._pieces:
                connection.sendall(piece)
                due += self._interval
                time.sleep(max(0.0, due - time.monotonic()))
        except OSError:
            pass
        finally:
            connection.close()


class _Pieces(io.RawIOBase):
    """Keeps what is written, cut where one frame ends."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[bytes] = []
        self._now = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._now += data
        return len(data)

    def cut(self) -> None:
        if self._now:
            self.pieces.append(bytes(self._now))
            self._now.clear()
