"""How large requests a receiver takes, for sinks that divide what it calls too large."""

from __future__ import annotations

from collections.abc import Iterable

from lva.points import MonitoringPoint


class RequestSizes:
    """What one batch tells of the size.

    A refusal tells of it once each point of the request was taken in a smaller one. Otherwise it may be about
    a single point, which makes no others' requests smaller.
    """

    def __init__(self) -> None:
        self._refused: list[tuple[int, set[int]]] = []
        self._taken: set[int] = set()

    def taken(self, points: Iterable[MonitoringPoint]) -> None:
        """Note that the receiver took a request with these points."""
        self._taken.update(map(id, points))

    def refused(self, points: Iterable[MonitoringPoint], size: int) -> int:
        """Note that it called a request too large; return how large the next one may be."""
        self._refused.append((size, set(map(id, points))))
        return size // 2

    def learnt(self, most: int) -> int:
        """Return how large requests may be from now on, if it was `most` before."""
        known = [entry for entry in self._refused if entry[1] <= self._taken]
        self._refused = [entry for entry in self._refused if entry not in known]
        return min([most, *(size // 2 for size, _ in known)])
