"""A mailbox whose points outlive the process: an append-only store in SQLite, written behind.

Points go to the plugin straight from memory. Whatever has not been delivered by the next group commit is
written then, in segments, and deleted by the first commit after its delivery; so a plugin that keeps up
costs the disk nearly nothing. While the receiver is unreachable, small
segments that follow one another become one.
After a crash the segments that are still there are delivered again, in
order, before what is new: at least once.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import trio

from lva.errors import counted
from lva.host.delivery.backlog import Backlog
from lva.host.delivery.ledger import DAMAGED, OVERFLOW
from lva.host.delivery.mailbox import Mailbox, tell_nobody
from lva.host.delivery.queue import Batch, Bounds, size_of
from lva.host.delivery.segment import Segment
from lva.host.delivery.spool_file import SpoolFile
from lva.host.delivery.spool_writer import SpoolWriter


class SpooledMailbox(Mailbox):
    """A mailbox over a spool file.

    Its bounds are those of memory. Past them, what is stored is forgotten and read again when its turn
    comes; only what the disk could not take in time is dropped.

    Args:
        file: The open file; what it holds is delivered first.
        bounds: On the points and bytes that wait in memory.
        max_stored: Most bytes on disk; past them whole segments are dropped.
        logger: The plugin's logger.
        lost: As for `Mailbox`.
    """

    stored_bytes: int

    outlasts = True

    def __init__(
        self,
        file: SpoolFile,
        bounds: Bounds,
        max_stored: int,
        logger: logging.Logger,
        lost: Callable[[], object] = tell_nobody,
    ) -> None:
        super().__init__(bounds, lost)
        self._max_stored = max_stored
        self._logger = logger
        self._writer = SpoolWriter(file, self.books, self._written, logger)
        self._backlog = Backlog(bounds, self._writer)
        self._recover(file)

    def _recover(self, file: SpoolFile) -> None:
        """Put what an earlier run has left first."""
        now, unix = trio.current_time(), file.clock.wall()
        index, file.index = file.index, []
        for number, since, count, size in index:
            age = max(0.0, unix - since)
            self._backlog.recover(
                Segment(number, now - age, count, size, left=count, points=None, stored=True)
            )
            self.stored_bytes += size
            self.ledger.recovered += count
        self.ledger.accepted = self.ledger.queued = self.ledger.recovered
        if self.ledger.recovered:
            self._logger.info("left from the last run: %s", counted(self.ledger.recovered, "point"))

    def set_bounds(self, bounds: Bounds) -> None:
        super().set_bounds(bounds)
        self._backlog.bounds = bounds

    # Accepting

    def offer(self, points: Sequence[Any], size: int | None = None) -> None:
        with self.books:
            if self._accepts:
                self._accept(points, size_of(points) if size is None else size)
            else:
                self._refuse(len(points))

    def _accept(self, points: Sequence[Any], size: int) -> None:
        ledger, backlog = self.ledger, self._backlog
        ledger.accepted += len(points)
        if not backlog.fits(len(points), size) or self.stored_bytes + size > self._max_stored:
            points, size = self._make_room(points, size)
        backlog.add(points, size)
        ledger.queued += len(points)
        self.stored_bytes += size
        if ledger.queued >= self._awaited:
            self._wake_soon()

    def _make_room(self, points: Sequence[Any], size: int) -> tuple[Sequence[Any], int]:
        """Drop points until there is room for the new ones; return what is left of those, and its size."""
        bounds, backlog, came = self._bounds, self._backlog, len(points)
        points, size = bounds.without_giants(points, size)
        if bounds.drop_oldest:
            self._relieve_disk(size)
        backlog.forget_stored(len(points), size)
        if bounds.drop_oldest:
            self._drop_unwritten(len(points), size)
        room = bounds.points - backlog.points
        bytes_room = min(bounds.bytes - backlog.bytes, self._max_stored - self.stored_bytes)
        points, size = bounds.fitting(points, size, room, bytes_room)
        self._drop(OVERFLOW, came - len(points))
        return points, size

    def _relieve_disk(self, size: int = 0) -> None:
        """Drop segments by policy until there is room for so many bytes more on disk."""
        segments = self._backlog.segments
        while self.stored_bytes + size > self._max_stored and segments:
            self._discard(segments[0 if self._bounds.drop_oldest else -1], OVERFLOW)

    def _drop_unwritten(self, count: int, size: int) -> None:
        """Make room in memory: drop what the disk has not taken in time, oldest first."""
        for segment in self._writer.outstanding():
            if self._backlog.fits(count, size):
                return
            if segment.waiting:
                self._discard(segment, OVERFLOW)

    def _discard(self, segment: Segment, reason: str) -> int:
        """Drop the points of a segment that wait; return how many."""
        waiting = segment.waiting
        self._backlog.remove(segment)
        self.ledger.queued -= waiting
        self._drop(reason, waiting)
        self._let_go(segment, waiting)
        return waiting

    # Taking

    async def take(self, size: int) -> Batch:
        batch = Batch()
        while not batch:
            await self.wait_for_points()
            with self.books:
                forgotten = self._backlog.forgotten(size)
            for segment in forgotten:
                await self._load(segment)
            with self.books:
                self._backlog.fill(batch, size)
                self._taken(len(batch))
        return batch

    async def _load(self, segment: Segment) -> None:
        """Read a segment into memory; drop what of it is damaged."""
        count = segment.count
        points, why = await self._writer.load(segment)
        if not segment.waiting or segment.count != count:
            return  # dropped meanwhile, or grown
        with self.books:
            lost = self._lose(segment, count - len(points)) if len(points) < count else 0
            if segment.waiting:
                self._backlog.remember(segment, points)
        if lost:
            self._logger.error(
                "segment %d of the spool cannot be read: %s; %s dropped",
                segment.number,
                why,
                counted(lost, "point"),
            )

    def _lose(self, segment: Segment, count: int) -> int:
        """Drop points of a segment that cannot be read; return how many."""
        if count == segment.count:
            return self._discard(segment, DAMAGED)
        segment.count -= count
        segment.left -= count
        self.ledger.queued -= count
        self._drop(DAMAGED, count)
        return count

    # Settling

    def settle(self, batch: Batch, again: Sequence[int] = ()) -> None:
        with self.books:
            for segment, count in batch.keep_only(again):
                self._let_go(segment, count)

    def _let_go(self, segment: Segment, count: int) -> None:
        """Note that points of a segment are settled; once all are, it is deleted."""
        segment.left -= count
        if not segment.left:
            self.stored_bytes -= segment.size
            segment.points = None
            if segment.stored:
                self._writer.delete(segment)

    # Writing

    async def write_behind(self) -> None:
        await self._writer.run()

    def _written(self, segments: Iterable[tuple[Segment, int]]) -> None:
        for segment, size in segments:
            segment.stored = True
            if not segment.left:
                self._writer.delete(segment)
                continue
            self.stored_bytes += size - segment.size
            segment.size = size
            if segment.waiting:
                self._backlog.stored(segment)
            else:
                segment.points = None
        self._relieve_disk()  # what is encoded may be larger than it was in memory

    # Ending

    async def keep(self, batches: Sequence[Batch]) -> None:
        """Write everything that is not delivered, and close the file; what is on disk then is kept.

        If that cannot be written, it stays with the mailbox and the batches.
        """
        self.close()
        self._writer.stop()
        async with self._writer.writing:
            rest = self._unsettled(batches)
            written, sound = await self._writer.finish(rest)
            if not sound:
                written = await self._save_from_memory(rest)
            if written:
                for segment in rest:
                    segment.stored = True
        for batch in batches:
            origins = [segment for segment, count in batch.origins for _ in range(count)]
            batch.keep_only([n for n, segment in enumerate(origins) if not segment.stored])
        unkept = [segment for segment in self._backlog.segments if not segment.stored]
        self._backlog.segments = deque(unkept)
        ledger = self.ledger
        queued, in_flight = sum(segment.waiting for segment in unkept), sum(map(len, batches))
        ledger.kept = ledger.queued + ledger.in_flight - queued - in_flight
        ledger.queued, ledger.in_flight = queued, in_flight
        if ledger.kept:
            self._logger.info("kept for the next run: %s", counted(ledger.kept, "point"))

    async def _save_from_memory(self, rest: dict[Segment, list[Any]]) -> bool:
        """Write what is in memory to another file, and drop what was only in the one that is damaged."""
        lost = 0
        with self.books:
            for segment in [*self._backlog.segments]:
                if segment.points is None:
                    lost += self._discard(segment, DAMAGED)
                else:
                    rest.setdefault(segment, [*segment.points[segment.taken :]])
            for segment in rest:
                segment.stored = False
        if lost:
            self._logger.error("lost with the spool, dropped: %s", counted(lost, "point"))
        return await self._writer.write_anew(rest)

    def _unsettled(self, batches: Sequence[Batch]) -> dict[Segment, list[Any]]:
        """Return what each segment that is not on disk as it now is should have there."""
        rest: dict[Segment, list[Any]] = {}
        for batch in batches:
            first = 0
            for segment, count in batch.origins:
                rest.setdefault(segment, []).extend(batch[first : first + count])
                first += count
        for segment in self._backlog.segments:
            if segment.points is not None and (segment.taken or not segment.stored):
                rest.setdefault(segment, []).extend(segment.points[segment.taken :])
        return rest

    def drop_rest(self, reason: str) -> int:
        self.close()
        self._writer.stop()
        dropped = 0
        with self.books:
            while self._backlog.segments:
                dropped += self._discard(self._backlog.segments[0], reason)
        return dropped
