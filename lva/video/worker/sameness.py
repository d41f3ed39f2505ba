"""Notes when the picture of a stream last changed: a camera whose picture is frozen still sends frames."""

from __future__ import annotations

import time
import zlib
from typing import Any, Final

from lva.video.board import Board

#: Nanoseconds between two looks, and of how many bytes of the picture one is looked at; a prime, so that it
#: is another column in each row.
_LOOK: Final = 1_000_000_000
_STRIDE: Final = 97


class Sameness:
    """Compares pictures, one a second at most; the noise of a camera makes any two differ.

    Args:
        board: Where it is noted.
    """

    def __init__(self, board: Board) -> None:
        self._board = board
        self._looked = 0
        self._before: int | None = None

    def note(self, picture: Any) -> None:
        """Compare a picture with the last one that was looked at; a `av.VideoFrame`."""
        now = time.monotonic_ns()
        if now - self._looked < _LOOK:
            return
        self._looked = now
        sample = zlib.crc32(bytes(memoryview(picture.planes[0])[::_STRIDE]))
        if sample != self._before:
            self._before = sample
            self._board["last_change"] = now
