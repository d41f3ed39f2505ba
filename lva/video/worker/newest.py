"""Where a live source's newest frame waits for the analytics."""

from __future__ import annotations

import threading

from lva.video.board import Board
from lva.video.frame import Frame


class NewestFrame:
    """Holds one frame between the thread that decodes and that of the analytics; neither waits for the other.

    Args:
        board: Counts frames whose place was taken before anybody looked at them.
    """

    def __init__(self, board: Board) -> None:
        self._board = board
        self._frame: Frame | None = None
        self._changed = threading.Condition(threading.Lock())
        self._ended = False

    def put(self, frame: Frame) -> None:
        """Let a frame wait, in place of the one that does."""
        with self._changed:
            if self._frame is not None:
                self._board.add("dropped_busy")
            self._frame = frame
            self._changed.notify()

    def take(self) -> Frame | None:
        """Wait for a frame; None at the end, when frames that wait are left where they are."""
        with self._changed:
            while self._frame is None and not self._ended:
                self._changed.wait()
            if self._ended:
                return None
            frame, self._frame = self._frame, None
            return frame

    def end(self) -> None:
        """Let `take` return None."""
        with self._changed:
            self._ended = True
            self._changed.notify()
