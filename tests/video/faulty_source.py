"""A server whose streams misbehave, one fault for each path: what cameras do that somebody complained of.

A path is ``/mjpeg/FAULT`` or ``/ts/FAULT`` over HTTP, and ``/FAULT`` over RTSP, interleaved on the same port.
The faults are the functions of `FAULTS`; a path that is healed sends good pictures.
"""

from __future__ import annotations

import socket
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, NoReturn
from urllib.parse import urlsplit

from tests.video.coded import GROUP, RATE, TransportStream, h264, jpeg, units, video

__all__ = ["FAULTS", "FaultySource", "faulty_source", "jpeg", "response", "video"]

GARBAGE: Final = b"\x9d\x01" * 200_000
HOUR: Final = 3600.0
SDP: Final = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nt=0 0\r\na=control:*\r\nm={media} 0 RTP/AVP 96\r\n"
    "a=rtpmap:96 {coding}\r\na=fmtp:96 packetization-mode=1\r\na=control:track1\r\n"
)


class OverError(Exception):
    """The source was closed or healed: the connection is to end."""


class Out:
    """One connection, over which pictures are sent.

    Args:
        connection: It.
        head: The first request.
        over: Set when the source is closed or healed.
    """

    audio = False
    kind = "video/mp2t"

    def __init__(self, connection: socket.socket, head: bytes, over: threading.Event) -> None:
        self.connection = connection
        self.head = head
        self._over = over

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def wait(self, seconds: float | None = None) -> None:
        if self._over.wait(seconds):
            raise OverError

    def hold(self) -> NoReturn:
        self.wait()
        raise OverError

    def begin(self) -> None:
        """Get as far as before the first picture."""
        self.send(b"HTTP/1.0 200 OK\r\nContent-Type: " + self.kind.encode() + b"\r\n\r\n")

    def refuse(self, status: str) -> None:
        self.send(f"HTTP/1.0 {status}\r\nContent-Length: 0\r\n\r\n".encode())

    def frame(self, number: int, at: float, size: tuple[int, int]) -> None:
        raise NotImplementedError

    def play(
        self,
        count: int = 10**6,
        first: int = 0,
        shift: float = 0.0,
        size: tuple[int, int] = (64, 48),
        only: Callable[[int], bool] = lambda number: True,
    ) -> None:
        """Send pictures in real time.

        Args:
            count: How many.
            first: The number of the first.
            shift: What is added to their times, in seconds.
            size: Of the pictures.
            only: Says which are sent.
        """
        for number in range(first, first + count):
            if only(number):
                self.frame(number, 10 + number / RATE + shift, size)
            self.wait(1 / RATE)


class Mjpeg(Out):
    kind = "multipart/x-mixed-replace; boundary=frame"

    def frame(self, number: int, at: float, size: tuple[int, int]) -> None:
        picture = jpeg(number, size)
        head = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(picture)
        self.send(head + picture + b"\r\n")


class Ts(Out):
    def begin(self) -> None:
        super().begin()
        self._muxer = TransportStream(0x03 if self.audio else 0x1B)

    def frame(self, number: int, at: float, size: tuple[int, int]) -> None:
        self.send(self._muxer.picture(h264(size)[number % GROUP], at))


class Rtsp(Out):
    def begin(self) -> None:
        media, coding = ("audio", "PCMA/8000") if self.audio else ("video", "H264/90000")
        sdp = SDP.format(media=media, coding=coding).encode()
        self._sequence = 0
        while True:
            method = self.head.split(b" ")[0]
            if method == b"DESCRIBE":
                self._reply(b"Content-Type: application/sdp\r\n", sdp)
            elif method == b"SETUP":
                self._reply(b"Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n")
            else:
                self._reply(b"Public: DESCRIBE, SETUP, PLAY, TEARDOWN\r\nSession: 1\r\n")
            if method == b"PLAY":
                return
            if not (head := self.connection.recv(65536)):
                raise OverError
            self.head = head

    def refuse(self, status: str) -> None:
        while self.head:
            self._reply(b'WWW-Authenticate: Basic realm="x"\r\n', status=status.encode())
            self.head = self.connection.recv(65536)

    def _reply(self, fields: bytes, body: bytes = b"", status: bytes = b"200 OK") -> None:
        sequence = self.head.split(b"CSeq: ")[1].split(b"\r\n")[0]
        self.send(
            b"RTSP/1.0 %s\r\nCSeq: %s\r\n%sContent-Length: %d\r\n\r\n%s"
            % (status, sequence, fields, len(body), body)
        )

    def frame(self, number: int, at: float, size: tuple[int, int]) -> None:
        parts = [bytes(160)] if self.audio else units(h264(size)[number % GROUP])
        for place, part in enumerate(parts):
            self._sequence = (self._sequence + 1) % 2**16
            last = 0x80 if place == len(parts) - 1 else 0
            stamp = int(at * (8_000 if self.audio else 90_000)) % 2**32
            head = bytes([0x80, last | 96]) + self._sequence.to_bytes(2, "big")
            packet = head + stamp.to_bytes(4, "big") + b"\0\0\0\1" + part
            self.send(b"$\0" + len(packet).to_bytes(2, "big") + packet)


def good(out: Out) -> None:
    out.begin()
    out.play()


def silent(out: Out) -> None:
    """It accepts the connection, and says nothing."""
    out.hold()


def half(out: Out) -> None:
    """It says half a header."""
    out.send(b"RTSP/1.0 200" if isinstance(out, Rtsp) else b"HTTP/1.0 200 OK\r\nContent-")
    out.hold()


def drips(out: Out) -> None:
    """It says a header that never ends, a letter at a time."""
    out.send(b"RTSP/1.0 200 OK\r\nX: " if isinstance(out, Rtsp) else b"HTTP/1.0 200 OK\r\nX: ")
    while True:
        out.send(b"x")
        out.wait(0.05)


def closes(out: Out) -> None:
    """It closes the connection at once."""


def unauthorized(out: Out) -> None:
    out.refuse("401 Unauthorized")


def missing(out: Out) -> None:
    out.refuse("404 Not Found")


def garbage(out: Out) -> None:
    """It sends what is no video, and ends."""
    if not isinstance(out, Rtsp):
        Out.begin(out)
    out.send(GARBAGE)


def babbles(out: Out) -> None:
    """It sends what is no video, and goes on with it."""
    out.begin()
    while True:
        out.send(GARBAGE[:1000])
        out.wait(0.02)


def stalls(out: Out) -> None:
    """After a second of pictures nothing comes, and the connection stays open."""
    out.begin()
    out.play(RATE)
    out.hold()


def ends(out: Out) -> None:
    """After a second of pictures the connection ends."""
    out.begin()
    out.play(RATE)


def keyless(out: Out) -> None:
    """After a second it sends no key frame any more."""
    out.begin()
    out.play(RATE)
    out.play(first=RATE, only=lambda number: bool(number % GROUP))


def empty(out: Out) -> None:
    """After a second, nothing that it sends can be decoded."""
    out.begin()
    out.play(RATE)
    out.play(first=RATE, size=(0, 0))


def late(out: Out) -> None:
    """It begins in the midst of a group: the first key frame is lost."""
    out.begin()
    out.play(first=GROUP // 2)


def sizes(out: Out) -> None:
    """The pictures' size changes twice a second."""
    out.begin()
    for group in range(10**6):
        out.play(GROUP, group * GROUP, size=(96, 64) if group % 2 else (64, 48))


def jumps(out: Out) -> None:
    """The times jump by an hour each second."""
    out.begin()
    for second in range(10**6):
        out.play(2 * GROUP, second * 2 * GROUP, shift=second * HOUR)


def back(out: Out) -> None:
    """The times go back by an hour after a second."""
    out.begin()
    out.play(2 * GROUP, shift=HOUR)
    out.play(first=2 * GROUP)


def again(out: Out) -> None:
    """The times start again each second."""
    out.begin()
    for _ in range(10**6):
        out.play(2 * GROUP)


def audio(out: Out) -> None:
    """There is sound, and no video."""
    out.audio = True
    out.begin()
    out.play()


def slow(out: Out) -> None:
    """It has one picture each 1.2 seconds."""
    out.begin()
    for number in range(10**6):
        out.frame(number, number * 1.2, (64, 48))
        out.wait(1.2)


def gap(out: Out) -> None:
    """Forty pictures at once, of which FFmpeg looks at some first; and more half a second later."""
    out.begin()
    for wait in (0.5, None):
        for number in range(40):
            out.frame(number, number / RATE, (64, 48))
        out.wait(wait)


def short(out: Out) -> None:
    """A second of MPEG-TS with its length, and its end."""
    out.send(response(video(12, 12, "mpeg2video", "mpegts")))


FAULTS: Final[dict[str, Callable[[Out], None]]] = {
    fault.__name__: fault
    for fault in (
        good, silent, half, drips, closes, unauthorized, missing, garbage, babbles, stalls, ends, keyless,
        empty, late, sizes, jumps, back, again, audio, slow, gap, short,
    )
}  # fmt: skip


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
        self._over: defaultdict[str, threading.Event] = defaultdict(threading.Event)
        self._healed: set[str] = set()
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def url(self, fault: str, scheme: str = "http") -> str:
        """Return the address of a fault: ``FAULT`` or ``mjpeg/FAULT``, ``ts/FAULT``; by RTSP ``FAULT``."""
        return f"{scheme}://127.0.0.1:{self.port}/{fault}"

    def heal(self, url: str) -> None:
        """End all connections of an address, and send good pictures there from now on."""
        path = urlsplit(url).scheme + urlsplit(url).path
        self._healed.add(path)
        self._over.pop(path, threading.Event()).set()

    def close(self) -> None:
        for over in [*self._over.values()]:
            over.set()
        self._listener.shutdown(socket.SHUT_RDWR)  # which wakes who waits in accept()
        self._listener.close()
        self._thread.join()
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
            kind = Rtsp if b" RTSP/" in head else Ts if b"/ts/" in request[1] else Mjpeg
            address = urlsplit(request[1].decode())
            path = ("rtsp" if kind is Rtsp else "http") + address.path
            name = path.rpartition("/")[2]
            self.connections[name] = self.connections.get(name, 0) + 1
            if self.login is not None and self.login not in head:
                login = response(b"", status="401 Go", WWW_Authenticate='Basic realm="x"')
                connection.sendall(login)
            elif name in self.documents:
                connection.sendall(self.documents[name])
            else:
                fault = good if path in self._healed else FAULTS[name]
                fault(kind(connection, head, self._over[path]))
        except (OSError, OverError):
            pass
        finally:
            self._open.discard(connection)
            connection.close()


@contextmanager
def faulty_source() -> Iterator[FaultySource]:
    source = FaultySource()
    try:
        yield source
    finally:
        source.close()
