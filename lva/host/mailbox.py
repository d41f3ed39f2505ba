"""The bounded channel of one event class, and the account of its points.

Points travel in the chunks they were published in; nothing awaits per point. At every moment::

    accepted = delivered + rejected + dropped + queued + in_flight + kept
"""

from __future__ import annotations

import math
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import trio

#: Reasons for which points are dropped.
OVERFLOW: Final = "overflow"
ATTEMPTS: Final = "max_attempts"
AGE: Final = "max_age"
SHUTDOWN: Final = "shutdown"
FAILED: Final = "plugin_failed"
DAMAGED: Final = "spool_damaged"


@dataclass(slots=True)
class Ledger:
    """What became of the points of one event plugin; all counts since the service started.

    Attributes:
        accepted: Points that entered the plugin's channel, those from an earlier run included.
        delivered: Points whose `handleEvent` call returned.
        rejected: Points that the plugin called wrong for ever.
        dropped: Points given up, by reason.
        queued: Points waiting in the channel.
        in_flight: Points in a `handleEvent` call, or waiting for their next attempt.
        kept: Points left in the spool for the next run.
        recovered: Of the accepted points, those that an earlier run had left in the spool.
        retries: Calls that were repeated attempts.
    """

    accepted: int = 0
    delivered: int = 0
    rejected: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    queued: int = 0
    in_flight: int = 0
    kept: int = 0
    recovered: int = 0
    retries: int = 0

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

    def as_dict(self) -> dict[str, Any]:
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
            "retries": self.retries,
        }


class Batch(list[Any]):
    """Points on their way to the plugin, and what the host knows of them.

    Attributes:
        origins: The chunks that they came from, with how many points are of each, in order.
        attempts: How many calls have got it.
        unblamed: How many of those failed for no fault of the batch's.
        least_delay: How many seconds to wait at least before the next.
    """

    __slots__ = ("attempts", "least_delay", "origins", "unblamed")

    def __init__(self) -> None:
        super().__init__()
        self.origins: list[tuple[Any, int]] = []
        self.attempts = 0
        self.unblamed = 0
        self.least_delay = 0.0

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
    """Points that came together.

    Attributes:
        points: The points that are still to be taken.
        since: When they were accepted, in Trio time.
        size: Their size in bytes.
    """

    points: Sequence[Any]
    since: float
    size: int


def bytes_of(points: Iterable[Any]) -> int:
    """Return the size of points in memory, roughly: of their names and values."""
    return sum([point.size for point in points])


class Mailbox:
    """The channel. Bounds are counted in points and bytes; chunk sizes do not matter.

    Args:
        limit: Most points that wait.
        overflow: ``drop_oldest`` or ``drop_newest``.
        enough: How many waiting points `wait_for_enough` waits for.
        max_bytes: Most bytes that wait.
        measure: Tells the size of points in bytes.
    """

    def __init__(
        self,
        limit: int,
        overflow: str,
        enough: int,
        max_bytes: float = math.inf,
        measure: Callable[[Iterable[Any]], int] = lambda _points: 0,
    ) -> None:
        self.ledger: Ledger = Ledger()
        #: Set once no more points are accepted.
        self.closed: trio.Event = trio.Event()
        self._limit = limit
        self._max_bytes = max_bytes
        self._measure = measure
        self._bytes = 0
        self._drop_oldest = overflow == "drop_oldest"
        self._enough_points = enough
        self._enough = trio.Event()
        self._send, self._receive = trio.open_memory_channel[Any](math.inf)
        self._head: Chunk | None = None  # the oldest chunk, of which a part may be taken
        self._crossing: deque[Sequence[Any]] = deque()  # published in other threads
        self._crossing_points = 0
        self._crossing_dropped = 0
        self._crossing_lock = threading.Lock()

    # Accepting

    def offer(self, points: Sequence[Any]) -> None:
        """Accept points; never waits. Past the limits the overflow policy drops some, counted."""
        if self.closed.is_set():
            return
        self.ledger.accepted += len(points)
        self._accept(points, self._measure(points))
        if self.ledger.queued >= self._enough_points:
            self._enough.set()

    def _accept(self, points: Sequence[Any], size: int) -> None:
        ledger = self.ledger
        if ledger.queued + len(points) > self._limit or self._bytes + size > self._max_bytes:
            points = self._make_room(points, size)
            size = self._measure(points)
        if points:
            ledger.queued += len(points)
            self._bytes += size
            self._send.send_nowait(Chunk(points, trio.current_time(), size))

    def _make_room(self, points: Sequence[Any], size: int) -> Sequence[Any]:
        """Drop points by policy until there is room; return what is left of the new ones."""
        excess = self.ledger.queued + len(points) - self._limit
        if self._drop_oldest:
            while excess > 0 and (old := len(self._next_nowait(excess)[0])):
                self._forget(old)
                excess -= old
            while self._bytes + size > self._max_bytes and self._next_nowait(1)[0]:
                self._forget(1)
        return self._trim(points, max(0, excess), self._max_bytes - self._bytes)

    def _trim(self, points: Sequence[Any], excess: int, room: float) -> Sequence[Any]:
        """Drop `excess` new points, and more until the rest fits into `room` bytes."""
        kept = deque(points)
        sizes = deque(self._measure((point,)) for point in points)
        left = sum(sizes)
        while kept and (excess > 0 or left > room):
            excess -= 1
            if self._drop_oldest:
                kept.popleft()
                left -= sizes.popleft()
            else:
                kept.pop()
                left -= sizes.pop()
        self._drop(OVERFLOW, len(points) - len(kept))
        return list(kept)

    def _forget(self, count: int) -> None:
        """Drop points that have waited."""
        self.ledger.queued -= count
        self._drop(OVERFLOW, count)

    def _drop(self, reason: str, count: int) -> None:
        if count:
            self.ledger.dropped[reason] += count

    # From other threads

    def cross(self, points: Sequence[Any]) -> None:
        """Take points from another thread; `arrive` accepts them. Never waits, never grows past the limit.

        They are accepted in the order in which they came; past the limit the overflow policy drops
        some, counted when they arrive.
        """
        with self._crossing_lock:
            self._crossing.append(points)
            self._crossing_points += len(points)
            while (excess := self._crossing_points - self._limit) > 0:
                self._crossing_points -= self._shorten_crossing(excess)

    def _shorten_crossing(self, excess: int) -> int:
        """Drop up to `excess` points of the oldest or newest chunk; return how many."""
        chunk = self._crossing.popleft() if self._drop_oldest else self._crossing.pop()
        dropped = min(len(chunk), excess)
        if dropped < len(chunk) and self._drop_oldest:
            self._crossing.appendleft(chunk[dropped:])
        elif dropped < len(chunk):
            self._crossing.append(chunk[: len(chunk) - dropped])
        self._crossing_dropped += dropped
        return dropped

    def arrive(self) -> None:
        """Accept what other threads have published since the last time."""
        with self._crossing_lock:
            chunks, self._crossing = self._crossing, deque()
            dropped, self._crossing_dropped = self._crossing_dropped, 0
            self._crossing_points = 0
        if self.closed.is_set():
            return
        self.ledger.accepted += dropped
        self._drop(OVERFLOW, dropped)
        for chunk in chunks:
            self.offer(chunk)

    # Taking

    async def take(self, size: int) -> Batch:
        """Wait for points; return what has gathered, at most `size`, now counted as in flight."""
        await self.wait_for_points()
        batch = Batch()
        while len(batch) < size:
            points, origin = self._next_nowait(size - len(batch))
            if not points:
                break
            batch.add(points, origin)
        self._taken(len(batch))
        return batch

    def _taken(self, count: int) -> None:
        self.ledger.queued -= count
        self.ledger.in_flight += count
        if (
            self.ledger.queued < self._enough_points
            and self._enough.is_set()
            and not self.closed.is_set()
        ):
            self._enough = trio.Event()

    def _next_nowait(self, size: int) -> tuple[Sequence[Any], Chunk | None]:
        """Return the next points of one chunk, at most `size`, and the chunk; nothing if none wait."""
        if self._head is None:
            try:
                self._head = self._receive.receive_nowait()
            except (trio.WouldBlock, trio.EndOfChannel):
                return (), None
        head: Chunk = self._head
        if len(head.points) <= size:
            self._head = None
            self._bytes -= head.size
            return head.points, head
        part, head.points = head.points[:size], head.points[size:]
        part_size = self._measure(part)
        head.size -= part_size
        self._bytes -= part_size
        return part, head

    async def wait_for_points(self) -> None:
        """Wait until at least one point is there."""
        if self._head is None:
            chunk: Chunk = await self._receive.receive()
            # While it was on its way here, an overflow may have opened a later chunk: that goes behind.
            later = self._opened()
            if later is not None:
                chunk = Chunk([*chunk.points, *later.points], chunk.since, chunk.size + later.size)
            self._head = chunk

    def _opened(self) -> Chunk | None:
        return self._head

    async def wait_for_enough(self) -> None:
        """Wait until a full batch has gathered or the mailbox is closed."""
        await self._enough.wait()

    # Settling

    def settle(self, batch: Batch, again: Sequence[int] = ()) -> None:
        """Let go of a batch's points but for those at the indices in `again`."""
        batch.keep_only(again)

    @property
    def stored_bytes(self) -> int:
        """How many bytes of points wait on disk."""
        return 0

    # Ending

    def close(self) -> None:
        """Accept no more; what is queued can still be taken."""
        if not self.closed.is_set():
            self.arrive()
            self.closed.set()
            self._send.close()
            self._enough.set()

    async def keep(self, batches: Sequence[Batch]) -> bool:
        """Keep what is not delivered for the next run; return whether there is a place for it."""
        return False

    async def write_behind(self) -> None:
        """Write what is accepted to where it outlives the process, until cancelled."""

    def drop_rest(self, reason: str) -> int:
        """Close, and count what is still queued as dropped; return how many points."""
        self.close()
        dropped = 0
        while part := self._next_nowait(1 << 30)[0]:
            dropped += len(part)
        self.ledger.queued -= dropped
        self._drop(reason, dropped)
        return dropped
