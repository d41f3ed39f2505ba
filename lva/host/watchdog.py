"""The thread that watches Trio's event loop, and finds out which plugin holds it.

Everything on the event loop waits while one step of one task runs. To look which step that is takes some
microseconds, but the change of threads and back costs a busy loop tenths of a millisecond. So the thread
looks twice within the limit, and often once it has seen the same step again. A step that goes on for longer
than the limit is a hold, and only then stacks are looked at. Whose it is: see `lva.host.stacks`.

When the thread itself could not run for long, something kept the interpreter's lock. Processor times tell
which thread that was. If it was the event loop's, the `StarvationAlarm` has seen the step at it; if it was
the asyncio loop's of a plugin, it was that plugin, wherever the event loop stood meanwhile. And what a step
itself has waited for others is not put down to it: see `lva.host.waits`.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from types import FrameType
from typing import Any, Final, NamedTuple

import trio
from trio._core._run import GLOBAL_RUN_CONTEXT

from lva.host.holds import Culprit, HoldReport, Reporter
from lva.host.interpreter import Collections, StarvationAlarm
from lva.host.loop_use import LoopUses
from lva.host.loops import LoopThread
from lva.host.processor import (
    ProcessorTimes,
    Schedule,
    ScheduleReader,
    busiest,
    is_runnable,
    own_processor_clock,
    processor_times,
)
from lva.host.stacks import owner_of, stack_of, without_callers
from lva.host.steps import sample_steps
from lva.host.waits import Look, Waits, look_closely_at
from lva.logs import current_plugin, service_logger

LOGGER: Final = service_logger("lva.host")

#: How often the thread looks: so many times within the limit, and no less often than so, in seconds.
_LOOKS: Final = 2
_LONGEST_PAUSE: Final = 0.1
#: Once it has seen the same step again: so many times within the time that this has taken so far, and no more
#: often than so, within the limit and in seconds.
_CLOSER_LOOKS: Final = 10
_SHORTEST_PAUSE: Final = 0.005
#: It looks so much earlier or later, so that it does not keep step with what it watches.
_JITTER: Final = 0.1
#: The part of the limit after which the alarm goes off, once a look is due.
_ALARM: Final = 0.25
#: The part of the time in which no thread looked that the event loop's must have had a processor for, if
#: what it runs then has run all the time; and that a plugin's own thread must have had, to be blamed.
_BUSY: Final = 0.25
_RIVAL: Final = 0.5
#: The part of such a time that this thread itself must have waited for a processor, if the process did not
#: stand still.
_LATE: Final = 0.5
#: How often the use of processors is noted, in seconds.
_NOTING: Final = 1.0


class Step(NamedTuple):
    """One step of one task: what runs on the event loop at a time."""

    task: trio.lowlevel.Task
    number: int


class Sighting(NamedTuple):
    """What ran on the event loop at some time.

    Attributes:
        at: When (`time.monotonic()`).
        used: How much processor time the event loop's thread had had by then.
        step: None while the loop waited, or was between two steps.
        culprit: Whose step it is, if that was looked at.
        all_used: How much processor time the process had had.
        told: What the kernel told of the event loop's thread, if it does. The alarm does not ask: it must not
            let go of the interpreter.
    """

    at: float
    used: float
    step: Step | None
    culprit: Culprit | None = None
    all_used: float = 0.0
    told: Schedule | None = None

    @property
    def queued(self) -> float:
        """For how long the event loop's thread had waited for a processor, as far as is known."""
        return 0.0 if self.told is None else self.told.queued


class LoopWatchdog:
    """Watches the event loop that `run` is called on.

    Args:
        limit: What holds the loop for longer, in seconds, is reported.
        uses: Where it is written down what each plugin uses of the loop.
        plugins: Returns those there are by name, each with the thread of its asyncio loop if it has one.
    """

    def __init__(
        self,
        limit: float,
        uses: LoopUses,
        plugins: Callable[[], Mapping[str, LoopThread | None]],
    ) -> None:
        self._limit = limit
        self._uses = uses
        self._plugins = plugins
        self._usual_pause = min(_LONGEST_PAUSE, max(_SHORTEST_PAUSE, limit / _LOOKS))
        self._pause = self._usual_pause  # until the next look
        self._reporter = Reporter(uses)
        self._alarm: StarvationAlarm[Sighting] = StarvationAlarm(self._sight)
        self._collections = Collections()
        self._collections_until = 0.0
        self._over = threading.Lock()
        self._context: Mapping[str, Any] = {}
        self._ident = self._native_id = 0
        self._clock: int | None = None
        self._last = Sighting(0.0, 0.0, None)
        self._step: Step | None = None
        self._again = False
        self._begun = 0.0
        self._queued_before = self._used_before = 0.0
        self._waits = Waits(limit)
        self._hold: HoldReport | None = None
        self._longest: tuple[float, Culprit | None] = (0.0, None)
        self._own: Schedule | None = None
        self._itself_queued = 0.0
        self._waited_for: str | None = None
        self._used_by: ProcessorTimes = {}
        self._rivals_before: ProcessorTimes = {}
        self._noted = 0.0

    async def run(self) -> None:
        """Watch until cancelled. Meanwhile this task samples of what the shares are made."""
        self._ident, self._native_id = threading.get_ident(), threading.get_native_id()
        self._clock = own_processor_clock()
        # Trio keeps the current task in a thread-local variable, whose dictionary any thread can read.
        self._context = GLOBAL_RUN_CONTEXT.__dict__
        self._over.acquire()
        self._alarm.install()
        self._collections.install()
        threading.Thread(target=self._watch, name="lva-watchdog", daemon=True).start()
        try:
            await sample_steps(self._uses, self._limit)
        finally:
            self._over.release()
            self._collections.remove()
            self._alarm.remove()

    # In the thread

    def _watch(self) -> None:
        self._last = self._glance()
        with (
            closing(ScheduleReader(self._native_id)) as schedule,
            closing(ScheduleReader(threading.get_native_id())) as own_schedule,
        ):
            while not self._over.acquire(timeout=self._pause):
                try:
                    self._look(schedule, own_schedule)
                except Exception:
                    self._alarm.set(0, 0)
                    LOGGER.exception("bug in the service: the event loop is not watched any more")
                    return
        self._over.release()

    def _look(self, schedule: ScheduleReader, own_schedule: ScheduleReader) -> None:
        # What the alarm sees from here on, should this thread lose the interpreter before it has looked, is
        # for the next look.
        alarmed = self._alarm.take()
        seen = self._glance()._replace(told=schedule.read())
        used_by = processor_times(self._plugins())
        own, own_before = own_schedule.read(), self._own
        self._own = own
        self._itself_queued = own.queued - own_before.queued if own and own_before else 0.0
        if seen.at - self._last.at > self._pause + self._limit / 2:
            self._starved(seen, used_by, [old for old in alarmed if old.at > self._last.at])
        else:
            self._advance(seen, began=(self._last.at + seen.at) / 2)
        self._report_collections()
        self._used_by = used_by
        if seen.at - self._noted >= _NOTING:
            self._noted = seen.at
            self._uses.note_processor(used_by)
        self._pause = self._next_pause(seen)
        self._alarm.set(self._pause + _ALARM * self._limit, _ALARM * self._limit)

    def _next_pause(self, seen: Sighting) -> float:
        pause = self._usual_pause
        if self._again:
            closer = max(self._limit, seen.at - self._begun) / _CLOSER_LOOKS
            pause = min(pause, max(_SHORTEST_PAUSE, closer))
        return pause * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - no cryptography

    def _glance(self) -> Sighting:
        task = self._context.get("task")
        number = 0 if task is None else task._schedule_points  # noqa: SLF001 - goes up with each step
        step = None if task is None else Step(task, number)
        now = time.monotonic()
        # Where processor times cannot be had, the thread is taken to be at work all the time.
        used = now if self._clock is None else time.clock_gettime(self._clock)
        return Sighting(now, used, step, all_used=time.process_time())

    def _sight(self, frame: FrameType | None) -> Sighting:
        """See what the event loop does; also called in its own thread, by the alarm."""
        seen = self._glance()
        stack = stack_of(frame)
        named = None if seen.step is None else seen.step.task.context.get(current_plugin)
        owner = owner_of(named, stack, self._plugins())
        return seen._replace(culprit=Culprit(owner, without_callers(stack, owner)))

    def _advance(self, seen: Sighting, began: float, used: float | None = None) -> None:
        """Take note of what runs at a time.

        Args:
            seen: What runs.
            began: When it began, if it is not the same as before.
            used: How much processor time the event loop's thread had had then; None if only now is known.
        """
        before, self._last = self._last, seen
        self._again = seen.step is not None and seen.step == self._step
        if seen.step != self._step:
            if self._hold is not None:
                self._hold.end(began)
                self._hold = None
            self._step, self._begun = seen.step, began
            self._used_before = seen.used if used is None else used
            self._waits.forget()
            self._longest = (0.0, None)
            # A beginning that processor times were known of has waits for a processor left out already.
            self._queued_before = (
                self._begin_waits(before, seen, began) if used is None else seen.queued
            )
            self._waited_for, self._rivals_before = None, self._used_by
        if seen.step is not None:
            if seen.culprit is None:  # it was not the alarm that saw it, some time ago
                self._waits.look(self._look_for_waits(seen))
            self._goes_on(seen, seen.at - max(before.at, self._begun))

    def _begin_waits(self, before: Sighting, seen: Sighting, began: float) -> float:
        """Begin with what is known of the time before a new step was first seen.

        Returns:
            For how long the event loop's thread had waited for a processor when the step began.
        """
        if seen.step is None or seen.culprit is not None:
            return seen.queued
        if before.told is None or seen.told is None:
            return seen.queued
        start = _between(before, seen, began - before.at)
        assert start.told is not None
        self._waits.look(Look(start.at, start.told, start.all_used))
        return start.queued

    def _look_for_waits(self, seen: Sighting) -> Look | None:
        """At a step that is new, what is known anyway has to do: to look costs the event loop time."""
        if self._again:
            return look_closely_at(self._ident, self._native_id)
        return None if seen.told is None else Look(seen.at, seen.told, seen.all_used)

    def _goes_on(self, seen: Sighting, since: float) -> None:
        """Report the step once it has gone on for too long, and keep the report up to date.

        To blame is what it was at for the longest time between two sightings: what it is at by now may be
        the line after that.

        Args:
            seen: The step.
            since: How long ago it was seen before, or began.
        """
        if seen.culprit is not None:
            self._longest = max((since, seen.culprit), self._longest, key=lambda known: known[0])
        if self._hold is not None:
            self._hold.go_on(seen.at)
        elif (lasted := self._lasted(self._begun, seen.at)) < self._limit:
            return
        elif not self._is_its_own_doing(lasted, seen):
            self._waited(seen)
        else:
            longest, culprit = self._longest
            if culprit is None or longest < since:
                now = self._sight(_frame_of(self._ident))
                # A step that a plugin was seen at is the plugin's, though the service goes on with it by now.
                known = culprit is not None and culprit.plugin is not None
                if now.step == self._step and now.culprit is not None:
                    culprit = culprit if known and now.culprit.plugin is None else now.culprit
            if culprit is not None:
                self._hold = self._reporter.report(culprit, self._begun, seen.at)

    def _is_its_own_doing(self, lasted: float, seen: Sighting) -> bool:
        """Return whether the step has computed, or slept, for too long, waits apart."""
        if seen.used - self._used_before >= self._limit:
            return True
        if seen.culprit is not None:
            return False  # by the alarm: what it has waited for shows once this thread sees it
        waited = seen.queued - self._queued_before + self._waits.seconds
        if lasted - waited < self._limit:
            return False
        # What only a wait for a processor that is not over may explain has to show when it is seen again.
        return lasted - waited - self._waits.unexplained >= self._limit or not is_runnable(
            self._native_id
        )

    def _waited(self, seen: Sighting) -> None:
        """Report, once, the plugin whose own thread the step has waited for too long, if it is one's."""
        if self._waited_for is not None or self._waits.for_a_turn < self._limit:
            return
        name, used = busiest(self._rivals_before, processor_times(self._plugins()))
        rival = self._plugins().get(name)
        wanted = 0.0 if rival is None else self._waits.wanted_by(rival.thread.native_id)
        if max(used, wanted) >= _RIVAL * (seen.at - self._begun):
            self._waited_for = name
            self._report_thread(name, self._begun, seen.at)

    def _lasted(self, begun: float, now: float) -> float:
        """Return for how long something has gone on, garbage collections apart."""
        return now - begun - self._collections.seconds_between(begun, now)

    def _report_collections(self) -> None:
        for begun, ended in self._collections.recent_since(self._collections_until):
            self._collections_until = ended
            if ended - begun >= self._limit:
                self._reporter.report_collection(ended - begun)

    # When this thread could not run

    def _starved(
        self, now: Sighting, used_by: ProcessorTimes, sightings: Sequence[Sighting]
    ) -> None:
        """Find out what happened since the last look, from what the alarm has seen meanwhile.

        Whatever ran at a sighting has run since the one before, if the event loop's thread was at work for
        it: the alarm goes off as soon as a C function returns. While it waited for a processor, it was not.
        What was seen first may have begun at any time until the look that this thread could not take.
        """
        rival = busiest(self._used_by, used_by)
        self._last = _between(self._last, sightings[0] if sightings else now, self._pause / 2)
        for sighting in sightings:
            seen = sighting._replace(told=self._last.told)
            used, all_used = seen.used - self._last.used, seen.all_used - self._last.all_used
            self._make_sense_of(seen, used >= _BUSY * all_used, seen.at - self._last.at, rival)
        # Without what it waited for a processor
        since = max(0.0, now.at - self._last.at - (now.queued - self._last.queued))
        self._make_sense_of(now, now.used - self._last.used >= _BUSY * since, since, rival)

    def _make_sense_of(
        self, seen: Sighting, at_work: bool, since: float, rival: tuple[str, float]
    ) -> None:
        if at_work:
            self._advance(seen, began=seen.at - since, used=self._last.used)
        elif since < self._limit / 2:
            self._advance(seen, began=seen.at)
        else:
            self._stood_still(seen, since, rival)

    def _stood_still(self, seen: Sighting, since: float, rival: tuple[str, float]) -> None:
        """Take note of what runs after a time in which the event loop's thread hardly did.

        Args:
            seen: What runs.
            since: How long that time was, without waiting for a processor.
            rival: The plugin whose own thread has used the processor most, and for how long.
        """
        begun = seen.at - since
        plugin, used = rival
        to_blame = used >= _RIVAL * since
        if to_blame and self._lasted(begun, seen.at) >= self._limit:
            if self._hold is None:
                self._begun += since  # the same step, if it is the same, has waited for the rival
                self._waits.skip()
            self._report_thread(plugin, begun, seen.at)
        if seen.step != self._step:
            self._advance(seen, began=seen.at)
        elif not to_blame and self._itself_queued >= _LATE * since:
            self._advance(seen, began=self._begun)  # it went on all the time
        else:
            # It waits for something, or the process stood still: that will show when it is seen again.
            self._last = seen

    def _report_thread(self, plugin: str, begun: float, now: float) -> None:
        thread = self._plugins().get(plugin)
        stack = [] if thread is None else stack_of(_frame_of(thread.thread.ident))
        self._reporter.report_thread(Culprit(plugin, without_callers(stack, plugin)), begun, now)


def _between(before: Sighting, after: Sighting, seconds: float) -> Sighting:
    """Return a sighting, but for so many seconds later, if until the next the processor was used evenly."""
    part = min(1.0, max(0.0, seconds) / max(1e-9, after.at - before.at))
    told = before.told
    if told is not None and after.told is not None:
        told = Schedule(
            told.used + part * (after.told.used - told.used),
            told.queued + part * (after.told.queued - told.queued),
            told.turns + round(part * (after.told.turns - told.turns)),
        )
    return before._replace(
        at=before.at + part * (after.at - before.at),
        used=before.used + part * (after.used - before.used),
        all_used=before.all_used + part * (after.all_used - before.all_used),
        told=told,
    )


def _frame_of(ident: int | None) -> FrameType | None:
    return sys._current_frames().get(ident or 0)  # noqa: SLF001 - the documented way to see a stack
