"""The process of one stream: reads, decodes, and has frames looked at.

Forked, or run as ``python -m lva.video.worker.main``.

The main thread is that of the analytics. It reads a file itself, frame by frame; FFmpeg's threads decode
ahead. A live source has a thread that reads: it never waits, its newest frame takes the place of one that was
not looked at. The control thread hears the service, and ends the process when that asks for it or has gone:
a call of FFmpeg's, or of a plugin, that never returns cannot keep it. SIGTERM keeps its default, since a
handler of Python's never runs while FFmpeg blocks.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from lva.contract import AnalyticsEvent, AnalyticsStream
from lva.video import messages
from lva.video.board import Board, take_last_words
from lva.video.frame import Frame, encode_jpeg
from lva.video.geometry import Region, placed
from lva.video.growth import Growth
from lva.video.orphans import adopt_orphans
from lva.video.worker.analysis import MOST_FAILURES, Analytics
from lva.video.worker.decoder import Decoder
from lva.video.worker.descendants import note_descendants
from lva.video.worker.failures import ConnectionLostError, words_of
from lva.video.worker.newest import NewestFrame
from lva.video.worker.niceness import Niceness
from lva.video.worker.output import WorkerOutput, to_pipe
from lva.video.worker.sameness import Sameness
from lva.video.worker.selection import Selection

#: Seconds between two signs of life.
HEARTBEAT: Final = 1.0
_PR_SET_PDEATHSIG: Final = 1


class Worker:
    """One stream's process.

    Args:
        connection: To the service.
        board: Shared with it.
    """

    def __init__(self, connection: socket.socket, board: Board) -> None:
        self._connection = connection
        self._board = board
        self._sending = threading.Lock()
        self._orders: queue.SimpleQueue[bool] = queue.SimpleQueue()  # connect, or read no more
        self._newest = NewestFrame(board)
        self._number = 0  # of the last frame that was decoded
        self._stopping = False
        self._growth = Growth(board)
        self._pid = os.getpid()
        self._told: dict[str, str] = {}
        self._previews: queue.SimpleQueue[dict[str, int]] = queue.SimpleQueue()

    def run(self) -> None:
        """Work until the service asks for the end, or has gone.

        Resources: threads that hear the service, give signs of life and, for a live source, read it. Nothing
        waits for them: they go on until the process ends. The source is closed whenever reading ends.

        Errors: what plugins and sources raise is told to the service. Once that has gone, or sends what is no
        message, the process ends at once, with exit code 3; if it has gone before the first, this returns.

        Raises:
            MessageError: The first message is none.
        """
        received = messages.receive(self._connection)
        if received is None:
            return
        self._spec: Mapping[str, Any] = received[0]
        # Before there are threads, which inherit it.
        self._niceness = Niceness(self._spec["priority"])
        self._output = WorkerOutput(self._send_log, self._running, self._spec["log_level"])
        threading.Thread(target=self._control, name="control", daemon=True).start()
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()
        analytics = self._opened()
        if self._spec["source"]["live"]:
            reader = threading.Thread(
                target=self._read, args=(self._newest.put,), name="reader", daemon=True
            )
            reader.start()
            while (frame := self._newest.take()) is not None:
                self._analyse(analytics, frame)
        else:
            self._read(partial(self._analyse, analytics))
        for each in analytics:
            self._guarded(each, "close", each.close)
        self._send({"type": "closed"})

    # The main thread: analytics.

    def _opened(self) -> list[Analytics]:
        stream = AnalyticsStream(self._spec["stream_id"], self._spec["name"])
        analytics = [
            Analytics(number, spec, stream, self._board, self._growth)
            for number, spec in enumerate(self._spec["analytics"])
        ]
        return [each for each in analytics if self._guarded(each, "open", each.open)]

    def _guarded(self, analytics: Analytics, step: str, work: Any) -> bool:
        """Do one step of a plugin; say what it raised, and return whether it did not."""
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - the plugin's, sys.exit() too
            self._say_failed(analytics, step, error, 0)
            return False
        return True

    def _say_failed(
        self, analytics: Analytics, step: str, error: BaseException, frame: int
    ) -> None:
        said = _sayable(f"{type(error).__name__}: {error}")[:500]
        lines = ""
        if self._told.get(analytics.name) != said:  # what is the same is told once
            self._told[analytics.name] = said
            lines = _sayable("".join(traceback.format_exception(error)))
        self._send(
            {
                "type": "analytics_failed",
                "analytics": analytics.name,
                "step": step,
                "frame": frame,
                "error": said,
                "traceback": lines[-4000:],
            }
        )

    def _analyse(self, analytics: list[Analytics], frame: Frame) -> None:
        self._board.note_age(frame.age * 1000)
        frame.making = self._growth.not_counted
        failed = False
        for each in tuple(analytics):
            failed |= not self._looked_at(each, frame)
            if each.failures >= MOST_FAILURES:
                analytics.remove(each)
                self._guarded(each, "close", each.close)
                self._send({"type": "set_aside", "analytics": each.name, "frame": frame.number})
        self._board.add("failed" if failed else "analysed")

    def _looked_at(self, analytics: Analytics, frame: Frame) -> bool:
        try:
            events = analytics.handle(frame)
        except BaseException as error:  # noqa: BLE001 - the plugin's, sys.exit() too
            analytics.failures += 1
            self._say_failed(analytics, "handleFrame", error, frame.number)
            return False
        sent = [self._send_event(analytics, frame, event) for event in events]
        analytics.failures = 0 if all(sent) else analytics.failures + 1
        return all(sent)

    def _send_event(self, analytics: Analytics, frame: Frame, event: AnalyticsEvent) -> bool:
        message = {
            "type": "event",
            "analytics": analytics.name,
            "event_type": event.event_type,
            "frame": frame.number,
            "time": frame.wall_time,
            "pts": frame.pts,
            "data": event.data,
        }
        try:
            self._send(message, event.image)
        except (TypeError, ValueError) as error:
            self._say_failed(analytics, "handleFrame", error, frame.number)
            return False
        return True

    # Reading: a file by the main thread, a live source by one of its own.

    def _read(self, give: Callable[[Frame], None]) -> None:
        """Connect each time the service asks for it, and give each frame that is wanted away."""
        while self._orders.get():
            try:
                decoder = Decoder(self._spec["source"], self._timeout, self._board)
                with contextlib.closing(decoder):  # a camera may serve one at a time
                    self._send({"type": "connected", **decoder.info})
                    self._feed(decoder, give)
            except ConnectionLostError as failure:
                end = {"code": failure.code, "message": str(failure)}
            except Exception as error:  # noqa: BLE001 - whatever FFmpeg makes of what came
                end = {"code": "invalid_data", "message": words_of(error)}
            else:
                if self._stopping:
                    return
                end = {"code": "end_of_stream", "message": "the source ended"}
            self._send({"type": "disconnected", **end})

    def _feed(self, decoder: Decoder, give: Callable[[Frame], None]) -> None:
        selection, sameness = Selection(self._spec.get("rate")), Sameness(self._board)
        first = True
        size, roi, droi = (0, 0), None, None
        for picture, pts in decoder.frames():
            if self._stopping:
                break
            self._number += 1
            if size != (picture.width, picture.height):
                size = picture.width, picture.height
                roi = self._region("roi", *size) or Region(0, 0, *size)
                droi = self._region("droi", *size) or roi
            if first:
                first = False
                self._send({"type": "frames", "width": size[0], "height": size[1]})
            self._board.add("decoded")
            if picture.is_corrupt:
                self._board.add("skipped_corrupt")
                continue
            sameness.note(picture)
            # Before others have the picture: converting it changes it.
            while not self._previews.empty():
                self._send_preview(picture, **self._previews.get())
            key = bool(picture.key_frame)
            if (reason := selection.skips(pts, key)) is not None:
                self._board.add(f"skipped_{reason}")
                continue
            give(Frame(picture, self._number, pts, key, roi, droi))

    def _region(self, name: str, width: int, height: int) -> Region | None:
        rectangle = self._spec[name]
        try:
            return rectangle and placed(**rectangle, size=(width, height))
        except ValueError as error:
            raise ConnectionLostError("wrong_region", f"{name}: {error}") from error

    def _send_preview(self, picture: Any, edge: int, quality: int) -> None:
        message = {"type": "preview", "time": time.time(), "edge": edge, "quality": quality}
        scale = min(1.0, edge / max(picture.width, picture.height))
        if scale < 1:
            picture = picture.reformat(
                width=max(2, int(picture.width * scale)) // 2 * 2,
                height=max(2, int(picture.height * scale)) // 2 * 2,
            )
        self._send(message, encode_jpeg(picture, quality))

    # The control thread, and the sign of life.

    def _control(self) -> None:
        try:
            while (received := messages.receive(self._connection)) is not None:
                self._do(received[0])
        finally:  # the service has gone, or says nothing that is understood
            os._exit(3)

    def _do(self, message: Mapping[str, Any]) -> None:
        kind = message["type"]
        if kind == "connect":
            self._timeout = message["timeout"]
            self._orders.put(True)
        elif kind == "preview":
            self._previews.put({"edge": message["edge"], "quality": message["quality"]})
        elif kind == "stop":
            self._stopping = True
            self._orders.put(False)
            self._newest.end()

    def _beat(self) -> None:
        while True:
            self._board["alive"] = time.monotonic_ns()
            self._output.tell_suppressed()
            self._niceness.tell_session()
            note_descendants(self._board)
            time.sleep(HEARTBEAT)

    def _send(self, message: dict[str, Any], data: bytes = b"") -> None:
        """Send a message; waits while the service does not read.

        Raises:
            TypeError, ValueError: It cannot be sent.
        """
        encoded = messages.encode(message, data)
        if os.getpid() != self._pid:  # a child that a plugin forked: the connection is not its own
            if message["type"] == "log":
                os.write(1, f"{message['text']}\n".encode(errors="backslashreplace"))
            return
        with self._sending:
            try:
                self._connection.sendall(encoded)
            except OSError:
                os._exit(3)

    # What plugins log and print.

    def _running(self) -> str | None:
        """Return the plugin whose code runs, as far as that is known."""
        specs = self._spec["analytics"]
        if not self._board["step"] and len(specs) != 1:
            return None
        return str(specs[self._board["step_analytics"] if len(specs) != 1 else 0]["name"])

    def _send_log(self, plugin: str | None, level: int, text: str) -> None:
        self._send({"type": "log", "analytics": plugin, "level": level, "text": _sayable(text)})


def _sayable(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()  # lone surrogates are no UTF-8


def end_with(parent: int) -> None:
    """Let the kernel end this process with its parent, which must not have ended yet."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before that
        os._exit(3)


def main() -> None:
    """Run the worker on the descriptors of the service: the connection's, the board's, and for its output."""
    connection, board, output, parent = (int(argument) for argument in sys.argv[1:5])
    end_with(parent)
    adopt_orphans()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal reaches the whole group
    to_pipe(output)
    for descriptor in (connection, board):  # what plugins start has no use for them
        os.set_inheritable(descriptor, False)
    worker = Worker(socket.socket(fileno=connection), Board(board))
    take_last_words(board)
    with contextlib.suppress(KeyboardInterrupt):
        worker.run()
    os._exit(0)  # no thread of FFmpeg's or of a plugin's is waited for


if __name__ == "__main__":
    main()
