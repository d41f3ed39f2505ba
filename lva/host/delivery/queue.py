"""Points in order, within bounds; they travel in the chunks they were published in."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Final

#: A chunk costs more than a point. So points join the last chunk within this time, in seconds, of its first
#: point, and count as being as old as that one.
_AT_ONCE: Final = 0.001
#: Fewest points of a chunk that no more points join.
_TOGETHER: Final = 100
_SIZE: Final[Callable[[Any], int]] = attrgetter("size")


def size_of(points: Sequence[Any]) -> int:
    """Return the size of points in memory, in bytes, roughly: that of their names and values."""
    if len(points) == 1:  # as most publishers do, and cheaper without an iterator
        return points[0].size  # type: ignore[no-any-return] # points have a size by contract
    return sum(map(_SIZE, points))


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much may wait, and what goes when more comes.

    Attributes:
        points: Most points.
        bytes: Most bytes.
        drop_oldest: Whether the oldest points go, and not those that came last.
    """

    points: int
    bytes: float = math.inf
    drop_oldest: bool = True

    def without_giants(self, points: Sequence[Any], size: int) -> tuple[Sequence[Any], int]:
        """Return points, and their size, without those that fit into nothing but would drive out others."""
        if size <= self.bytes:
            return points, size
        points = [point for point in points if point.size <= self.bytes]
        return points, size_of(points)

    def fitting(
        self, points: Sequence[Any], size: int, room: int, bytes_room: float
    ) -> tuple[Sequence[Any], int]:
        """Return the newest of the points, or the oldest, as many as there is room for; and their size."""
        if len(points) <= room and size <= bytes_room:
            return points, size
        kept: list[Any] = []
        size = 0
        for point in reversed(points) if self.drop_oldest else points:
            size += (more := point.size)
            if len(kept) >= room or size > bytes_room:
                size -= more
                break
            kept.append(point)
        return (kept[::-1] if self.drop_oldest else kept), size


class Batch(list[Any]):
    """Points on their way to the plugin, and what the host knows of them.

    Attributes:
        origins: The chunks that they came from, with how many points are of each, in order.
        attempts: How many calls have got it.
        unblamed: How many of those failed for no fault of the batch's.
        least_delay: How many seconds to wait at least before the next.
        stuck: Whether a call that has it does not end.
    """

    __slots__ = ("attempts", "least_delay", "origins", "stuck", "unblamed")

    def __init__(self) -> None:
        super().__init__()
        self.origins: list[tuple[Any, int]] = []
        self.attempts: int = 0
        self.unblamed: int = 0
        self.least_delay: float = 0.0
        self.stuck: bool = False

    def add(self, points: Sequence[Any], origin: Any) -> None:
        """Append points of one chunk."""
        self.extend(points)
        self.origins.append((origin, len(points)))

    def keep_only(self, indices: Sequence[int]) -> list[tuple[Any, int]]:
        """Let go of the points at all other indices; return how many went of each origin."""
        kept = set(indices)
        gone: list[tuple[Any, int]] = []
        origins: list[tuple[Any, int]] = []
        first = 0
        for origin, count in self.origins:
            left = sum(index in kept for index in range(first, first + count)) if kept else 0
            gone.append((origin, count - left))
            if left:
                origins.append((origin, left))
            first += count
        self[:] = [self[index] for index in indices]
        self.origins = origins
        return gone

    def older_than(self, time: float) -> int:
        """Return how many of the first points were accepted before `time` (Trio time)."""
        count = 0
        for origin, points in self.origins:
            if origin.since >= time:
                break
            count += points
        return count


@dataclass(slots=True)
class Chunk:
    """Points that came together; the list is the queue's own.

    Attributes:
        points: The points that are still to be taken.
        since: When the first was accepted, in Trio time.
        size: Their size in bytes.
    """

    points: list[Any]
    since: float
    size: int


#: What nothing can join: it is too old.
_SEALED: Final = Chunk([], -math.inf, 0)


class Queue:
    """Points in order, within bounds that do not care for the chunks in which they came.

    Attributes:
        points: How many there are.
        bytes: Their size.
        bounds: On both.
    """

    def __init__(self, bounds: Bounds) -> None:
        self.points: int = 0
        self.bytes: int = 0
        self.bounds: Bounds = bounds
        self._chunks: deque[Chunk] = deque()
        self._last: Chunk = _SEALED  # of these, if there is any

    def put(self, points: Sequence[Any], since: float = 0.0, size: int | None = None) -> int:
        """Append points; return how many, of the old ones or of these, were dropped to make room."""
        bounds, dropped = self.bounds, 0
        if size is None:
            size = size_of(points)
        there, there_bytes = self.points + len(points), self.bytes + size
        if there > bounds.points or there_bytes > bounds.bytes:
            points, size = self._make_room(points, size)
            dropped = there - self.points - len(points)
            there, there_bytes = self.points + len(points), self.bytes + size
        last = self._last
        if len(last.points) < _TOGETHER and since - last.since <= _AT_ONCE:
            last.points += points
            last.size += size
        elif points:
            self._last = Chunk([*points], since, size)
            self._chunks.append(self._last)
        self.points, self.bytes = there, there_bytes
        return dropped

    def _make_room(self, points: Sequence[Any], size: int) -> tuple[Sequence[Any], int]:
        """Drop points until there is room for the new ones; return what is left of those, and its size."""
        bounds = self.bounds
        points, size = bounds.without_giants(points, size)
        if bounds.drop_oldest:
            while (excess := self.points + len(points) - bounds.points) > 0 and self._chunks:
                self.get(excess)
            while (excess_bytes := self.bytes + size - bounds.bytes) > 0 and self._chunks:
                self.get(self._first_with(excess_bytes))
        room, bytes_room = bounds.points - self.points, bounds.bytes - self.bytes
        return bounds.fitting(points, size, room, bytes_room)

    def _first_with(self, size: float) -> int:
        """Return how many points at the head of the first chunk have this size; or all of it has less."""
        count = 0
        for count, point in enumerate(self._chunks[0].points, 1):  # noqa: B007 - used after the loop
            size -= point.size
            if size <= 0:
                break
        return count

    def get(self, most: int) -> tuple[Sequence[Any], Chunk]:
        """Take the first points of one chunk; return them and the chunk."""
        chunk = self._chunks[0]
        if len(chunk.points) <= most:
            self._chunks.popleft()
            if not self._chunks:
                self._last = _SEALED
            part, size = chunk.points, chunk.size
        else:
            part, chunk.points = chunk.points[:most], chunk.points[most:]
            size = size_of(part)
            chunk.size -= size
        self.points -= len(part)
        self.bytes -= size
        return part, chunk
