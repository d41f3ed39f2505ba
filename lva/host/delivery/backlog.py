"""Segments with points that wait, in order: in memory as far as there is room, else on disk alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import trio

from lva.host.delivery.queue import Batch, Bounds, size_of
from lva.host.delivery.segment import MOST_BYTES, MOST_POINTS, Segment
from lva.host.delivery.spool_writer import SpoolWriter


class Backlog:
    """What waits in a mailbox over a spool. It drops nothing by itself.

    Args:
        bounds: On the points and bytes that wait in memory.
        writer: Writes new segments.

    Attributes:
        segments: Those with points that wait.
        points: How many of these are in memory.
        bytes: Their size.
        most: Most points of one segment.
    """

    def __init__(self, bounds: Bounds, writer: SpoolWriter) -> None:
        self.bounds: Bounds = bounds
        self.segments: deque[Segment] = deque()
        self.points: int = 0
        self.bytes: int = 0
        self.most: int = max(1, min(MOST_POINTS, bounds.points // 10))
        self._writer = writer
        self._resident: deque[Segment] = deque()  # what is stored and in memory all the same
        self._tail: Segment | None = None  # the last that is stored; small ones become part of it
        self._number = 0

    def add(self, points: Sequence[Any], size: int) -> None:
        """Append new points, which are in memory."""
        segment = self._writer.open
        if (
            segment is not None
            and segment.count + len(points) <= self.most
            and segment.size + size <= MOST_BYTES
        ):
            segment.add(points, size)
        else:
            self._share_out(points, size)
        self.points += len(points)
        self.bytes += size
        self._writer.ask()

    def _share_out(self, points: Sequence[Any], size: int) -> None:
        """Add points to the open segment, and to new ones once that is full."""
        # By the average size, so that no point has to be looked at.
        most = max(1, min(self.most, MOST_BYTES * len(points) // max(1, size)))
        done = 0
        while done < len(points):
            segment = self._writer.open
            if segment is None or segment.count >= most:
                self._number += 1
                segment = Segment(self._number, trio.current_time())
                self._writer.begin(segment)
                self.segments.append(segment)
            part = points[done : done + most - segment.count]
            segment.add(part, size if len(part) == len(points) else size_of(part))
            done += len(part)

    def recover(self, segment: Segment) -> None:
        """Append a segment that an earlier run has left on disk."""
        self._number = segment.number
        if not self._join(segment):
            self.segments.append(segment)

    def stored(self, segment: Segment) -> None:
        """Note that a segment with points that wait is on disk now."""
        if not self._join(segment):
            self._resident.append(segment)
            return
        behind = []  # it is near the end
        while (last := self.segments.pop()) is not segment:
            behind.append(last)
        self.segments.extend(reversed(behind))

    def _join(self, segment: Segment) -> bool:
        """Make a stored segment part of the one before it, if both are small and nothing of them is taken.

        A receiver that is unreachable for long, while few points come at a time, would leave one a commit:
        that costs memory, and time at the next start.
        """
        tail = self._tail
        if tail is not None and tail.absorb(segment, self.most):
            if tail.points is None:
                self.forget(segment)
            return True
        if tail is not None and tail.left and tail.last > tail.number:
            self._writer.runs.append(tail.rows)
        self._tail = segment
        return False

    # Memory

    def fits(self, count: int, size: int) -> bool:
        """Return whether there is room in memory for so many points of this size."""
        return self.points + count <= self.bounds.points and self.bytes + size <= self.bounds.bytes

    def forget_stored(self, count: int = 0, size: int = 0) -> None:
        """Make room in memory: what is stored can be read again. What comes last goes first."""
        while self._resident and not self.fits(count, size):
            segment = self._resident.pop()
            if not segment.taken:
                self.forget(segment)

    def forget(self, segment: Segment) -> None:
        """Take the waiting points of a segment out of memory."""
        if segment is self._writer.open:
            self._writer.open = None
        if segment.points is not None:
            self.points -= segment.waiting
            self.bytes -= size_of(segment.points[segment.taken :])
            segment.points = None

    def remove(self, segment: Segment) -> None:
        """Let go of a segment whose waiting points are dropped."""
        taken = (segment.points or [])[: segment.taken]
        self.forget(segment)
        self.segments.remove(segment)
        if segment in self._resident:
            self._resident.remove(segment)
        if not segment.stored:  # what is in flight may still have to be written
            segment.points = taken
        segment.taken = segment.count

    # Taking

    def forgotten(self, size: int) -> list[Segment]:
        """Return the segments that have to be read for a batch of this size."""
        forgotten = []
        room = self.bounds.bytes  # what is in flight has to fit into memory, too
        for segment in self.segments:
            if size <= 0 or room <= 0:
                break
            if segment.points is None:
                forgotten.append(segment)
            size -= segment.waiting
            room -= segment.size
        return forgotten

    def remember(self, segment: Segment, points: list[Any]) -> None:
        """Take the points of a segment into memory again."""
        segment.points = points
        self.points += segment.waiting
        self.bytes += size_of(points)
        self.forget_stored()

    def fill(self, batch: Batch, size: int) -> None:
        """Move what waits, and is in memory, into the batch."""
        while len(batch) < size and self.segments:
            front = self.segments[0]
            if front.points is None:
                return
            part = front.points[front.taken : front.taken + size - len(batch)]
            batch.add(part, front)
            front.taken += len(part)
            self.points -= len(part)
            self.bytes -= size_of(part)
            if front.waiting:
                continue
            self.segments.popleft()
            if self._resident and self._resident[0] is front:
                self._resident.popleft()
            if self._writer.open is front:
                self._writer.open = None
            if front.stored:
                front.points = None
