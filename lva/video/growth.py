"""In whose calls a worker's memory grew: the worker notes it on the board, and the service reads it there.

A worker is seldom looked at while the call lasts that its memory grew in.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from lva.video.board import MOST_ANALYTICS, Board

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class Growth:
    """Notes how much memory each analytics plugin's calls added; the worker's side.

    Made before plugins are loaded. One look takes 2 us.

    Resources: a descriptor, until the process ends.

    Args:
        board: Where it is noted.
    """

    def __init__(self, board: Board) -> None:
        self._board = board
        self._statm = os.open("/proc/self/statm", os.O_RDONLY)
        board["memory_begun"] = self._resident()

    def enter(self) -> None:
        """Note that a call begins."""
        self._board["step_memory"] = self._resident()

    def leave(self, number: int) -> None:
        """Note that a call of the plugin with this number has ended; what it freed counts, too."""
        now = self._resident()
        self._board.add(f"grown_{number}", now - self._board["step_memory"])
        self._board["step_memory"] = now

    @contextmanager
    def not_counted(self) -> Iterator[None]:
        """Leave out what is added meanwhile: it is the frame's, whichever plugin asked for it first."""
        before = self._resident()
        yield
        self._board["step_memory"] += self._resident() - before

    def _resident(self) -> int:
        return int(os.pread(self._statm, 64, 0).split()[1]) * _PAGE


def largest_growth(board: Board, memory: int) -> tuple[int, int] | None:
    """Return the number of the plugin in whose calls most memory was added, and how many bytes.

    None unless that is more than half of all that was added since the worker began: the rest is the
    decoder's, or of threads that a plugin started.

    Args:
        board: The worker's.
        memory: How many bytes it has now; what the call that is under way added is counted.
    """
    grown = [board[f"grown_{number}"] for number in range(MOST_ANALYTICS)]
    number = board["step_analytics"]
    if board["step"] and 0 <= number < MOST_ANALYTICS:
        grown[number] += memory - board["step_memory"]
    largest = max(grown)
    if 2 * largest <= max(0, memory - board["memory_begun"]):
        return None
    return grown.index(largest), largest
