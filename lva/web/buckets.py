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

    def take(self, name: str) -> None:
        """Take a token, if there is one."""
        tokens = self._tokens(name)
        self._levels[name] = (max(0.0, tokens - 1), trio.current_time())
        self._levels.move_to_end(name)
        if len(self._levels) > _NAMES:
            self._levels.popitem(last=False)

    def wait(self, name: str) -> float:
        """Return for how many seconds there will be no token; 0 if there is one."""
        return max(0.0, 1 - self._tokens(name)) / self._rate

    def _tokens(self, name: str) -> float:
        tokens, at = self._levels.get(name, (float(self._burst), 0.0))
        return min(self._burst, tokens + (trio.current_time() - at) * self._rate)
