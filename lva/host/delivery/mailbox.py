"""The bounded channel of one event class, and the account of its points.

Points travel in the chunks they were published in; nothing awaits per point. At every moment::

    accepted = delivered + rejected + dropped + queued + in_flight + kept
"""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Final

import trio
from typing_extensions import TypedDict

from lva.documents import Count, documented
from lva.host.delivery.inbox import Inbox

#: A chunk costs more than a point. So points join the last chunk within this time, in seconds, of its first,
#: and are then as old as that,
_AT_ONCE: Final = 0.001
#: while it has fewer points than this.
_TOGETHER: Final = 100
#: Tells the size of a point in memory, in bytes, roughly: that of its names and values.
SIZE_OF: Final[Callable[[Any], int]] = attrgetter("size")


def size_of(points: Sequence[Any]) -> int:
    """Return the size of points in memory, in bytes."""
    if len(points) == 1:  # as most publishers do, and cheaper without an iterator
        return points[0].size  # type: ignore[no-any-return] # points have a size by contract
    return sum(map(SIZE_OF, points))


#: Reasons for which points are dropped.
OVERFLOW: Final = "overflow"
ATTEMPTS: Final = "max_attempts"
AGE: Final = "max_age"
SHUTDOWN: Final = "shutdown"
FAILED: Final = "plugin_failed"
DAMAGED: Final = "spool_damaged"
REMOVED: Final = "class_removed"
#: Those of points that nobody would deliver any more: each is dropped once, and that is said there.
ENDS: Final = frozenset({SHUTDOWN, FAILED, REMOVED})


@documented
class LedgerCounts(TypedDict):
    """What became of the points since the service started.

    accepted = delivered + rejected + dropped + queued + in_flight + kept.
    """

    accepted: Count
    """Entered the channel, those from an earlier run included."""
    delivered: Count
    """Were in a call of handleEvent() that returned."""
    rejected: Count
    """Were called wrong for ever."""
    dropped: dict[str, Count]
    """Will not be delivered, by reason."""
    queued: Count
    """Wait in the channel."""
    in_flight: Count
    """Are in a call, or wait for their next attempt."""
    kept: Count
    """Are left in the spool for the next run."""
    recovered: Count
    """Of the accepted, those that an earlier run had left."""
    refused: Count
    """Came when no more were taken; not among the accepted."""
    filtered: Count
    """Were not for the plugin, by its settings; not among the accepted."""
    retries: Count
    """Calls that were repeated attempts."""


@dataclass(slots=True)
class Ledger:
    """The account of one event plugin's points, since the service started; see `LedgerCounts`."""

    accepted: int = 0
    delivered: int = 0
    rejected: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    queued: int = 0
    in_flight: int = 0
    kept: int = 0
    recovered: int = 0
    refused: int = 0
    filtered: int = 0
    retries: int = 0

    @property
    def waiting(self) -> int:
        """Points that are neither delivered nor dropped, and not left to the next run."""
        return self.queued + self.in_flight

    @property
    def lost(self) -> int:
        """Dropped points, for whatever reason."""
        return self.dropped.total()

    @property
    def balanced(self) -> bool:
        """Whether every accepted point is in exactly one place."""
        return self.accepted == (
            self.delivered + self.rejected + self.lost + self.queued + self.in_flight + self.kept
        )

    def add(self, other: Ledger) -> None:
        """Add the counts of another ledger to these."""
        for name in self.__slots__:
            value = getattr(other, name)
            if name == "dropped":
                self.dropped.update(value)
            else:
                setattr(self, name, getattr(self, name) + value)

    def take_back(self, recovered: int) -> None:
        """Count as queued what was kept, now that the spool is open again.

        Args:
            recovered: How many points were found in it.
        """
        self._drop_missing(self.kept - recovered)
        came = max(0, recovered - self.kept)
        self.accepted += came
        self.recovered += came
        self.queued += recovered
        self.kept = 0

    def _drop_missing(self, count: int) -> None:
        if count > 0:
            self.dropped[DAMAGED] += count

    def as_dict(self) -> LedgerCounts:
        """Return the counts for status pages and the receipt."""
        return {
            "accepted": self.accepted,
            "delivered": self.delivered,
            "rejected": self.rejected,
            "dropped": dict(self.dropped),
            "queued": self.queued,
            "in_flight": self.in_flight,
            "kept": self.kept,
            "recovered": self.recovered,
            "refused": self.refused,
            "filtered": self.filtered,
            "retries": self.retries,
        }


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


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much may wait, and what goes when more comes.

    Attributes:
        points: Most points.
        bytes: Most bytes.
        drop_oldest: Whether the oldest points go, and not those that came last.
        size_of: Tells the size of a point in bytes.
    """

    points: int
    bytes: float = math.inf
    drop_oldest: bool = True
    size_of: Callable[[Any], int] = SIZE_OF

    def measure(self, points: Sequence[Any]) -> int:
        """Return the size of points, in bytes."""
        if len(points) == 1:  # as most publishers do, and cheaper without an iterator
            return self.size_of(points[0])
        return sum(map(self.size_of, points))

    def without_giants(self, points: Sequence[Any]) -> Sequence[Any]:
        """Return the points without those that fit into nothing, and would drive out others in vain."""
        return [point for point in points if self.size_of(point) <= self.bytes]

    def fitting(self, points: Sequence[Any], room: int, bytes_room: float) -> Sequence[Any]:
        """Return the newest of the points, or the oldest, as many as there is room for."""
        kept: list[Any] = []
        for point in reversed(points) if self.drop_oldest else points:
            bytes_room -= self.size_of(point)
            if len(kept) >= room or bytes_room < 0:
                break
            kept.append(point)
        return kept[::-1] if self.drop_oldest else kept


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
            size = bounds.measure(points)
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
        if size > bounds.bytes:
            points = bounds.without_giants(points)
            size = bounds.measure(points)
        if bounds.drop_oldest:
            while (excess := self.points + len(points) - bounds.points) > 0 and self._chunks:
                self.get(excess)
            while (excess_bytes := self.bytes + size - bounds.bytes) > 0 and self._chunks:
                self.get(self._first_with(excess_bytes))
        room, bytes_room = bounds.points - self.points, bounds.bytes - self.bytes
        if len(points) > room or size > bytes_room:
            points = bounds.fitting(points, room, bytes_room)
            size = bounds.measure(points)
        return points, size

    def _first_with(self, size: float) -> int:
        """Return how many points at the head of the first chunk have this size; or all of it has less."""
        count = 0
        for count, point in enumerate(self._chunks[0].points, 1):  # noqa: B007 - used after the loop
            size -= self.bounds.size_of(point)
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
            size = self.bounds.measure(part)
            chunk.size -= size
        self.points -= len(part)
        self.bytes -= size
        return part, chunk


class Books:
    """Tells whether the host's thread is in the midst of a mailbox's books.

    What publishes may run there at any moment: in a signal handler, or in a finalizer that the garbage
    collector runs between any two steps. Then it must not touch them. Entered by the host's thread alone,
    hence no lock; and never across an `await`.
    """

    __slots__ = ("depth",)

    def __init__(self) -> None:
        self.depth: int = 0

    def __enter__(self) -> None:
        self.depth += 1

    def __exit__(self, *_: object) -> None:
        self.depth -= 1


class Mailbox(ABC):
    """What every mailbox does: it counts, takes points at any moment, and wakes who waits.

    Args:
        bounds: On what waits in memory.
        enough: How many waiting points `wait_for_enough` waits for.
    """

    def __init__(self, bounds: Bounds, enough: int) -> None:
        self.ledger: Ledger = Ledger()
        #: Set once no more points are accepted.
        self.closed: trio.Event = trio.Event()
        self.books: Books = Books()
        #: Called after points were dropped or refused.
        self.lost: Callable[[], object] = int
        self._accepts = True  # as `closed` says, but cheaper to ask for each point
        self._bounds = bounds
        self._enough = enough
        self._awaited = sys.maxsize  # with how many queued points to wake who waits
        self._awaited_there = trio.Event()
        self._inbox: Inbox[tuple[Sequence[Any], int]] = Inbox(self._put_aside)
        self._crossing = Queue(bounds)  # what came while the books could not be touched
        self._crossing_dropped = self._crossing_filtered = 0
        self._arriving = False  # whether `arrive` has been asked for
        self._token = trio.lowlevel.current_trio_token()

    def set_bounds(self, bounds: Bounds, enough: int) -> None:
        """Change the bounds; what is too much by the new ones goes when the next points come."""
        self._bounds = bounds
        self._enough = enough
        self._crossing.bounds = bounds

    # Accepting

    @abstractmethod
    def offer(self, points: Sequence[Any], size: int | None = None) -> None:
        """Accept points; never waits. Past the bounds some are dropped, counted.

        Args:
            points: They.
            size: Theirs, in bytes, if it is known.

        In the host's thread only, and not while its books are open: see `cross`. The caller may be anywhere
        else, in the midst of a step of Trio's own, too, so nothing of Trio is used but `run_sync_soon` and
        the clock.

        Raises:
            trio.RunFinishedError: Trio has ended, and nobody can be told of the points.
        """

    def _wake_soon(self) -> None:
        """Let who waits look again how many points are queued, by Trio's next step."""
        self._awaited = sys.maxsize
        self._token.run_sync_soon(self._wake)

    def _wake(self) -> None:
        self._awaited = sys.maxsize
        self._awaited_there.set()

    def _drop(self, reason: str, count: int) -> None:
        if count:
            self.ledger.dropped[reason] += count
            self.lost()

    def _refuse(self, count: int) -> None:
        if count:
            self.ledger.refused += count
            self.lost()

    def cross(self, points: Sequence[Any], filtered: int = 0) -> None:
        """Take points at any moment and in any thread, to be accepted by Trio's next step. Never waits.

        They are kept to the same bounds meanwhile.

        Args:
            points: They.
            filtered: How many others were published with them that are not for this mailbox.

        Raises:
            trio.RunFinishedError: There is no next step.
        """
        self._inbox.put((points, filtered))
        if not self._arriving:
            self._arriving = True
            try:
                self._token.run_sync_soon(self.arrive)
            except trio.RunFinishedError:
                self._arriving = False
                raise

    def _put_aside(self, came: tuple[Sequence[Any], int]) -> None:
        points, filtered = came
        self._crossing_filtered += filtered
        if points:
            self._crossing_dropped += self._crossing.put(points)

    def _take_aside(self) -> tuple[Queue, int, int]:
        crossing, self._crossing = self._crossing, Queue(self._bounds)
        dropped, self._crossing_dropped = self._crossing_dropped, 0
        filtered, self._crossing_filtered = self._crossing_filtered, 0
        return crossing, dropped, filtered

    def sift(self, points: Sequence[Any], filtered: int, at_home: bool) -> None:
        """Take what is left of points that were filtered, as `offer` or `cross` do.

        Args:
            points: They.
            filtered: How many are not for this mailbox.
            at_home: Whether this is the host's thread.
        """
        if not at_home or self.books.depth:
            self.cross(points, filtered)
            return
        with self.books:
            self.ledger.filtered += filtered
            if points:
                self.offer(points)

    def arrive(self) -> None:
        """Accept what has crossed since the last time, in the order in which it came."""
        self._arriving = False
        came = self._inbox.alone(self._take_aside)
        if came is None:
            return  # another thread is about to put more there, and asks for this again
        crossing, dropped, filtered = came
        with self.books:
            self.ledger.filtered += filtered
            if not self._accepts:
                self._refuse(dropped + crossing.points)
                return
            self.ledger.accepted += dropped
            self._drop(OVERFLOW, dropped)
            while crossing.points:
                self.offer(crossing.get(crossing.points)[0])

    # Taking

    @abstractmethod
    async def take(self, size: int) -> Batch:
        """Wait for points; return what has gathered, at most `size`, now counted as in flight.

        One task at a time may wait here.

        Raises:
            trio.EndOfChannel: The mailbox is closed and empty.
        """

    def _taken(self, count: int) -> None:
        """Count points as in flight, with the books open."""
        self.ledger.queued -= count
        self.ledger.in_flight += count

    async def wait_for_points(self) -> None:
        """Wait until at least one point is there.

        Raises:
            trio.EndOfChannel: The mailbox is closed and empty.
        """
        await self._wait_for(1)
        if not self.ledger.queued:
            raise trio.EndOfChannel

    async def wait_for_enough(self) -> None:
        """Wait until a full batch has gathered or the mailbox is closed."""
        await self._wait_for(self._enough)

    async def _wait_for(self, count: int) -> None:
        """Wait until so many points are queued or the mailbox is closed."""
        while self._accepts and self.ledger.queued < count:
            self._awaited_there = there = trio.Event()
            self._awaited = count
            if self.ledger.queued < count:  # and none came just before that could be seen
                await there.wait()

    def settle(self, batch: Batch, again: Sequence[int] = ()) -> None:
        """Let go of a batch's points but for those at the indices in `again`."""
        batch.keep_only(again)

    @property
    def stored_bytes(self) -> int:
        """How many bytes of points wait on disk, or are about to be written."""
        return 0

    # Ending

    def close(self) -> None:
        """Accept no more; what is queued can still be taken."""
        if not self.closed.is_set():
            self.arrive()
            self._accepts = False
            self.closed.set()
            self._wake()

    @abstractmethod
    def drop_rest(self, reason: str) -> int:
        """Close, and count what is still queued as dropped; return how many points."""

    #: Whether points that are not delivered are left to the next run of the service.
    outlasts: bool = False

    @abstractmethod
    async def write_behind(self) -> None:
        """Write what is accepted to where it outlives the process, until the mailbox's end."""

    @abstractmethod
    async def keep(self, batches: Sequence[Batch]) -> None:
        """Close, and leave what is not delivered to the next run, as far as there is a place for it."""


class MemoryMailbox(Mailbox):
    """A mailbox that ends with the process."""

    def __init__(self, bounds: Bounds, enough: int) -> None:
        super().__init__(bounds, enough)
        self._queue = Queue(bounds)
        self._now = trio.lowlevel.current_clock().current_time  # cheaper than `trio.current_time`

    def set_bounds(self, bounds: Bounds, enough: int) -> None:
        super().set_bounds(bounds, enough)
        self._queue.bounds = bounds

    def offer(self, points: Sequence[Any], size: int | None = None) -> None:
        ledger, queue, books = self.ledger, self._queue, self.books
        books.depth += 1  # cheaper than `with`
        try:
            if not self._accepts:
                self._refuse(len(points))
                return
            ledger.accepted += len(points)
            if dropped := queue.put(points, self._now(), size):
                self._drop(OVERFLOW, dropped)
            ledger.queued = queue.points
            if queue.points >= self._awaited:
                self._wake_soon()
        finally:
            books.depth -= 1

    async def take(self, size: int) -> Batch:
        await self.wait_for_points()
        batch = Batch()
        with self.books:
            while len(batch) < size and self._queue.points:
                batch.add(*self._queue.get(size - len(batch)))
            self._taken(len(batch))
        return batch

    def drop_rest(self, reason: str) -> int:
        self.close()
        with self.books:
            dropped = self._queue.points
            self._queue = Queue(self._bounds)
            self.ledger.queued = 0
            self._drop(reason, dropped)
        return dropped

    async def write_behind(self) -> None:
        pass

    async def keep(self, batches: Sequence[Batch]) -> None:
        self.close()
