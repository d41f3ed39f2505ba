"""Which routes failed in the last fifteen minutes, and whose they are: each error has an owner.

Memory is bounded by the routes there are: requests are counted by a route's template.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from typing_extensions import TypedDict

from lva.documents import Count

#: Most routes that are told, those that failed last.
MOST: Final = 20

#: A route's template, and the plugin that serves it; None for the service's own.
Route: TypeAlias = tuple[str, str | None]


class FailingRoute(TypedDict):
    """A route that failed in the last fifteen minutes."""

    route: str
    """Its template."""
    plugin: str | None
    """Whose it is; null for the service's own."""
    requests: Count
    failed: Count
    recent: Count
    """Of the failed, those of the last minute."""
    error: str
    """The error code of the newest failure."""
    at: float
    """When that was, in Unix seconds."""


@dataclass(slots=True)
class _Counts:
    """Requests by route, and those of them that failed."""

    requests: Counter[Route] = field(default_factory=Counter)
    failed: Counter[Route] = field(default_factory=Counter)


class FailingRoutes:
    """Counts requests that ended, in steps.

    Args:
        steps: How many steps are kept.
        recent: How many of the newest tell whether a route fails now.
        clock: Tells Unix seconds.
    """

    def __init__(self, steps: int, recent: int, clock: Callable[[], float]) -> None:
        self._steps: deque[_Counts] = deque([_Counts()], maxlen=steps)
        self._recent = recent
        self._clock = clock
        self._last: dict[Route, tuple[float, str]] = {}

    def observe(self, route: Route, error: str | None) -> None:
        """Count a request.

        Args:
            route: Where it went.
            error: With what error code the service failed it; None if it did not.
        """
        newest = self._steps[-1]
        newest.requests[route] += 1
        if error is not None:
            newest.failed[route] += 1
            self._last[route] = (self._clock(), error)

    def begin_step(self) -> None:
        """Begin the next step; the oldest may go."""
        self._steps.append(_Counts())
        kept = {route for step in self._steps for route in step.failed}
        self._last = {route: last for route, last in self._last.items() if route in kept}

    def told(self) -> list[FailingRoute]:
        """Return the routes that failed, the one that did so last first."""
        newest_first = sorted(self._last.items(), key=lambda item: -item[1][0])[:MOST]
        steps = list(self._steps)
        return [
            {
                "route": route[0],
                "plugin": route[1],
                "requests": sum(step.requests[route] for step in steps),
                "failed": sum(step.failed[route] for step in steps),
                "recent": sum(step.failed[route] for step in steps[-self._recent :]),
                "error": error,
                "at": round(at, 3),
            }
            for route, (at, error) in newest_first
        ]
