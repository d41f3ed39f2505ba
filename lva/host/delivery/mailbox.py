"""The mailbox of one event class: a bounded channel. Nothing in it awaits per point."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import trio

from lva.host.delivery.inbox import Inbox
from lva.host.delivery.ledger import OVERFLOW, Ledger
from lva.host.delivery.queue import Batch, Bounds, Queue


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


def tell_nobody() -> None:
    """Say nothing of points that are lost."""


class Mailbox(ABC):
    """What every mailbox does: it counts, takes points at any moment, and wakes who waits.

    Args:
        bounds: On what waits in memory.
        lost: Called after points were dropped or refused.
    """

    def __init__(self, bounds: Bounds, lost: Callable[[], object]) -> None:
        self.ledger: Ledger = Ledger()
        #: Set once no more points are accepted.
        self.closed: trio.Event = trio.Event()
        self.books: Books = Books()
        #: How many bytes of points wait on disk, or are about to be written.
        self.stored_bytes: int = 0
        self.lost: Callable[[], object] = lost
        self._accepts = True  # as `closed` says, but cheaper to ask for each point
        self._bounds = bounds
        self._awaited = sys.maxsize  # with how many queued points to wake who waits
        self._awaited_there = trio.Event()
        self._inbox: Inbox[tuple[Sequence[Any], int]] = Inbox(self._put_aside)
        self._crossing = Queue(bounds)  # what came while the books could not be touched
        self._crossing_dropped = self._crossing_filtered = 0
        self._arriving = False  # whether `arrive` has been asked for
        self._token = trio.lowlevel.current_trio_token()

    def set_bounds(self, bounds: Bounds) -> None:
        """Change the bounds; what is too much by the new ones goes when the next points come."""
        self._bounds = bounds
        self._crossing.bounds = bounds

    # Accepting

    @abstractmethod
    def offer(self, points: Sequence[Any], size: int | None = None) -> None:
        """Accept points; never waits. Past the bounds some are dropped, counted.

        Args:
            points: The points to accept.
            size: Their size in bytes, if it is known.

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

        `Delivery._gather` calls it. One task at a time may wait here.

        Cancellation: takes nothing.

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
        await self.wait_for(1)
        if not self.ledger.queued:
            raise trio.EndOfChannel

    async def wait_for(self, count: int) -> None:
        """Wait until so many points are queued or the mailbox is closed."""
        while self._accepts and self.ledger.queued < count:
            self._awaited_there = there = trio.Event()
            self._awaited = count
            if self.ledger.queued < count:  # and none came just before that could be seen
                await there.wait()

    def settle(self, batch: Batch, again: Sequence[int] = ()) -> None:
        """Let go of a batch's points but for those at the indices in `again`."""
        batch.keep_only(again)

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

    async def write_behind(self) -> None:  # noqa: B027 - there may be nothing to write
        """Write what is accepted to where it outlives the process, until the mailbox's end."""

    async def keep(self, batches: Sequence[Batch]) -> None:
        """Close, and leave what is not delivered to the next run, as far as there is a place for it."""
        self.close()


class MemoryMailbox(Mailbox):
    """A mailbox that ends with the process."""

    def __init__(self, bounds: Bounds, lost: Callable[[], object] = tell_nobody) -> None:
        super().__init__(bounds, lost)
        self._queue = Queue(bounds)
        self._now = trio.lowlevel.current_clock().current_time  # cheaper than `trio.current_time`

    def set_bounds(self, bounds: Bounds) -> None:
        super().set_bounds(bounds)
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
