"""How fast events and failures of one worker's plugins are taken: what yields more of them waits.

It costs nobody else anything then.

Nothing is dropped for it here: the worker cannot send on meanwhile, so live frames are dropped as busy, and a
file is read more slowly.
"""

from __future__ import annotations

from typing import Final

import trio

#: Most events, and most bytes of pictures and data, that are taken in a second, for long.
EVENTS: Final = 500.0
BYTES: Final = 32.0 * 1024 * 1024
#: For how many seconds' worth there is room at once.
_BURST: Final = 2.0


class Pacing:
    """Says how long to wait before the next event is taken.

    Args:
        events: Most of them in a second, for long.
        size: Most bytes of them in a second, for long.
    """

    def __init__(self, events: float = EVENTS, size: float = BYTES) -> None:
        self._rates = (events, size)
        self._room = [_BURST * events, _BURST * size]
        self._filled = trio.current_time()

    def spend(self, size: int) -> float:
        """Count an event of so many bytes; return for how many seconds to take no other."""
        now = trio.current_time()
        passed, self._filled = now - self._filled, now
        for n, (rate, cost) in enumerate(zip(self._rates, (1, size), strict=True)):
            self._room[n] = min(_BURST * rate, self._room[n] + passed * rate) - cost
        waits = (-room / rate for room, rate in zip(self._room, self._rates, strict=True))
        return max(0.0, *waits)
