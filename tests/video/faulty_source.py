"""A server whose streams misbehave, one fault for each path: what cameras do that somebody complained of."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import av
import numpy as np

BOUNDARY = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
MULTIPART = b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n"


def jpeg(number: int, size: tuple[int, int] = (64, 48)) -> bytes:
    """Return a JPEG whose brightness tells its number."""
    from lva.video.frame import encode_jpeg

    array = np.full((size[1], size[0], 3), number * 20 % 256, np.uint8)
    return encode_jpeg(av.VideoFrame.from_ndarray(array, format="rgb24"))


def part(number: int, size: tuple[int, int] = (64, 48)) -> bytes:
    picture = jpeg(number, size)
    return BOUNDARY % len(picture) + picture + b"\r\n"


def video(frames: int = 24, fps: int = 12, codec: str = "mpeg4", format: str = "mp4") -> bytes:  # noqa: A002
    """Return a file of video."""
    coded = io.BytesIO()
    with av.open(coded, "w", format=format) as container:
        stream: Any = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(frames):
            array = np.full((48, 64, 3), number * 10 % 256, np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")):
                container.mux(packet)
        container.mux(stream.encode(None))
    return coded.getvalue()


def response(
    body: bytes, kind: str = "video/mp2t", status: str = "200 OK", **headers: str
) -> bytes:
    """Return a whole response."""
    fields = {"Content-Type": kind, "Content-Length": len(body), "Connection": "close", **headers}
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode() + body


class FaultySource:
    """Serves faults over TCP until it is closed, each connection in a thread.

    Attributes:
        connections: How many there were, by path.
        documents: Whole responses, by the name at the end of their path.
        login: What the header Authorization has to say; anything if None.
    """

    def __init__(self) -> None:
        self.connections: dict[str, int] = {}
        self.documents: dict[str, bytes] = {}
        self.login: bytes | None = None
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ended = threading.Event()
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def url(self, fault: str, scheme: str = "http") -> str:
        return f"{scheme}://127.0.0.1:{self.port}/{fault}"

    def close(self) -> None:
        self._ended.set()
        self._listener.close()
        for connection in [*self._open]:
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            head = connection.recv(65536)
            request = head.split(b" ")
            if len(request) < 2:
                return
            if self.login is not None and self.login not in head:
                connection.sendall(
                    response(b"", status="401 Go", WWW_Authenticate='Basic realm="x"')
                )
                return
            path = request[1].decode().rpartition("/")[2].partition("?")[0]
            self.connections[path] = self.connections.get(path, 0) + 1
            if (document := self.documents.get(path)) is not None:
                connection.sendall(document)
                return
            fault: Callable[[socket.socket], None] = getattr(self, f"_{path}")
            fault(connection)
        except OSError:
            pass
        finally:
            self._open.discard(connection)
            connection.close()

    def _silent(self, connection: socket.socket) -> None:
        self._ended.wait()

    def _half(self, connection: socket.socket) -> None:
        connection.sendall(MULTIPART[:30])
        self._ended.wait()

    def _closes(self, connection: socket.socket) -> None:
        pass

    def _unauthorized(self, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.0 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")

    def _missing(self, connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.0 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    def _garbage(self, connection: socket.socket) -> None:
        connection.sendall(
            b"HTTP/1.0 200 OK\r\nContent-Type: video/mp2t\r\n\r\n" + b"\x9d\x01" * 200_000
        )

    def _good(self, connection: socket.socket) -> None:
        self._pictures(connection, lambda n: part(n))

    def _stalls(self, connection: socket.socket) -> None:
        self._pictures(connection, lambda n: part(n), 12)
        self._ended.wait()

    def _ends(self, connection: socket.socket) -> None:
        self._pictures(connection, lambda n: part(n), 12)

    def _short(self, connection: socket.socket) -> None:
        """A second of MPEG-TS, and its end."""
        body = video(12, 12, "mpeg2video", "mpegts")
        head = b"HTTP/1.0 200 OK\r\nContent-Type: video/mp2t\r\nContent-Length: %d\r\n\r\n"
        connection.sendall(head % len(body) + body)

    def _gap(self, connection: socket.socket) -> None:
        """Forty pictures at once, of which FFmpeg looks at some first; and more half a second later."""
        pictures = b"".join(map(part, range(40)))
        connection.sendall(MULTIPART + pictures)
        self._ended.wait(0.5)
        connection.sendall(pictures)
        self._ended.wait()

    def _sizes(self, connection: socket.socket) -> None:
        self._pictures(connection, lambda n: part(n, (64, 48) if n // 6 % 2 else (96, 64)))

    def _pictures(
        self, connection: socket.socket, picture: Callable[[int], bytes], most: int = 10**6
    ) -> None:
        connection.sendall(MULTIPART)
        for number in range(most):
            connection.sendall(picture(number))
            if self._ended.wait(0.04):
                return


@contextmanager
def faulty_source() -> Iterator[FaultySource]:
    source = FaultySource()
    try:
        yield source
    finally:
        source.close()
