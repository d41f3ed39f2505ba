"""How much a plugin may log: the first records of each ten seconds whole, then only their number.

So no plugin can fill a disk. Warnings and errors have an allowance of their own, so that a flood of other
records does not hide them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

#: For how long, in seconds, an allowance is; and how many records and characters it has.
WINDOW: Final = 10.0
MOST_RECORDS: Final = 500
MOST_CHARACTERS: Final = 256_000
#: Most plugins and levels that have an allowance of their own; a plugin may log under any number of names.
_MOST_LANES: Final = 1000


class Suppressed(NamedTuple):
    """Records that were not logged.

    Attributes:
        plugin: Whose they were; None for those of no plugin.
        severe: Whether they were warnings and errors.
        number: How many.
    """

    plugin: str | None
    severe: bool
    number: int


@dataclass(slots=True)
class _Lane:
    until: float
    records: int = 0
    characters: int = 0
    suppressed: int = 0


class LogLimits:
    """Counts what each plugin logs. Any thread may call, and a finalizer in the midst of a call, too.

    Args:
        clock: Tells the time, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lanes: dict[tuple[str | None, bool], _Lane] = {}
        self._lock = threading.RLock()

    def admits(self, plugin: str | None, severe: bool) -> bool:
        """Return whether another record may be logged; if not, count it."""
        with self._lock:
            lane = self._lane(plugin, severe)
            if lane.records < MOST_RECORDS and lane.characters < MOST_CHARACTERS:
                lane.records += 1
                return True
            lane.suppressed += 1
            return False

    def spend(self, plugin: str | None, severe: bool, characters: int) -> None:
        """Note how long a record was."""
        with self._lock:
            self._lane(plugin, severe).characters += characters

    def _lane(self, plugin: str | None, severe: bool) -> _Lane:
        key = plugin, severe
        if key not in self._lanes and len(self._lanes) >= _MOST_LANES:
            key = None, severe
        now = self._clock()
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = _Lane(now + WINDOW)
        elif now >= lane.until and not lane.suppressed:  # else `over` begins the next
            lane.until, lane.records, lane.characters = now + WINDOW, 0, 0
        return lane

    @property
    def due(self) -> float | None:
        """In how many seconds `over` has something to tell; None if nothing is suppressed."""
        with self._lock:
            ends = [lane.until for lane in self._lanes.values() if lane.suppressed]
        return max(0.0, min(ends) - self._clock()) if ends else None

    def over(self, now: float | None = None) -> Iterator[Suppressed]:
        """Yield what was suppressed in windows that are over, and begin their next.

        Args:
            now: Until when windows are over; by default until now.
        """
        clock = self._clock()
        told: list[Suppressed] = []
        with self._lock:
            for (plugin, severe), lane in self._lanes.items():
                if lane.suppressed and lane.until <= (clock if now is None else now):
                    told.append(Suppressed(plugin, severe, lane.suppressed))
                    lane.until, lane.records, lane.characters = clock + WINDOW, 0, 0
                    lane.suppressed = 0
        yield from told
