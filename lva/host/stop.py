"""That the plugins are to stop: why, since when, and by when. In which order, `host.py` says."""

from __future__ import annotations

import time
from typing import Final

import trio

from lva.host.runtimes.patience import Patience

#: How many of a plugin's last waits may outlast the deadline by the least grace there is.
_LAST_WAITS: Final = 4


class Stop:
    """The one stop of a host.

    Args:
        limit: How long it may take, in seconds.

    Attributes:
        requested: Set once the plugins are to stop.
        reason: Why.
        deadline: Trio time by which they must have ended.
        critical: The critical plugin that failed, if one has.
        gave_up: Set together with it, or when the host itself failed: the service is to end.
        failed: Whether the service, and not a plugin, is what failed.
    """

    def __init__(self, limit: float) -> None:
        self.requested: trio.Event = trio.Event()
        self.reason: str = "the service stopped"
        self.deadline: float = float("inf")
        self.critical: str | None = None
        self.gave_up: trio.Event = trio.Event()
        self.failed: bool = False
        self._limit = limit
        self._begun = 0.0
        self._begun_real = 0.0

    def request(self, reason: str, deadline: float | None = None) -> None:
        """Ask for the plugins to be stopped; the first request counts.

        Args:
            reason: For the log and the receipt.
            deadline: Trio time by which they must have ended; the limit from now if left out.
        """
        if not self.requested.is_set():
            self.reason = reason
            self._begun = trio.current_time()
            self._begun_real = time.monotonic()
            end = self._begun + self._limit
            end = end if deadline is None else min(end, deadline)
            self.deadline = end - min(_LAST_WAITS * Patience.LEAST, (end - self._begun) / 3)
            self.requested.set()

    def share(self, part: float) -> float:
        """Return the end of a part of the time that is left, in Trio time."""
        now = trio.current_time()
        return now + max(0.0, self.deadline - now) * part

    def seconds(self) -> float:
        """Return for how long it has gone on. Any thread may ask."""
        if not self._begun_real:
            return 0.0
        try:
            return trio.current_time() - self._begun
        except RuntimeError:  # outside Trio, in the terminator's thread
            return time.monotonic() - self._begun_real
