"""Token buckets: how often somebody may do something."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import trio

#: How many names are remembered: those that came last.
_NAMES: Final = 1024


class Buckets:
    """A bucket of tokens for each name, bounded in number.

    Args:
        burst: How many tokens a full bucket has.
        rate: How many come back per second.
    """

    def __init__(self, burst: int, rate: float) -> None:
        self._burst = burst
        self._rate = rate
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, when

    def take(self, name: str) -> float:
        """Take a token and return 0; if there is none, return in how many seconds there will be one."""
        now = trio.current_time()
        tokens, at = self._levels.get(name, (float(self._burst), now))
        tokens = min(self._burst, tokens + (now - at) * self._rate)
        if tokens < 1:
            return (1 - tokens) / self._rate
        self._levels[name] = (tokens - 1, now)
        self._levels.move_to_end(name)
        if len(self._levels) > _NAMES:
            self._levels.popitem(last=False)
        return 0.0
