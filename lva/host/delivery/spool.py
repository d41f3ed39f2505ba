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
import math
import sqlite3
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import trio

from lva.errors import counted
from lva.host.delivery.ledger import DAMAGED, OVERFLOW
from lva.host.delivery.mailbox import Mailbox
from lva.host.delivery.queue import Batch, Bounds
from lva.host.delivery.spool_file import Row, Rows, SpoolFile
from lva.host.process.threads import in_thread
from lva.logs import brief

#: Most points of one segment, and roughly most bytes.
_SEGMENT: Final = 1000
_SEGMENT_BYTES: Final = 1024 * 1024
#: Most seconds between the first and the last point of segments that become one: they grow old together.
_SPAN: Final = 10.0
#: Most runs of rows that one commit makes one row of: a commit is to be short.
_RUNS: Final = 10
#: How long, in seconds, points gather before a group commit.
COMMIT_INTERVAL: Final = 0.05
#: How long, in seconds, to wait after a commit that failed, and until it is logged again.
_RETRY: Final = 1.0
_LOG_INTERVAL: Final = 10.0


@dataclass(eq=False, slots=True)
class Segment:
    """A run of points that is stored, or will be, as one row, or as a few that follow one another.

    Attributes:
        number: Its place in the order, and the number of its first row.
        last: The number of its last row.
        since: When its oldest point was accepted, in Trio time.
        count: How many points it has.
        size: Its size in bytes, of the encoded points once it is stored.
        left: How many of the points are not settled yet.
        points: The points, or None while they are only on disk or no longer needed. Never None while a
            part of them is taken and a part is not.
        taken: How many points have been taken from it.
        stored: Whether it is on disk.
    """

    number: int
    since: float
    count: int = 0
    size: int = 0
    left: int = 0
    points: list[Any] | None = field(default_factory=list)
    taken: int = 0
    stored: bool = False
    last: int = 0

    def __post_init__(self) -> None:
        self.last = self.number

    def add(self, points: Sequence[Any], size: int) -> None:
        """Append points, none of which is settled, to those in memory."""
        assert self.points is not None
        self.points.extend(points)
        self.count += len(points)
        self.left += len(points)
        self.size += size

    @property
    def waiting(self) -> int:
        """How many points can still be taken from it."""
        return self.count - self.taken

    @property
    def rows(self) -> Rows:
        """The numbers of its first and its last row."""
        return self.number, self.last


class SpooledMailbox(Mailbox):
    """A mailbox over a spool file.

    Its bounds are those of memory. Past them, what is stored is forgotten and read again when its turn
    comes; only what the disk could not take in time is dropped.

    Args:
        file: The open file; what it holds is delivered first.
        bounds: On the points and bytes that wait in memory.
        enough: As for `Mailbox`.
        max_stored: Most bytes on disk; past them whole segments are dropped.
        logger: The plugin's logger.
        lost: As for `Mailbox`.
    """

    outlasts = True

    def __init__(
        self,
        file: SpoolFile,
        bounds: Bounds,
        enough: int,
        max_stored: int,
        logger: logging.Logger,
        lost: Callable[[], object] = int,
    ) -> None:
        super().__init__(bounds, enough, lost)
        self._file = file
        self._max_stored = max_stored
        self._logger = logger
        self._most = max(1, min(_SEGMENT, bounds.points // 10))  # points of a segment
        self._segments: deque[Segment] = deque()  # those with points that wait
        self._resident: deque[Segment] = (
            deque()
        )  # of these, what is stored and in memory all the same
        self._unwritten: list[Segment] = []
        self._open: Segment | None = None  # the last of these, while points are added to it
        self._tail: Segment | None = None  # the last that is stored; small ones become part of it
        self._settled: list[Rows] = []  # to be deleted
        self._runs: list[Rows] = []  # each to become one row
        self._stored = 0
        self._points_in_memory = 0
        self._bytes_in_memory = 0
        self._number = 0
        self._work = trio.Event()
        self._work_asked = False
        self._thread = trio.CapacityLimiter(1)
        self._writing = trio.Lock()
        self._writer = trio.CancelScope()
        self._quiet_until = -math.inf
        self._recover()

    def _recover(self) -> None:
        """Put what an earlier run has left first."""
        now, unix = trio.current_time(), self._file.clock.wall()
        index, self._file.index = self._file.index, []
        for number, since, count, size in index:
            age = max(0.0, unix - since)
            segment = Segment(number, now - age, count, size, left=count, points=None, stored=True)
            if not self._join(segment):
                self._segments.append(segment)
            self._number = number
            self._stored += size
            self.ledger.recovered += count
        self.ledger.accepted = self.ledger.queued = self.ledger.recovered
        if self.ledger.recovered:
            self._logger.info("left from the last run: %s", counted(self.ledger.recovered, "point"))

    # Accepting

    def offer(self, points: Sequence[Any], size: int | None = None) -> None:
        with self.books:
            if self._accepts:
                self._accept(points, self._bounds.measure(points) if size is None else size)
            else:
                self._refuse(len(points))

    def _accept(self, points: Sequence[Any], size: int) -> None:
        ledger = self.ledger
        ledger.accepted += len(points)
        if not self._fit_in_memory(len(points), size) or self._stored + size > self._max_stored:
            points, size = self._make_room(points, size)
        segment = self._open
        if (
            segment is not None
            and segment.count + len(points) <= self._most
            and segment.size + size <= _SEGMENT_BYTES
        ):
            segment.add(points, size)
        else:
            self._share_out(points, size)
        ledger.queued += len(points)
        self._points_in_memory += len(points)
        self._bytes_in_memory += size
        self._stored += size
        if not self._work_asked:
            self._work_asked = True
            self._token.run_sync_soon(self._begin_work)
        if ledger.queued >= self._awaited:
            self._wake_soon()

    def _share_out(self, points: Sequence[Any], size: int) -> None:
        """Add points to the open segment, and to new ones once that is full."""
        # By the average size, so that no point has to be looked at.
        most = max(1, min(self._most, _SEGMENT_BYTES * len(points) // max(1, size)))
        done = 0
        while done < len(points):
            segment = self._open
            if segment is None or segment.count >= most:
                segment = self._begin_segment()
            part = points[done : done + most - segment.count]
            segment.add(part, size if len(part) == len(points) else self._bounds.measure(part))
            done += len(part)

    def _begin_segment(self) -> Segment:
        self._number += 1
        self._open = segment = Segment(self._number, trio.current_time())
        self._segments.append(segment)
        self._unwritten.append(segment)
        return segment

    def _fit_in_memory(self, count: int, size: int) -> bool:
        return (
            self._points_in_memory + count <= self._bounds.points
            and self._bytes_in_memory + size <= self._bounds.bytes
        )

    def _make_room(self, points: Sequence[Any], size: int) -> tuple[Sequence[Any], int]:
        """Drop points until there is room for the new ones; return what is left of those, and its size."""
        bounds, came = self._bounds, len(points)
        if size > bounds.bytes:
            points = bounds.without_giants(points)
            size = bounds.measure(points)
        if bounds.drop_oldest:
            self._relieve_disk(size)
        self._forget_stored(len(points), size)
        if bounds.drop_oldest:
            self._drop_unwritten(len(points), size)
        room = bounds.points - self._points_in_memory
        bytes_room = min(bounds.bytes - self._bytes_in_memory, self._max_stored - self._stored)
        if len(points) > room or size > bytes_room:
            points = bounds.fitting(points, room, bytes_room)
            size = bounds.measure(points)
        self._drop(OVERFLOW, came - len(points))
        return points, size

    def _relieve_disk(self, size: int = 0) -> None:
        """Drop segments by policy until there is room for so many bytes more on disk."""
        while self._stored + size > self._max_stored and self._segments:
            self._discard(self._segments[0 if self._bounds.drop_oldest else -1], OVERFLOW)

    def _forget_stored(self, count: int = 0, size: int = 0) -> None:
        """Make room in memory without loss: what is stored can be read again. What comes last goes first."""
        while self._resident and not self._fit_in_memory(count, size):
            segment = self._resident.pop()
            if not segment.taken:
                self._forget(segment)

    def _drop_unwritten(self, count: int, size: int) -> None:
        """Make room in memory: drop what the disk has not taken in time, oldest first."""
        self._unwritten = [segment for segment in self._unwritten if segment.left]
        for segment in self._unwritten:
            if self._fit_in_memory(count, size):
                return
            if segment.waiting:
                self._discard(segment, OVERFLOW)

    def _discard(self, segment: Segment, reason: str) -> int:
        """Drop the points of a segment that wait; return how many."""
        waiting = segment.waiting
        taken = (segment.points or [])[: segment.taken]
        self._forget(segment)
        self._segments.remove(segment)
        if segment in self._resident:
            self._resident.remove(segment)
        if not segment.stored:  # what is in flight may still have to be written
            segment.points = taken
        segment.taken = segment.count
        self.ledger.queued -= waiting
        self._drop(reason, waiting)
        self._let_go(segment, waiting)
        return waiting

    def _forget(self, segment: Segment) -> None:
        """Take the waiting points of a segment out of memory."""
        if segment is self._open:
            self._open = None
        if segment.points is not None:
            self._points_in_memory -= segment.waiting
            self._bytes_in_memory -= self._bounds.measure(segment.points[segment.taken :])
            segment.points = None

    # Taking

    async def take(self, size: int) -> Batch:
        batch = Batch()
        while not batch:
            await self.wait_for_points()
            with self.books:
                forgotten = self._forgotten(size)
            for segment in forgotten:
                await self._load(segment)
            with self.books:
                self._fill(batch, size)
                self._taken(len(batch))
        return batch

    def _forgotten(self, size: int) -> list[Segment]:
        """Return the segments that have to be read for a batch of this size."""
        forgotten = []
        room = self._bounds.bytes  # what is in flight has to fit into memory, too
        for segment in self._segments:
            if size <= 0 or room <= 0:
                break
            if segment.points is None:
                forgotten.append(segment)
            size -= segment.waiting
            room -= segment.size
        return forgotten

    def _fill(self, batch: Batch, size: int) -> None:
        """Move what waits, and is in memory, into the batch."""
        while len(batch) < size and self._segments:
            front = self._segments[0]
            if front.points is None:
                return
            part = front.points[front.taken : front.taken + size - len(batch)]
            batch.add(part, front)
            front.taken += len(part)
            self._points_in_memory -= len(part)
            self._bytes_in_memory -= self._bounds.measure(part)
            if not front.waiting:
                self._emptied(front)

    def _emptied(self, front: Segment) -> None:
        """Let go of the first segment, of which nothing waits any longer."""
        self._segments.popleft()
        if self._resident and self._resident[0] is front:
            self._resident.popleft()
        if self._open is front:
            self._open = None
        if front.stored:
            front.points = None

    async def _load(self, segment: Segment) -> None:
        """Read a segment into memory; drop what of it is damaged."""
        count = segment.count
        try:
            points, why = await self._in_thread(partial(self._file.load, segment.rows))
        except sqlite3.Error as error:
            points, why = [], brief(error)
        if not segment.waiting or segment.count != count:
            return  # dropped meanwhile, or grown
        with self.books:
            lost = self._lose(segment, count - len(points)) if len(points) < count else 0
            if segment.waiting:
                segment.points = points
                self._points_in_memory += segment.waiting
                self._bytes_in_memory += self._bounds.measure(points)
                self._forget_stored()
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
            self._stored -= segment.size
            segment.points = None
            if segment.stored:
                self._settled.append(segment.rows)
                self._work.set()

    @property
    def stored_bytes(self) -> int:
        return self._stored

    # Writing

    def _begin_work(self) -> None:
        self._work.set()

    async def write_behind(self) -> None:
        with self._writer:
            while True:
                await self._work.wait()
                await trio.sleep(COMMIT_INTERVAL)
                self._work = trio.Event()
                self._work_asked = False
                if not await self._commit():
                    await trio.sleep(_RETRY)
                    self._work.set()

    async def _commit(self) -> bool:
        """Write and delete in one transaction; return whether that worked."""
        async with self._writing:
            with self.books:
                segments = [segment for segment in self._unwritten if segment.left]
                settled, runs = self._settled, self._runs[:_RUNS]
                self._open, self._unwritten, self._settled = None, [], []
            if not segments and not settled:
                return True
            try:
                sizes = await self._write(
                    {segment: segment.points or () for segment in segments}, settled, runs
                )
            except Exception as error:  # noqa: BLE001 - logged; whatever it is, points must not get lost
                with self.books:
                    self._unwritten[:0] = segments
                    self._settled += settled
                self._log_failure(error)
                return False
            with self.books:
                del self._runs[: len(runs)]
                for segment, size in zip(segments, sizes, strict=True):
                    self._written(segment, size)
                self._relieve_disk()  # what is encoded may be larger than it was in memory
            return True

    async def _write(
        self,
        points: Mapping[Segment, Sequence[Any]],
        settled: Sequence[Rows],
        runs: Sequence[Rows] = (),
    ) -> list[int]:
        unix = self._file.clock.wall() - trio.current_time()
        rows = [Row(segment.number, segment.since + unix, part) for segment, part in points.items()]
        with trio.CancelScope(shield=True):
            sizes: list[int] = await self._in_thread(
                partial(self._file.commit, rows, settled, runs)
            )
        return sizes

    def _written(self, segment: Segment, size: int) -> None:
        segment.stored = True
        if not segment.left:
            self._settled.append(segment.rows)
            self._work.set()
            return
        self._stored += size - segment.size
        segment.size = size
        if not segment.waiting:
            segment.points = None
        elif self._join(segment):
            _remove_last(self._segments, segment)
        else:
            self._resident.append(segment)

    def _join(self, segment: Segment) -> bool:
        """Make a stored segment part of the one before it, if both are small and nothing of them is taken.

        A receiver that is unreachable for long, while few points come at a time, would leave one a commit:
        that costs memory, and time at the next start.
        """
        tail = self._tail
        if tail is None or not self._fit_together(tail, segment):
            if tail is not None and tail.left and tail.last > tail.number:
                self._runs.append(tail.rows)
            self._tail = segment
            return False
        if tail.points is None:
            self._forget(segment)
        else:
            tail.points += segment.points or ()
        tail.last = segment.last
        tail.count += segment.count
        tail.left += segment.left
        tail.size += segment.size
        return True

    def _fit_together(self, tail: Segment, segment: Segment) -> bool:
        return (
            tail.last + 1 == segment.number
            and tail.left == tail.waiting == tail.count
            and segment.left == segment.waiting == segment.count
            and tail.count + segment.count <= self._most
            and tail.size + segment.size <= _SEGMENT_BYTES
            and segment.since - tail.since <= _SPAN
        )

    def _log_failure(self, error: Exception) -> None:
        now = trio.current_time()
        if now >= self._quiet_until:
            self._quiet_until = now + _LOG_INTERVAL
            self._logger.error(
                "the spool cannot be written: %s; points stay in memory, within their limits",
                brief(error),
                exc_info=None if isinstance(error, OSError | sqlite3.Error) else error,
            )

    # Ending

    async def keep(self, batches: Sequence[Batch]) -> None:
        """Write everything that is not delivered, and close the file; what is on disk then is kept.

        If that cannot be written, it stays with the mailbox and the batches.
        """
        self.close()
        self._writer.cancel()
        async with self._writing:
            rest = self._unsettled(batches)
            try:
                await self._write(rest, [*self._settled, *(segment.rows for segment in rest)])
            except Exception as error:  # noqa: BLE001 - as above
                self._log_failure(error)
            else:
                for segment in rest:
                    segment.stored = True
            await self._in_thread(self._file.close)
        for batch in batches:
            origins = [segment for segment, count in batch.origins for _ in range(count)]
            batch.keep_only([n for n, segment in enumerate(origins) if not segment.stored])
        self._segments = deque(segment for segment in self._segments if not segment.stored)
        ledger = self.ledger
        queued, in_flight = sum(item.waiting for item in self._segments), sum(map(len, batches))
        ledger.kept = ledger.queued + ledger.in_flight - queued - in_flight
        ledger.queued, ledger.in_flight = queued, in_flight
        if ledger.kept:
            self._logger.info("kept for the next run: %s", counted(ledger.kept, "point"))

    def _unsettled(self, batches: Sequence[Batch]) -> dict[Segment, list[Any]]:
        """Return what each segment that is not on disk as it now is should have there."""
        rest: dict[Segment, list[Any]] = {}
        for batch in batches:
            first = 0
            for segment, count in batch.origins:
                rest.setdefault(segment, []).extend(batch[first : first + count])
                first += count
        for segment in self._segments:
            if segment.points is not None and (segment.taken or not segment.stored):
                rest.setdefault(segment, []).extend(segment.points[segment.taken :])
        return rest

    def drop_rest(self, reason: str) -> int:
        self.close()
        self._writer.cancel()
        dropped = 0
        with self.books:
            while self._segments:
                dropped += self._discard(self._segments[0], reason)
        return dropped

    async def _in_thread(self, work: Callable[[], Any]) -> Any:
        return await in_thread(work, self._thread)


def _remove_last(segments: deque[Segment], segment: Segment) -> None:
    """Remove a segment that is near the end."""
    behind = []
    while (last := segments.pop()) is not segment:
        behind.append(last)
    segments.extend(reversed(behind))
