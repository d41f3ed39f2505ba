"""What happens again and again is logged the first time, and then every ten seconds with its number."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

#: How long, in seconds, nothing more is logged of the same thing.
INTERVAL: Final = 10.0


class Recurring:
    """Counts how often something happens, and says when that is to be logged.

    Args:
        clock: Tells the time, in seconds.

    Attributes:
        count: How often it has happened.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.count: int = 0
        self._clock = clock
        self._logged = 0
        self._quiet_until: float | None = None

    def again(self) -> int:
        """Count it once more.

        Returns:
            How often it has happened since that was last logged, this time included; 0 while nothing is to
            be logged.
        """
        self.count += 1
        now = self._clock()
        if self._quiet_until is not None and now < self._quiet_until:
            return 0
        self._quiet_until = now + INTERVAL
        news, self._logged = self.count - self._logged, self.count
        return news
