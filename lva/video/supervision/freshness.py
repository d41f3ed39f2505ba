"""How many frames a second come now, and how old the newest is."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Final

#: Seconds between two counts that are kept, and for how long they are.
STEP: Final = 1.0
WINDOW: Final = 5.0
_SECOND: Final = 1e9


class Freshness:
    """Measured from counts that are noted from time to time.

    Args:
        clock: Tells nanoseconds; monotonic, the same for all processes.
    """

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock = clock
        self._counts: deque[tuple[float, int]] = deque()
        self._newest = 0

    def note(self, decoded: int, newest: int) -> None:
        """Note how many frames there were until now.

        Args:
            decoded: Since the beginning.
            newest: When the last one was decoded, in the clock's nanoseconds; 0 if none was yet.
        """
        now = self._clock() / _SECOND
        self._newest = max(self._newest, newest)
        if not self._counts or now - self._counts[-1][0] >= STEP:
            self._counts.append((now, decoded))
        self._forget(now)

    def _forget(self, now: float) -> None:
        while self._counts and now - self._counts[0][0] > WINDOW:
            self._counts.popleft()

    @property
    def fps(self) -> float:
        """Frames a second over the last `WINDOW` seconds, or since the counts began; 0 without any."""
        self._forget(self._clock() / _SECOND)
        if len(self._counts) < 2:
            return 0.0
        (begin, before), (end, after) = self._counts[0], self._counts[-1]
        return round((after - before) / (end - begin), 2)

    @property
    def age(self) -> float | None:
        """Seconds since the newest frame was decoded; None before the first."""
        if not self._newest:
            return None
        return round(max(0.0, (self._clock() - self._newest) / _SECOND), 3)

    def pause(self) -> None:
        """Forget the counts: nothing is decoded any more."""
        self._counts.clear()
