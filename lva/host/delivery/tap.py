"""Points as they pass, for whoever looks at them, at no cost to those that they are for.

The way of points only ever appends to a bounded buffer, and not even that while nobody looks. Whoever
looks takes what has gathered from time to time; what did not fit is counted, not waited for.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from lva.host.delivery.inbox import Inbox

#: What may happen to points on their way.
PUBLISHED: Final = "published"
DELIVERED: Final = "delivered"
FAILED: Final = "failed"
REJECTED: Final = "rejected"
DROPPED: Final = "dropped"
STEPS: Final = {
    PUBLISHED: "handed to all plugins that asked for them",
    DELIVERED: "in a call of handleEvent() that returned",
    FAILED: "in a call that did not; they will be tried again",
    REJECTED: "called wrong for ever by the plugin",
    DROPPED: "dropped after too many attempts, or because of their age",
}
#: Most points that wait for an observer.
BUFFER: Final = 10_000


class Passage(NamedTuple):
    """Points that have passed together.

    Attributes:
        at: When, in Unix seconds.
        step: What has happened to them, one of `STEPS`.
        plugin: Whose doing that is: who published them (None: the service), or who was to take them.
        points: They.
    """

    at: float
    step: str
    plugin: str | None
    points: Sequence[Any]


class Tap:
    """What gathers for one observer.

    Args:
        plugin: Whose points: published by it, or on their way to it. None: all that are published.
        limit: Most points that wait.
    """

    def __init__(self, plugin: str | None, limit: int = BUFFER) -> None:
        self._plugin = plugin
        self._limit = limit
        self._inbox = Inbox(self._add)
        self._passages: deque[Passage] = deque()
        self._waiting = 0
        self._missed = 0

    def offer(self, step: str, plugin: str | None, points: Sequence[Any]) -> None:
        """Take points, unless they are of no interest or there is no room; at any moment, in any thread."""
        if (step != PUBLISHED) if self._plugin is None else plugin != self._plugin:
            return
        self._inbox.put(Passage(time.time(), step, plugin, points))

    def _add(self, passage: Passage) -> None:
        count = len(passage.points)
        room = self._limit - self._waiting
        if count > room:
            self._missed += count - room
            if not room:
                return
            passage = passage._replace(points=passage.points[:room])
        self._waiting += len(passage.points)
        self._passages.append(passage)

    def take(self) -> tuple[Sequence[Passage], int]:
        """Return what has gathered since the last time, and how many points there was no room for."""
        return self._inbox.alone(self._take_all) or ((), 0)

    def _take_all(self) -> tuple[Sequence[Passage], int]:
        taken, self._passages = self._passages, deque()
        missed, self._missed, self._waiting = self._missed, 0, 0
        return taken, missed


class Taps:
    """All observers; false while there is none."""

    def __init__(self) -> None:
        self.open: tuple[Tap, ...] = ()  # replaced as a whole: other threads go through it

    def __len__(self) -> int:
        return len(self.open)

    @contextmanager
    def tapped(self, plugin: str | None) -> Iterator[Tap]:
        """Observe points inside; see `Tap` for which.

        Cancellation, Errors: of the block pass, and end the observation.
        """
        tap = Tap(plugin)
        self.open = (*self.open, tap)
        try:
            yield tap
        finally:
            self.open = tuple(other for other in self.open if other is not tap)

    def offer(self, step: str, plugin: str | None, points: Sequence[Any]) -> None:
        """Show points to the observers. Ask first whether there are any: that is cheaper."""
        for tap in self.open:
            tap.offer(step, plugin, points)
