"""From `publish()` to `handleEvent`: one bounded channel, one account and one delivery loop per class.

Points travel in the chunks they were published in; nothing awaits per point. At every moment::

    accepted = delivered + rejected + dropped + queued + in_flight
"""

from __future__ import annotations

import logging
import math
import random
import threading
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import trio

from lva.contract import PartialDeliveryError, PermanentDeliveryError, RetryLaterError
from lva.host.runtimes import Call, Patience, Runtime
from lva.logs import brief
from lva.settings import PluginSettings

#: Reasons for which points are dropped.
OVERFLOW: Final = "overflow"
ATTEMPTS: Final = "max_attempts"
SHUTDOWN: Final = "shutdown"
FAILED: Final = "plugin_failed"
#: Longest delay before another attempt, in seconds, while a stop waits for the points.
_DRAINING_DELAY: Final = 0.2
#: How long, in seconds, a failure like the last one is only counted and not logged again.
_LOG_INTERVAL: Final = 10.0


@dataclass(slots=True)
class Ledger:
    """What became of the points of one event plugin; all counts since the service started.

    Attributes:
        accepted: Points that entered the plugin's channel.
        delivered: Points whose `handleEvent` call returned.
        rejected: Points that the plugin called wrong for ever.
        dropped: Points given up, by reason.
        queued: Points waiting in the channel.
        in_flight: Points in a `handleEvent` call, or waiting for their next attempt.
        retries: Calls that were repeated attempts.
    """

    accepted: int = 0
    delivered: int = 0
    rejected: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    queued: int = 0
    in_flight: int = 0
    retries: int = 0

    @property
    def lost(self) -> int:
        """Dropped points, for whatever reason."""
        return self.dropped.total()

    @property
    def balanced(self) -> bool:
        """Whether every accepted point is in exactly one place."""
        return self.accepted == (
            self.delivered + self.rejected + self.lost + self.queued + self.in_flight
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
            "retries": self.retries,
        }


class Mailbox:
    """The bounded channel of one event class. Points are counted here, chunk sizes do not matter.

    Args:
        limit: Most points that wait.
        overflow: ``drop_oldest`` or ``drop_newest``.
        enough: How many waiting points `wait_for_enough` waits for.
    """

    def __init__(self, limit: int, overflow: str, enough: int) -> None:
        self.ledger: Ledger = Ledger()
        self._limit = limit
        self._drop_oldest = overflow == "drop_oldest"
        self._enough_points = enough
        self._send, self._receive = trio.open_memory_channel[Sequence[Any]](math.inf)
        self._chunk: Sequence[Any] = ()  # the oldest chunk, of which a part is already taken
        self._offset = 0
        self._enough = trio.Event()
        #: Set once no more points are accepted.
        self.closed: trio.Event = trio.Event()
        self._crossing: deque[Sequence[Any]] = deque()  # published in other threads
        self._crossing_points = 0
        self._crossing_dropped = 0
        self._crossing_lock = threading.Lock()

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
        if dropped:
            self.ledger.dropped[OVERFLOW] += dropped
        for chunk in chunks:
            self.offer(chunk)

    def offer(self, points: Sequence[Any]) -> None:
        """Accept points; never waits. Past the limit the overflow policy drops some, counted."""
        if self.closed.is_set():
            return
        ledger = self.ledger
        count = len(points)
        ledger.accepted += count
        excess = ledger.queued + count - self._limit
        if excess > 0:
            points = self._make_room(points, excess)
        if points:
            ledger.queued += len(points)
            self._send.send_nowait(points)
            if ledger.queued >= self._enough_points:
                self._enough.set()

    def _make_room(self, points: Sequence[Any], excess: int) -> Sequence[Any]:
        """Drop `excess` points by policy; return what is left of the new ones."""
        self.ledger.dropped[OVERFLOW] += excess
        if self._drop_oldest:
            while excess and (old := self._next_nowait(excess)):
                self.ledger.queued -= len(old)
                excess -= len(old)
            return points[excess:]  # older points are gone, or on their way to the plugin
        return points[: len(points) - excess]

    async def take(self, size: int) -> list[Any]:
        """Wait for points; return what has gathered, at most `size`, now counted as in flight."""
        await self.wait_for_points()
        batch: list[Any] = []
        while len(batch) < size and (more := self._next_nowait(size - len(batch))):
            batch.extend(more)
        self.ledger.queued -= len(batch)
        self.ledger.in_flight += len(batch)
        if (
            self.ledger.queued < self._enough_points
            and self._enough.is_set()
            and not self.closed.is_set()
        ):
            self._enough = trio.Event()
        return batch

    def _next_nowait(self, size: int) -> Sequence[Any]:
        """Return the next points of one chunk, at most `size`; empty if none wait."""
        if self._offset >= len(self._chunk):
            try:
                self._chunk, self._offset = self._receive.receive_nowait(), 0
            except (trio.WouldBlock, trio.EndOfChannel):
                return ()
        part = self._chunk[self._offset : self._offset + size]
        self._offset += len(part)
        if self._offset >= len(self._chunk):
            self._chunk, self._offset = (), 0
        return part

    async def wait_for_points(self) -> None:
        """Wait until at least one point is there."""
        if self._offset >= len(self._chunk):
            chunk = await self._receive.receive()
            # While it was on its way here, an overflow may have opened a later chunk: that goes behind.
            self._chunk, self._offset = (*chunk, *self._chunk[self._offset :]), 0

    async def wait_for_enough(self) -> None:
        """Wait until a full batch has gathered or the mailbox is closed."""
        await self._enough.wait()

    def close(self) -> None:
        """Accept no more; what is queued can still be taken."""
        if not self.closed.is_set():
            self.arrive()
            self.closed.set()
            self._send.close()
            self._enough.set()

    def drop_rest(self, reason: str) -> int:
        """Close, and count what is still queued as dropped; return how many points."""
        self.close()
        dropped = 0
        while part := self._next_nowait(1 << 30):
            dropped += len(part)
        self.ledger.queued -= dropped
        if dropped:
            self.ledger.dropped[reason] += dropped
        return dropped


@dataclass(slots=True)
class _Logged:
    """The last failure of a kind that was logged, and how many like it were not."""

    why: str
    quiet_until: float
    unlogged: int = 0


class Delivery:
    """Delivers the points of one event class for as long as the service runs.

    The batch being delivered outlives an attempt of the plugin: after a crash the next attempt gets
    it again.

    Args:
        what: ``"NAME.Class.handleEvent"``, for messages.
        settings: Limits and retry delays.
        logger: The plugin's logger, which `handleEvent` gets too.
        rng: Source of the jitter.
        patience: Bounds the wait for a call that was cancelled.
    """

    def __init__(
        self,
        what: str,
        settings: PluginSettings,
        logger: logging.Logger,
        rng: random.Random,
        patience: Patience,
    ) -> None:
        self.mailbox: Mailbox = Mailbox(
            settings.buffer_limit,
            settings.overflow,
            enough=min(settings.batch_size, settings.buffer_limit),
        )
        self.last_error: str | None = None
        #: Set once the mailbox is closed and every point of it is settled.
        self.finished: trio.Event = trio.Event()
        self._what = what
        self._settings = settings
        self._logger = logger
        self._rng = rng
        self._patience = patience
        self._batch: list[Any] = []
        self._attempts = 0
        self._unblamed = 0  # attempts that failed for no fault of the batch's
        self._least_delay = 0.0
        self._logged: dict[str, _Logged] = {}

    @property
    def ledger(self) -> Ledger:
        """The account of this class's points."""
        return self.mailbox.ledger

    async def run(self, runtime: Runtime, handle: Callable[..., Awaitable[Any]]) -> Call | None:
        """Deliver until the mailbox is closed and empty, or until cancelled.

        Returns:
            None once everything is delivered; or the call that ignored its cancellation, whose
            points are then counted as dropped.
        """
        while True:
            if not self._batch:
                try:
                    await self._gather()
                except trio.EndOfChannel:
                    self.finished.set()
                    return None
            stuck = await self._deliver(runtime, handle)
            if stuck is not None:
                return stuck
            if self._batch:
                await self._back_off()

    async def _gather(self) -> None:
        settings = self._settings
        if settings.flush_interval:
            await self.mailbox.wait_for_points()
            with trio.move_on_after(settings.flush_interval):
                await self.mailbox.wait_for_enough()
        self._batch = await self.mailbox.take(settings.batch_size)
        self._attempts = self._unblamed = 0

    async def _deliver(
        self, runtime: Runtime, handle: Callable[..., Awaitable[Any]]
    ) -> Call | None:
        self._attempts += 1
        if self._attempts > 1:
            self.ledger.retries += 1
        batch = self._batch
        call = runtime.call(self._what, handle, list(batch), self._logger)
        ended = in_time = False
        try:
            with trio.move_on_after(self._settings.handle_timeout):
                await call.done.wait()
            in_time = ended = call.done.is_set()
        finally:
            # Also on the way out of a cancelled delivery: what arrived is delivered all the same.
            if not ended:
                call.cancel()
                with trio.CancelScope(shield=True):
                    ended = await self._patience.wait(
                        call.done, self._settings.stop_timeout, share=1 / 3
                    )
            if call.returned:
                self._settle(delivered=len(batch))
            elif not ended:
                self._give_up(FAILED)
        if not ended:
            return call
        if not call.returned:
            self._failed(batch, call.error, in_time)
        return None

    def _failed(self, batch: list[Any], error: BaseException | None, in_time: bool) -> None:
        """Account for a call that did not deliver the whole batch."""
        if isinstance(error, PartialDeliveryError):
            self._settle_partly(batch, error)
        elif isinstance(error, PermanentDeliveryError):
            self._settle(rejected=len(batch))
        elif isinstance(error, RetryLaterError):
            self._unblamed += 1
            self._least_delay = max(0.0, error.after or 0.0)
        if error is None and in_time:
            why = "was cancelled by its own code"
        elif error is None:
            why = f"took longer than {self._settings.handle_timeout:g} s"
        else:
            why = f"raised {brief(error)}"
        self.last_error = f"{self._what} {why}"
        left = len(self._batch)
        if left and self._attempts - self._unblamed >= self._settings.max_attempts:
            self._give_up(ATTEMPTS)
            self._log_failure(
                why, f"{left} points dropped after {self._attempts} attempts", "drop", error
            )
        elif left:
            self._log_failure(why, f"{left} points to be tried again", "retry", error)
        else:
            self._log_failure(why, "not to be tried again", "reject", error)

    def _log_failure(self, why: str, outcome: str, kind: str, error: BaseException | None) -> None:
        """Log a failure: the first of its kind with its traceback, then at most one in a while."""
        now = trio.current_time()
        last = self._logged.get(kind)
        new = last is None or last.why != why
        if last is not None and not new and now < last.quiet_until:
            last.unlogged += 1
            return
        more = f" ({last.unlogged} more like it were not logged)" if last and last.unlogged else ""
        self._logged[kind] = _Logged(why, now + _LOG_INTERVAL)
        self._logger.warning(
            "%s %s; %s%s",
            self._what,
            why,
            outcome,
            more,
            exc_info=error if new else None,
            extra={"phase": "handleEvent"},
        )

    def _settle_partly(self, batch: list[Any], error: PartialDeliveryError) -> None:
        """Keep the failed points for the next attempt, in order; settle the rest."""
        own = {id(point) for point in batch}
        rejected = {id(point) for point in error.rejected}
        failed = {id(point) for point in error.failed}
        if (
            not failed | rejected <= own
        ):  # copies were named: better to repeat a point than lose one
            failed = own
        failed -= rejected
        again = [point for point in batch if id(point) in failed]
        refused = sum(id(point) in rejected for point in batch)
        self._settle(delivered=len(batch) - len(again) - refused, rejected=refused)
        self._batch = again

    def _settle(self, delivered: int = 0, rejected: int = 0) -> None:
        ledger = self.ledger
        ledger.delivered += delivered
        ledger.rejected += rejected
        ledger.in_flight -= delivered + rejected
        self._batch = []

    def _give_up(self, reason: str) -> None:
        self.ledger.in_flight -= len(self._batch)
        self.ledger.dropped[reason] += len(self._batch)
        self._batch = []

    async def _back_off(self) -> None:
        """Wait before the next attempt; once the mailbox is closed, only briefly: time is short."""
        settings = self._settings
        bound = min(settings.retry_max, settings.retry_initial * 2.0 ** min(self._attempts - 1, 60))
        delay = max(self._least_delay, self._rng.uniform(0, bound))
        self._least_delay = 0.0
        with trio.move_on_after(delay) as whole_delay:
            await self.mailbox.closed.wait()
        if not whole_delay.cancelled_caught:
            await trio.sleep(min(delay, _DRAINING_DELAY))

    def drop_rest(self, reason: str) -> int:
        """Give up every point that is not delivered; return how many were dropped."""
        in_flight = len(self._batch)
        if in_flight:
            self._give_up(reason)
        return in_flight + self.mailbox.drop_rest(reason)
