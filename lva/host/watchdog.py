"""The thread that watches Trio's event loop, and finds out which plugin holds it.

Everything on the event loop waits while one step of one task runs. To look which step that is costs next to
nothing, so the thread looks many times within the limit. A step that is seen for longer than that is a hold,
and only then stacks are looked at. Whose it is: see `lva.host.stacks`.

When the thread itself could not run for long, something kept the interpreter's lock. Processor times tell
which thread that was. If it was the event loop's, the `StarvationAlarm` has seen the step at it; if it was
the asyncio loop's of a plugin, it was that plugin, wherever the event loop stood meanwhile.
"""

from __future__ import annotations

import logging
import random
import sys
import threading
import time
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any, Final, NamedTuple

import trio
from trio._core._run import GLOBAL_RUN_CONTEXT

from lva.host.holds import Culprit, HoldReport, Reporter
from lva.host.interpreter import Collections, StarvationAlarm
from lva.host.loop_use import LoopUses
from lva.host.loops import LoopThread
from lva.host.stacks import owner_of, stack_of, without_callers
from lva.host.steps import measured_steps
from lva.logs import current_plugin

LOGGER: Final = logging.getLogger("lva.host")

#: How often the thread looks: so many times within the limit, and within these bounds in seconds.
_LOOKS: Final = 5
_SHORTEST_LOOK: Final = 0.005
_LONGEST_LOOK: Final = 0.1
#: The thread looks so much earlier or later, so that it does not keep step with what it watches.
_JITTER: Final = 0.25
#: The part of the time in which this thread could not run that another must have had a processor for, to
#: be blamed for it.
_BUSY: Final = 0.25
#: For how long each step is timed, and how often, in seconds on average.
WINDOW: Final = 0.01
PERIOD: Final = 0.2
#: How often the use of processors is noted, in seconds.
_NOTING: Final = 1.0


class Step(NamedTuple):
    """One step of one task: what runs on the event loop at a time."""

    task: trio.lowlevel.Task
    number: int


class Sighting(NamedTuple):
    """A step, and what it was seen doing."""

    step: Step | None
    culprit: Culprit


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
        self._interval = min(_LONGEST_LOOK, max(_SHORTEST_LOOK, limit / _LOOKS))
        self._reporter = Reporter(uses)
        self._alarm: StarvationAlarm[Sighting] = StarvationAlarm(self._sight)
        self._collections = Collections()
        self._collections_until = 0.0
        self._over = threading.Lock()
        self._context: Mapping[str, Any] = {}
        self._ident = 0
        self._clock = 0
        # Of the last look:
        self._looked = 0.0
        self._step: Step | None = None
        self._begun = 0.0
        self._hold: HoldReport | None = None
        self._used = 0.0
        self._used_by: dict[str, tuple[int, float]] = {}
        self._noted = 0.0

    async def run(self) -> None:
        """Watch until cancelled. This task takes the samples of which shares are made."""
        self._ident = threading.get_ident()
        self._clock = time.pthread_getcpuclockid(self._ident)
        # Trio keeps the current task in a thread-local variable, whose dictionary any thread can read.
        self._context = GLOBAL_RUN_CONTEXT.__dict__
        self._over.acquire()
        self._alarm.install()
        self._collections.install()
        threading.Thread(target=self._watch, name="lva-watchdog", daemon=True).start()
        try:
            while True:
                await trio.sleep(PERIOD * random.uniform(0.5, 1.5))  # noqa: S311 - no cryptography
                begun = time.perf_counter()
                with measured_steps(self._limit) as clock:
                    await trio.sleep(WINDOW)
                measured = time.perf_counter() - begun - clock.left_out
                self._uses.note_window(measured, clock.seconds)
        finally:
            self._over.release()
            self._collections.remove()
            self._alarm.remove()

    # In the thread

    def _watch(self) -> None:
        self._looked = time.monotonic()
        while not self._over.acquire(timeout=self._pause()):
            try:
                self._look()
            except Exception:
                LOGGER.exception("bug in the service: the event loop is not watched any more")
                return
        self._over.release()

    def _pause(self) -> float:
        return self._interval * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - no cryptography

    def _look(self) -> None:
        step, now, used = self._current(), time.monotonic(), time.clock_gettime(self._clock)
        used_by = self._processor_times()
        gap = now - self._looked
        if gap > self._interval + self._limit / 2:
            self._starved(step, now, gap, used - self._used, used_by)
        elif step != self._step:
            self._changed(step, now - min(gap, self._interval) / 2)
        elif step is not None:
            self._goes_on(now)
        self._report_collections()
        self._looked, self._used, self._used_by = now, used, used_by
        if now - self._noted >= _NOTING:
            self._noted = now
            self._uses.note_processor(used_by)
        self._alarm.set(max(self._limit / 2, self._limit - 2 * self._interval))

    def _current(self) -> Step | None:
        """Return the step that runs; None while the loop waits, or is between two steps."""
        task = self._context.get("task")
        return None if task is None else Step(task, task._schedule_points)  # noqa: SLF001 - goes up with each

    def _sight(self, frame: FrameType | None) -> Sighting:
        """See what the event loop does; also called in its own thread, by the alarm."""
        step = self._current()
        stack = stack_of(frame)
        context = None if step is None else step.task.context
        named = None if context is None else context.get(current_plugin)
        owner = owner_of(named, stack, self._plugins())
        return Sighting(step, Culprit(owner, without_callers(stack, owner)))

    def _sight_now(self) -> Sighting:
        return self._sight(_frame_of(self._ident))

    def _changed(self, step: Step | None, when: float) -> None:
        """Note that a step began, and with it the one before ended, at about a certain time."""
        if self._hold is not None:
            self._hold.end(when)
            self._hold = None
        self._step, self._begun = step, when

    def _goes_on(self, now: float, seen: Sighting | None = None, over: bool = False) -> None:
        """Report the step once it has gone on for too long, and keep the report up to date.

        Args:
            now: The time.
            seen: What it was seen doing, if that is known.
            over: Whether it has just ended.
        """
        if self._hold is not None:
            self._hold.go_on(now)
        elif self._lasted(self._begun, now) >= self._limit:
            seen = seen or self._sight_now()
            if seen.step == self._step:
                self._hold = self._reporter.report(seen.culprit, self._begun, now, over)

    def _lasted(self, begun: float, now: float) -> float:
        """Return for how long something has gone on, garbage collections apart."""
        return now - begun - self._collections.seconds_since(begun)

    def _report_collections(self) -> None:
        for begun, ended in self._collections.recent_since(self._collections_until):
            self._collections_until = ended
            if ended - begun >= self._limit:
                self._reporter.report_collection(ended - begun)

    # When this thread could not run

    def _starved(
        self,
        step: Step | None,
        now: float,
        gap: float,
        used: float,
        used_by: Mapping[str, tuple[int, float]],
    ) -> None:
        """Find out what kept the interpreter for itself since the last look.

        Args:
            step: What runs on the event loop now.
            now: The time.
            gap: The time since the last look.
            used: How much of a processor the event loop's thread had meanwhile.
            used_by: How much the plugins' own threads have had in all.
        """
        plugin, used_most = self._busiest(used_by)
        if max(used, used_most) < _BUSY * gap:
            plugin = (
                ""  # the process stood still, or the machine is overloaded: nobody's fault here
            )
        elif used >= used_most:
            self._blame_step(step, now, gap)
            return
        if step != self._step or self._hold is None:
            self._changed(step, now)
        if plugin and self._lasted(now - gap, now) >= self._limit:
            thread = self._plugins().get(plugin)
            stack = [] if thread is None else stack_of(_frame_of(thread.thread.ident))
            culprit = Culprit(plugin, without_callers(stack, plugin))
            self._reporter.report_thread(culprit, now - gap, now)

    def _blame_step(self, step: Step | None, now: float, gap: float) -> None:
        """Take it that one step ran since the last look: what the alarm saw, or what still runs."""
        seen, self._alarm.seen = self._alarm.seen, None
        timely = seen is not None and seen[0] >= self._looked
        sighting = seen[1] if seen is not None and timely else self._sight_now()
        if sighting.step != self._step or sighting.step is None:
            self._changed(sighting.step, now - gap + self._interval / 2)
        over = sighting.step != step or step is None
        self._goes_on(now, sighting, over)
        if over:
            self._changed(step, now)

    def _busiest(self, used_by: Mapping[str, tuple[int, float]]) -> tuple[str, float]:
        """Return which plugin's own thread has had most of a processor since the last look."""
        seconds = {
            name: used - self._used_by[name][1]
            for name, (clock, used) in used_by.items()
            if name in self._used_by and self._used_by[name][0] == clock
        }
        return max(seconds.items(), key=lambda item: item[1], default=("", 0.0))

    def _processor_times(self) -> dict[str, tuple[int, float]]:
        """Return, for each plugin with a thread of its own, the thread's clock and what it shows."""
        found = {}
        for name, thread in self._plugins().items():
            clock = None if thread is None else thread.processor_clock
            if clock is not None:
                try:
                    found[name] = (clock, time.clock_gettime(clock))
                except OSError:
                    continue  # the thread has ended
        return found


def _frame_of(ident: int | None) -> FrameType | None:
    return sys._current_frames().get(ident or 0)  # noqa: SLF001 - the documented way to see a stack
