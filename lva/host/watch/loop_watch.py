"""The watch over Trio's event loop: finds out which plugin blocks it, for how long, and at which line.

Whose a stretch was and how long it took, the loop's own thread has stamped: see `lva.host.watch.clock`. What
the thread waited for a processor, or for the interpreter that another thread had, is no block; that is left
out. For the line, a thread looks a few times within the limit whether what runs is still the same, and if
so, at its stack; where that thread cannot run, the alarm looks. What nobody saw is said to be unknown.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from time import perf_counter
from types import FrameType
from typing import Final, NamedTuple

import trio

from lva.host.watch.alarm import Alarm
from lva.host.watch.clock import StepClock, Stretch, install, remove
from lva.host.watch.doubts import OthersWaits, SeenAsleep
from lva.host.watch.garbage import Collections
from lva.host.watch.pulse import (
    LoopsOfPlugins,
    ProcessorTimes,
    Watched,
    modules_of,
    processor_times,
)
from lva.host.watch.readings import Reading, ThreadReader, own_processor_clock, own_reader
from lva.host.watch.reports import LONG, Culprit, OpenBlock, Reporter
from lva.host.watch.stacks import Line, owner_of, stack_of, without_callers
from lva.host.watch.uses import LoopUses
from lva.host.watch.workers import WorkerThreads
from lva.logs.loggers import current_plugin, service_logger
from lva.stacks import frames_of_threads

LOGGER: Final = service_logger("lva.host")

#: How often the thread looks, in seconds at most, and as a part of the limit.
_LONGEST_PERIOD: Final = 0.1
_PERIOD: Final = 0.75
#: From which part of the limit on the stack of what runs is looked at: by the thread, and by the alarm.
_LOOK: Final = 0.5
_ALARM: Final = 0.25
#: After which part of the limit the thread looks again at what it saw asleep.
_LOOK_AGAIN: Final = 0.2
#: The part of the limit that a step must have computed or slept for certain, if the rest is in doubt.
_CERTAIN: Final = 0.5
#: The part of a wait for the interpreter that a plugin's own thread must have computed, and all others
#: together must not, for it to be the one that had the interpreter.
_HAD: Final = 0.5
#: When this thread has run so late, in seconds, for no reason in the process, all of that stood still. On a
#: virtual machine, one thread may do so for a fraction of a second.
_STANDSTILL: Final = 1.0
#: How often it is looked which plugins there are, in seconds.
_REFRESH: Final = 1.0
_MOST_KEPT: Final = 1000
#: Where code is that runs when a step has just ended.
_BETWEEN: Final = (
    f"{Path(__file__).parent}{os.sep}",
    str(Path(trio.__file__).parent / "_core" / "_instrumentation.py"),
)


class Sighting(NamedTuple):
    """A look at the stack of the event loop's thread.

    Attributes:
        begun: When the stretch began that was seen.
        at: When it was seen.
        stack: Its lines, the innermost first.
    """

    begun: float
    at: float
    stack: Sequence[Line]


class LoopWatch:
    """Watches the event loop that `run` is called on, and what else of plugins may block.

    Args:
        limit: What blocks a loop for longer, in seconds, is reported.
        thread_limit: The same for worker threads that serve requests.
        uses: Where it is written down what each plugin uses and blocks.
        plugins: Returns those there are, by name. Any thread may call it.
    """

    def __init__(
        self,
        limit: float,
        thread_limit: float,
        uses: LoopUses,
        plugins: Callable[[], Mapping[str, Watched]],
    ) -> None:
        self._limit = limit
        self._uses = uses
        self._find_plugins = plugins
        self._period = min(_LONGEST_PERIOD, limit * _PERIOD)
        self._reporter = Reporter(uses)
        self._loops = LoopsOfPlugins(limit, self._reporter)
        self._workers = WorkerThreads(thread_limit, self._reporter)
        self._collections = Collections()
        self._alarm = Alarm(limit * _LOOK, limit * _ALARM, self._look_by_alarm)
        self._plugins: Mapping[str, Watched] = {}
        self._sightings: deque[Sighting] = deque(maxlen=_MOST_KEPT)
        self._used: deque[tuple[float, ProcessorTimes]] = deque(maxlen=50)
        self._stood_still: deque[tuple[float, float]] = deque(maxlen=50)
        self._open: OpenBlock | None = None
        self._asleep = SeenAsleep()
        self._next_refresh = 0.0
        self._over = threading.Event()
        self._others_waits: OthersWaits
        self._clock: StepClock
        self._ident = 0
        self._has_clock = own_processor_clock() is not None

    async def run(self) -> None:
        """Watch; meanwhile this task samples of what the shares are made.

        Resources: an instrument of Trio's run, the handler of SIGPROF, a note of garbage collections, and a
        daemon thread; all are given back at the end, but for the thread, which ends at its next look.

        Cancellation: ends it.

        Errors: a bug in the thread is logged, and ends the looks; requests and plugins are not touched.
        """
        self._ident = threading.get_ident()
        self._refresh()
        with closing(own_reader()) as reader:
            self._clock = StepClock(self._limit, reader.read, self._alarm.put_off)
            args = (threading.get_native_id(), own_processor_clock())
            thread = threading.Thread(target=self._watch, args=args, name="lva-watch", daemon=True)
            install(self._clock)
            self._alarm.install()
            self._collections.install()
            try:
                thread.start()
                await self._clock.sample(self._uses)
            finally:
                self._over.set()
                self._collections.remove()
                self._alarm.remove()
                remove(self._clock)

    # In the loop's thread

    def _look_by_alarm(self, frame: FrameType | None) -> bool:
        begun, task = self._clock.running
        if task is None:
            return False
        soonest = _ALARM * self._limit
        if perf_counter() - begun < soonest:
            return True
        self._note_sighting(begun, frame)
        # One that sleeps can be seen by the thread. To be woken again and again, and to wait for a processor
        # each time, would make its sleep look like a wait.
        return not self._has_clock or time.thread_time() - self._clock.before.used >= soonest

    # In the thread that watches

    def _watch(self, native_id: int, clock: int | None) -> None:
        with (
            closing(ThreadReader(native_id, clock)) as reader,
            closing(own_reader()) as own,
            closing(OthersWaits(native_id)) as self._others_waits,
        ):
            over = False
            while not over:
                before = own.read()
                asleep = self._asleep.own(self._clock.running[0]) > 0
                over = self._over.wait(_LOOK_AGAIN * self._limit if asleep else self._period)
                try:
                    if not over:
                        self._note_standstill(before, own.read())
                    self._look(reader)
                except Exception:
                    LOGGER.exception("bug in the service: the event loop is not watched any more")
                    return

    def _look(self, reader: ThreadReader) -> None:
        if perf_counter() >= self._next_refresh:
            self._refresh()
        self._look_at_what_runs(reader)
        self._used.append((perf_counter(), processor_times(self._plugins)))
        self._others_waits.look()
        while self._clock.ended:
            self._judge(self._clock.ended.popleft())
        frames = frames_of_threads()
        self._loops.look(self._plugins, frames)
        self._workers.look(self._plugins, frames)

    def _refresh(self) -> None:
        """Take note of the plugins there are now, and of what their threads have used of a processor."""
        self._next_refresh = perf_counter() + _REFRESH
        self._plugins = self._find_plugins()
        self._uses.note_processor(processor_times(self._plugins))

    def _look_for(self, plugin: str | None) -> None:
        """Look which plugins there are, if this is none of them: it may have begun just now."""
        if plugin is not None and plugin not in self._plugins:
            self._refresh()

    def _note_standstill(self, before: Reading, after: Reading) -> None:
        """Take note of it when all of the process has stood still: this thread has run late for no reason."""
        late = after.at - before.at - self._period
        late -= after.queued - before.queued + after.may_have_waited_since(before)
        if late >= _STANDSTILL:
            self._stood_still.append((before.at, after.at))

    # The event loop

    def _look_at_what_runs(self, reader: ThreadReader) -> None:
        clock = self._clock
        (begun, task), before = clock.running, clock.before
        lasted = perf_counter() - begun
        if task is None or lasted < _LOOK * self._limit:
            return
        plugin = task.context.get(current_plugin)
        self._look_for(plugin)
        frame = frames_of_threads().get(self._ident)
        self._note_sighting(begun, frame)
        now = reader.read_from_outside()
        if clock.running[0] != begun:
            return
        self._asleep.note(begun, before, now)
        if lasted >= LONG:
            self._goes_on(Stretch(begun, now.at, False, plugin, before, now))

    def _note_sighting(self, begun: float, frame: FrameType | None) -> None:
        """Take note of a stack, if it is of the stretch that began then, and not of what stamps its end."""
        stack = stack_of(frame, modules_of(self._plugins))
        if stack and self._clock.running[0] == begun and not _is_between_steps(stack):
            self._sightings.append(Sighting(begun, perf_counter(), stack))

    def _goes_on(self, stretch: Stretch) -> None:
        """Report a stretch that has not ended, if it is a block."""
        own = self._own(stretch)
        if self._open is None or self._open.begun != stretch.begun:
            culprit = self._culprit(stretch)
            if culprit is None or own < self._limit or not self._is_certain(stretch, own):
                return
            self._open = OpenBlock(self._reporter, culprit, "service", stretch.begun)
        self._open.go_on(own)

    def _judge(self, stretch: Stretch) -> None:
        """Report a stretch that has lasted for longer than the limit, if it is a block."""
        self._look_for(stretch.plugin)
        waited = stretch.after.waited_since(stretch.before)
        own = self._own(stretch)
        collected = self._collections.seconds_between(stretch.begun, stretch.ended)
        if self._open is not None and self._open.begun == stretch.begun:
            self._open.end(own)
            self._open = None
        elif own >= self._limit:
            culprit = self._culprit(stretch)
            if culprit is None:
                self._reporter.report_unknown(own, "no plugin's task, and not seen")
            elif not self._is_certain(stretch, own):
                self._reporter.report_unknown(own, "other threads may have had the interpreter")
            else:
                self._reporter.report(culprit, stretch.begun, own)
        elif collected >= self._limit and (waited >= self._limit or not stretch.waits):
            self._reporter.report_collection(collected)
        elif waited >= self._limit:
            self._report_another(stretch, waited)
        while self._sightings and self._sightings[0].begun <= stretch.begun:
            self._sightings.popleft()

    def _own(self, stretch: Stretch) -> float:
        """Return how long a stretch took by its own doing, in seconds.

        Left out is what the thread has waited for a processor and for the interpreter, what garbage
        collections took, and when the whole process stood still.
        """
        if stretch.waits:
            return 0.0
        begun, ended, before, after = stretch.begun, stretch.ended, stretch.before, stretch.after
        own = after.own_since(before) - (begun - before.at) - (after.at - ended)
        # Linux may take all of a sleep for a wait for a processor. (In a sleep that EEVDF puts off, the
        # thread may be moved to another processor, where it counts as one that waits.)
        own = max(own, self._asleep.own(begun))
        own -= self._collections.seconds_between(begun, ended, self._ident)
        slept = max(0.0, own - (after.used - before.used))
        still = sum(max(0.0, min(ended, b) - max(begun, a)) for a, b in self._stood_still)
        return own - min(slept, still)

    def _is_certain(self, stretch: Stretch, own: float) -> bool:
        """Return whether what a stretch took by its own doing is no wait for a thread without a processor.

        Such a thread may have the interpreter already, or be about to take it. Who has computed or slept for
        long enough without doubt is named all the same.
        """
        before, after = stretch.before, stretch.after
        doubt = after.may_have_waited_since(before) - after.waited_since(before)
        doubt += self._others_waits.between(stretch.begun, stretch.ended)
        seen = after.used - before.used + self._asleep.certain(stretch.begun, after)
        return max(own - doubt, seen) >= _CERTAIN * self._limit

    def _culprit(self, stretch: Stretch) -> Culprit | None:
        """Return whose a stretch was, and what it was seen at for the longest; None if that is not known."""
        named = stretch.plugin if stretch.plugin in self._plugins else None
        at_for: dict[tuple[bool, str | None, str], float] = {}
        found: dict[tuple[bool, str | None, str], Culprit] = {}
        last = stretch.begun
        for seen in [seen for seen in self._sightings if seen.begun == stretch.begun]:
            owner = owner_of(named, seen.stack, self._plugins)
            culprit = Culprit(owner, without_callers(seen.stack, owner))
            in_own_code = any(line.plugin == owner for line in seen.stack)
            key = (in_own_code, owner, culprit.where)
            found[key] = culprit
            at_for[key] = at_for.get(key, 0.0) + seen.at - last
            last = seen.at
        if found:
            return found[max(at_for, key=lambda key: (key[0], at_for[key]))]
        return None if named is None else Culprit(named, ())

    def _report_another(self, stretch: Stretch, waited: float) -> None:
        """Report whose own thread had the interpreter, if that is beyond doubt."""
        others = stretch.after.others - stretch.before.others
        name, used = self._busiest(stretch)
        if name is None or used < _HAD * waited or others - used >= _HAD * waited:
            self._reporter.report_unknown(waited, "other threads had the interpreter")
            return
        pulse = self._plugins[name].pulse
        frame = None if pulse is None else frames_of_threads().get(pulse.ident)
        stack = without_callers(stack_of(frame, modules_of(self._plugins)), name)
        seen = stack if any(line.plugin == name for line in stack) else ()
        self._reporter.report_thread(Culprit(name, seen), stretch.begun, waited)

    def _busiest(self, stretch: Stretch) -> tuple[str | None, float]:
        """Return the plugin whose own thread has computed most meanwhile, and for how long at least."""
        earlier = [(at, used) for at, used in self._used if at <= stretch.begun]
        if not earlier or not self._used or (now := self._used[-1])[0] < stretch.ended:
            return None, 0.0
        at, before = earlier[-1]
        elsewhere = stretch.begun - at + now[0] - stretch.ended
        seconds = {
            name: used - before[name][1] - elsewhere
            for name, (clock, used) in now[1].items()
            if name in self._plugins and name in before and before[name][0] == clock
        }
        return max(seconds.items(), key=lambda item: item[1], default=(None, 0.0))


def _is_between_steps(stack: Sequence[Line]) -> bool:
    return any(line.file.startswith(_BETWEEN) for line in stack)
