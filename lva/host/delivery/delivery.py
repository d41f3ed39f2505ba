"""From a plugin's mailbox to its `handleEvent`: batches, retries, and a pause for a dead receiver."""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import Any, Final

import trio

from lva.contract import PartialDeliveryError, PermanentDeliveryError, RetryLaterError
from lva.errors import counted
from lva.host.delivery.circuit import DRAINING_DELAY, Circuit, sleep_until
from lva.host.delivery.dead_letters import DeadLetters
from lva.host.delivery.histogram import BATCH_SIZES, DURATIONS, Histogram
from lva.host.delivery.intake import Handling, Intake, handling
from lva.host.delivery.ledger import AGE, ATTEMPTS, ENDS, FAILED, Ledger
from lva.host.delivery.losses import REFUSED, LossLog
from lva.host.delivery.mailbox import Mailbox, MemoryMailbox
from lva.host.delivery.outages import FailureLog
from lva.host.delivery.queue import Batch, Bounds
from lva.host.delivery.settlement import Settlement
from lva.host.delivery.shared import Shared
from lva.host.delivery.spool import SpooledMailbox
from lva.host.delivery.spool_file import SpoolFile
from lva.host.runtimes.calls import Call
from lva.host.runtimes.patience import Patience
from lva.host.runtimes.runtime import Runtime
from lva.logs.loggers import brief, own_logger, plugin_logger
from lva.settings import PluginSettings

#: Longest delay in seconds, while a stop waits for the points, after a receiver asked for a longer pause.
_DRAINING_PAUSE: Final = 1.0


class Delivery:
    """Delivers the points of one event class for as long as the service runs.

    The batches being delivered outlive an attempt of the plugin: after a crash the next attempt gets
    them again.

    Args:
        what: ``"NAME.Class.handleEvent"``, for messages.
        settings: Limits and retry delays.
        shared: What it has in common with all others.
        patience: Bounds the wait for a call that was cancelled.
        spool: The file that points outlive the process in; None for memory.
        dead_letters: Where points that are given up are written; None for nowhere.

    Attributes:
        intake: Which of the points that are published it gets.
        settlement: What becomes of them.
        finished: Set once the mailbox is closed and every point is settled, dropped, or left to the next run.
        given_up: Whether `drop_rest` was called, after which nothing is delivered.
    """

    def __init__(
        self,
        what: str,
        settings: PluginSettings,
        shared: Shared,
        patience: Patience,
        spool: SpoolFile | None = None,
        dead_letters: DeadLetters | None = None,
    ) -> None:
        plugin = what.partition(".")[0]
        self.what: str = what
        self.batch_sizes: Histogram = Histogram(BATCH_SIZES)
        self.durations: Histogram = Histogram(DURATIONS)
        self.last_error: str | None = None
        self.last_error_at: float = 0.0
        self.finished: trio.Event = trio.Event()
        self.given_up: bool = False
        self._settings = settings
        self._logger = plugin_logger(plugin)
        self._own_logger = own_logger(plugin)
        self._rng = shared.rng
        self._patience = patience
        self._lost = LossLog(what, self._logger, self._losses, shared).notice
        self._failures = FailureLog(what, self._logger)
        self.intake: Intake = Intake(what, settings, shared.start)
        self.circuit: Circuit = Circuit(
            settings.circuit_failures, settings.circuit_pause, shared.rng
        )
        mailbox = _mailbox(settings, spool, self._logger, self._lost)
        self.settlement: Settlement = Settlement(mailbox, plugin, shared.taps, dead_letters)
        self._batches: list[Batch] = []  # what is under way, oldest first
        self._idle: list[Batch] = []  # of these, what no worker has
        self._gathering = trio.Lock()
        self._paused = False
        self._calls = 0
        self._quiet = trio.Event()

    @property
    def mailbox(self) -> Mailbox:
        """Where its points wait."""
        return self.settlement.mailbox

    @property
    def ledger(self) -> Ledger:
        """The account of this class's points."""
        return self.mailbox.ledger

    def carry_on(
        self,
        settings: PluginSettings,
        patience: Patience,
        open_spool: Callable[[], SpoolFile | None],
        dead_letters: DeadLetters | None,
    ) -> None:
        """Serve the plugin's next life, which may have other settings, but not another kind of spool.

        What was given up is over; points are accepted again. A circuit that is open probes at once: an
        operator who starts, restarts or reloads a plugin has mended something, or wants to know.

        Args:
            settings, patience: Those of the next life.
            open_spool: Opens the spool again, if it was closed.
            dead_letters: Where points that are given up are written; None for nowhere.

        Raises:
            ConfigurationError: The spool cannot be opened.
        """
        if self.mailbox.closed.is_set():
            ledger = self.ledger
            self.settlement.mailbox = _mailbox(settings, open_spool(), self._logger, self._lost)
            if self.mailbox.outlasts:  # else what the spool has kept stays there
                ledger.take_back(self.ledger.recovered)
            self.mailbox.ledger = ledger
            if self._losses().total():
                self._lost()
            self.finished = trio.Event()
            self.given_up = False
        else:
            self.mailbox.set_bounds(_bounds(settings))
        self.intake.set(settings)
        self.circuit.set_limits(settings.circuit_failures, settings.circuit_pause)
        self.circuit.probe_at_once()
        self.settlement.dead_letters = dead_letters
        self._settings = settings
        self._patience = patience
        self._paused = False

    def _losses(self) -> Counter[str]:
        """Return how many points were dropped, by reason; but for ends, which are reported by themselves."""
        dropped = {reason: n for reason, n in self.ledger.dropped.items() if reason not in ENDS}
        return Counter({**dropped, REFUSED: self.ledger.refused, **self.settlement.lost_letters})

    async def pause(self) -> None:
        """Begin no more calls until the plugin's next life; return when none is under way."""
        self._paused = True
        while self._calls:
            self._quiet = trio.Event()
            await self._quiet.wait()

    async def run(self, runtime: Runtime, handle: Callable[..., Awaitable[Any]]) -> Call | None:
        """Deliver until the mailbox is closed and empty; called once by each attempt of the plugin.

        Cancellation: calls that are under way are cancelled, and waited for with `Patience`; what they say of
        their points holds.

        Errors: what `handleEvent` raises decides what becomes of its points, and is logged.

        Args:
            runtime: Where the class's code runs.
            handle: The `handleEvent` of the class's instance.

        Returns:
            None once everything is delivered, or left to the next run; or a call that ignored its
            cancellation, whose points stay in flight.
        """
        self._idle = list(self._batches)
        stuck: list[Call] = []
        async with trio.open_nursery() as workers:

            async def work() -> None:
                if (call := await self._work(runtime, handle)) is not None:
                    stuck.append(call)
                    workers.cancel_scope.cancel()

            for _ in range(self._settings.concurrency):
                workers.start_soon(work, name=self.what)
        if not stuck:
            self.finished.set()
        return stuck[0] if stuck else None

    async def _work(self, runtime: Runtime, handle: Callable[..., Awaitable[Any]]) -> Call | None:
        """Deliver one batch after the other."""
        while True:
            try:
                batch = self._idle.pop(0) if self._idle else await self._gather()
            except trio.EndOfChannel:
                return None
            try:
                stuck = await self._until_settled(batch, runtime, handle)
            finally:
                if not batch:
                    # By identity: empty batches are equal.
                    self._batches = [other for other in self._batches if other is not batch]
            if batch or stuck is not None:
                return stuck

    async def _gather(self) -> Batch:
        settings, mailbox = self._settings, self.mailbox
        async with nullcontext() if settings.concurrency == 1 else self._gathering:
            if settings.flush_interval:
                await mailbox.wait_for_points()
                with trio.move_on_after(settings.flush_interval):
                    await mailbox.wait_for(min(settings.batch_size, settings.buffer_limit))
            batch = await mailbox.take(settings.batch_size)
            self._batches.append(batch)
            return batch

    async def _until_settled(
        self, batch: Batch, runtime: Runtime, handle: Callable[..., Awaitable[Any]]
    ) -> Call | None:
        """Deliver one batch, with back-offs, until nothing of it is left, or a call ignores its cancellation.

        At the end of the service, time is short: points that outlast it are left to the next run.
        """
        while batch:
            async with self.circuit.admission(self.mailbox.closed):
                expired = batch.older_than(trio.current_time() - self._settings.max_age)
                if expired:
                    self.settlement.drop(batch, AGE, expired)
                stuck = await self._deliver(batch, runtime, handle) if batch else None
            await self.settlement.bury()
            if stuck is not None or (self.mailbox.outlasts and self.mailbox.closed.is_set()):
                return stuck
            if batch:
                await _back_off(batch, self._settings, self._rng, self.mailbox.closed)
        return None

    async def _deliver(
        self, batch: Batch, runtime: Runtime, handle: Callable[..., Awaitable[Any]]
    ) -> Call | None:
        """Call `handleEvent` once, by a `TrioCall` or an `AsyncioCall`, and account for what came of it."""
        if self._paused:
            await trio.sleep_forever()  # until the life ends; the next one gets the batch
        batch.attempts += 1
        batch.stuck = False
        self.ledger.retries += int(batch.attempts > 1)
        self.batch_sizes.observe(len(batch))
        begun = trio.current_time()
        self._calls += 1
        # The class does not get back what it publishes meanwhile.
        under_way = Handling(self.intake)
        outside = handling.set(under_way)
        call = runtime.call(self.what, handle, list(batch), self._own_logger)
        handling.reset(outside)
        ended = in_time = False
        try:
            with trio.move_on_after(self._settings.handle_timeout):
                await call.done.wait()
            in_time = ended = call.done.is_set()
        except trio.Cancelled:
            # When an operator's change cuts the call short, that is no fault of the batch's.
            batch.unblamed += int(self._paused)
            raise
        finally:
            # Also on the way out of a cancelled delivery: what the call says of its points holds.
            if not ended:
                call.cancel()
                ended = await self._patience.wait(
                    call.done, self._settings.stop_timeout, share=1 / 3
                )
            under_way.over = True
            self._calls -= 1
            self._quiet.set()
            self.durations.observe(trio.current_time() - begun)
            self._account(batch, call)
            batch.stuck = not ended
        if not ended:
            return call
        if not call.returned:
            self._failed(batch, call.error, in_time)
        return None

    def _account(self, batch: Batch, call: Call) -> None:
        """Settle the points of which a call has said what becomes of them; the others stay in the batch."""
        if call.returned:
            self.settlement.deliver(batch)
            if self.circuit.succeeded():
                self._logger.info("%s works again", self.what)
            return
        self.settlement.deliver_partly(batch, call.error)
        if (pause := _pause_asked_for(call.error)) is not None:
            batch.unblamed += 1
            batch.least_delay = pause

    def _failed(self, batch: Batch, error: BaseException | None, in_time: bool) -> None:
        """Decide what follows from a call that did not deliver the whole batch, and log it."""
        why = _why(error, None if in_time else self._settings.handle_timeout)
        self.last_error = f"{self.what} {why}"
        self.last_error_at = time.time()
        points = counted(len(batch), "point")
        self.settlement.show_failed(batch)
        if batch and batch.attempts - batch.unblamed >= self._settings.max_attempts:
            self.settlement.drop(batch, ATTEMPTS, len(batch))
            attempts = f"{points} dropped after {counted(batch.attempts, 'attempt')}"
            self._failures.note(why, attempts, "drop", error)
        elif batch:
            self._failures.note(why, f"{points} to be tried again", "retry", error)
        else:
            self._failures.note(why, "not to be tried again", "reject", error)
        answered = isinstance(error, PartialDeliveryError | PermanentDeliveryError)
        if answered:
            self.circuit.succeeded()
        elif self.circuit.failed():
            self._logger.warning(
                "%s failed %s in a row: circuit open; next probe in %.0f s",
                self.what,
                counted(self._settings.circuit_failures, "time"),
                self.circuit.seconds_left,
            )

    async def keep(self) -> None:
        """Leave what is not delivered to the next run, as far as there is a place for it."""
        await self.mailbox.keep(self._batches)

    def drop_rest(self, reason: str) -> int:
        """Give up every point that is neither delivered nor kept; return how many were dropped.

        Those in a call that does not end are dropped because the plugin has failed, whatever the reason.
        """
        self.given_up = True
        in_flight = sum(map(len, self._batches))
        for batch in self._batches:
            if batch:
                self.settlement.drop_at_end(batch, FAILED if batch.stuck else reason)
        self._batches = []
        self.finished.set()
        return in_flight + self.mailbox.drop_rest(reason)


async def _back_off(
    batch: Batch, settings: PluginSettings, rng: random.Random, closed: trio.Event
) -> None:
    """Wait before the next attempt; once the mailbox is closed, only briefly: time is short."""
    bound = min(settings.retry_max, settings.retry_initial * 2.0 ** min(batch.attempts - 1, 60))
    delay = min(max(batch.least_delay, rng.uniform(0, bound)), settings.max_age)
    # Nobody knows how long the stop lasts. Not to try would be to lose the points for certain.
    brief_delay = min(max(batch.least_delay, DRAINING_DELAY), _DRAINING_PAUSE)
    batch.least_delay = 0.0
    await sleep_until(trio.current_time() + delay, closed, brief_delay)


def _why(error: BaseException | None, timeout: float | None) -> str:
    """Say what a call did that did not return; with a timeout if it took longer than that."""
    if error is not None:
        return f"raised {brief(error)}"
    return "was cancelled by its own code" if timeout is None else f"took longer than {timeout:g} s"


def _pause_asked_for(error: BaseException | None) -> float | None:
    """Return for how many seconds the receiver asked for no calls, as what failed is not to blame.

    None: it did not ask. A plugin may have said anything.
    """
    after = getattr(error, "after", None)
    partly = isinstance(error, PartialDeliveryError) and after is not None
    if not partly and not isinstance(error, RetryLaterError):
        return None
    return after if isinstance(after, int | float) and after > 0 else 0.0


def _mailbox(
    settings: PluginSettings,
    spool: SpoolFile | None,
    logger: logging.Logger,
    lost: Callable[[], object],
) -> Mailbox:
    bounds = _bounds(settings)
    if spool is None:
        return MemoryMailbox(bounds, lost)
    return SpooledMailbox(spool, bounds, settings.spool_bytes, logger, lost)


def _bounds(settings: PluginSettings) -> Bounds:
    drop_oldest = settings.overflow == "drop_oldest"
    return Bounds(settings.buffer_limit, settings.buffer_bytes, drop_oldest)
