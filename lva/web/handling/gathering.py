"""Points of requests that end at nearly the same time are published together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from lva.events.points import MonitoringPoint

#: While other requests are under way, points gather for this long, in seconds, or until they are so many: to
#: publish a few at once costs little more than to publish one.
GATHER_TIME: Final = 0.01
GATHER_COUNT: Final = 50

Publish = Callable[[str, list[MonitoringPoint]], object]


class Gathering:
    """Points that are about to be published. None waits for anything but `GATHER_TIME`.

    Args:
        publish: Hands them to the plugins.
        nursery: Where the task that waits runs.
    """

    def __init__(self, publish: Publish, nursery: trio.Nursery) -> None:
        self._publish = publish
        self._nursery = nursery
        self._points: list[MonitoringPoint] = []
        self._waiting = False

    def add(self, points: list[MonitoringPoint], more_to_come: bool) -> None:
        """Take points; publish them at once, with those that gathered, unless more are to come."""
        self._points += points
        if not more_to_come or len(self._points) >= GATHER_COUNT:
            self.publish_all()
        elif not self._waiting:
            self._waiting = True
            self._nursery.start_soon(self._publish_later, name="points of requests")

    async def _publish_later(self) -> None:
        try:
            await trio.sleep(GATHER_TIME)
        finally:
            self._waiting = False
            self.publish_all()

    def publish_all(self) -> None:
        """Publish what has gathered so far."""
        points, self._points = self._points, []
        if points:
            self._publish("monitoring_event", points)
