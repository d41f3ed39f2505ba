"""Plugins' own event loops: whether one comes round. It is asked, and answers in its own thread."""

from __future__ import annotations

import selectors
import threading
import time
from asyncio.base_events import BaseEventLoop
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import count
from time import perf_counter
from types import CodeType, FrameType
from typing import Any, Final, NamedTuple

from lva.host.watch.readings import Reading, ThreadReader, own_processor_clock
from lva.host.watch.reports import Culprit, OpenBlock, Reporter
from lva.host.watch.stacks import stack_of, without_callers

_TURN: Final = BaseEventLoop._run_once.__code__  # type: ignore[attr-defined] # noqa: SLF001 - one turn of a loop

_numbers: Final = count()


class Pulse:
    """Asks one loop. Any thread may call, and never waits.

    Args:
        call_soon: The loop's `call_soon_threadsafe`.
        main: The function that runs the loop.

    Attributes:
        ident: The `threading.get_ident()` of the loop's thread; 0 until `begin`.
        native_id: Its `threading.get_native_id()`.
        clock: Its `own_processor_clock()`.
        answered: When it last answered (`time.perf_counter()`).
    """

    def __init__(
        self, call_soon: Callable[[Callable[[int], None], int], Any], main: CodeType
    ) -> None:
        self._call_soon = call_soon
        self._main = main
        self._asked: tuple[int, float] | None = None  # the question's number, and when
        self.ident: int = 0
        self.native_id: int = 0
        self.clock: int | None = None
        self.answered: float = perf_counter()

    def begin(self) -> None:
        """Note which thread runs the loop: the one that calls."""
        self.clock = own_processor_clock()
        self.native_id = threading.get_native_id()
        self.ident = threading.get_ident()

    @property
    def silent_since(self) -> float | None:
        """Since when it has not answered (`time.perf_counter()`); None if it has, or was not asked."""
        asked = self._asked
        return None if asked is None else asked[1]

    def silent_for(self) -> float:
        """Return for how long it has not answered, in seconds; ask if it was not asked."""
        asked = self._asked
        if asked is None:
            self.ask()
            return 0.0
        return perf_counter() - asked[1]

    def ask(self) -> None:
        """Ask, if it has answered what it was asked before."""
        if self._asked is None:
            number = self.begin_question()
            try:
                self._call_soon(self.answer, number)
            except RuntimeError:
                self._asked = None  # it has ended

    def begin_question(self) -> int:
        """Count something that was put on the loop as a question; return its number."""
        number = next(_numbers)
        if self._asked is None:
            self._asked = (number, perf_counter())
        return number

    def answer(self, number: int) -> None:
        """Answer a question, and those before it. In the loop's thread."""
        self.answered = perf_counter()
        asked = self._asked
        if asked is not None and asked[0] <= number:
            self._asked = None

    def waits(self, frame: FrameType) -> bool:
        """Return whether the loop waits for events, by the innermost frame of its thread."""
        if frame.f_code is self._main:
            return True  # inside of a loop that is not written in Python
        before = frame.f_back
        return (
            frame.f_code.co_filename == selectors.__file__
            and before is not None
            and before.f_code is _TURN
        )


class Watched(NamedTuple):
    """One plugin, as the watch sees it.

    Attributes:
        module: The name of its module or package.
        pulse: That of its own event loop, if it has one.
    """

    module: str
    pulse: Pulse | None


def modules_of(plugins: Mapping[str, Watched]) -> Mapping[str, str]:
    """Return the plugins' names, by that of their module or package."""
    return {seen.module: name for name, seen in plugins.items()}


#: Of plugins' own threads, by plugin: the thread's clock, and what it shows, in seconds.
ProcessorTimes = Mapping[str, tuple[int, float]]


def processor_times(plugins: Mapping[str, Watched]) -> ProcessorTimes:
    """Return, for each plugin with a thread of its own, the thread's clock and what it shows."""
    found = {}
    for name, (_, pulse) in plugins.items():
        if pulse is not None and pulse.clock is not None:
            with suppress(OSError):  # the thread has ended
                found[name] = (pulse.clock, time.clock_gettime(pulse.clock))
    return found


@dataclass(slots=True)
class _Question:
    """What a plugin's loop was asked, until it answers."""

    pulse: Pulse
    since: float
    before: Reading
    report: OpenBlock | None = None


class LoopsOfPlugins:
    """Looks at plugins' own loops. In the watching thread only.

    A loop is asked to come round when it is seen at work, so an idle one costs nothing. What it has waited
    for a processor or for the interpreter is not counted.

    Args:
        limit: A loop that is silent for longer, in seconds, is blocked.
        reporter: Reports it.
    """

    def __init__(self, limit: float, reporter: Reporter) -> None:
        self._limit = limit
        self._reporter = reporter
        self._asked: dict[str, _Question] = {}

    def look(
        self,
        plugins: Mapping[str, Watched],
        frames: Mapping[int, FrameType],
    ) -> None:
        """Look at each loop once.

        Args:
            plugins: The plugins by name.
            frames: The innermost frame of each thread.
        """
        pulses = {name: seen.pulse for name, seen in plugins.items() if seen.pulse is not None}
        for name, asked in list(self._asked.items()):
            pulse = asked.pulse
            if pulses.get(name) is not pulse or pulse.silent_since != asked.since:
                if asked.report is not None:
                    answered = pulse.answered > asked.since
                    ended = pulse.answered if answered else perf_counter()
                    asked.report.end(ended - asked.since)
                del self._asked[name]
        for name, pulse in pulses.items():
            frame = frames.get(pulse.ident)
            if frame is None:
                continue  # it has not begun, or has ended
            if name in self._asked:
                stack = without_callers(stack_of(frame, modules_of(plugins)), name)
                self._look_at(self._asked[name], Culprit(name, stack))
            elif not pulse.waits(frame):
                pulse.ask()
                since, now = pulse.silent_since, _read(pulse)
                if since is not None and now is not None:
                    self._asked[name] = _Question(pulse, since, now)

    def _look_at(self, asked: _Question, culprit: Culprit) -> None:
        now = _read(asked.pulse)
        if now is None:
            return
        if asked.report is None and now.own_since(asked.before) >= self._limit:
            asked.report = OpenBlock(self._reporter, culprit, "plugin", asked.since)
        if asked.report is not None:
            asked.report.go_on(now.at - asked.since)


def _read(pulse: Pulse) -> Reading | None:
    with closing(ThreadReader(pulse.native_id, pulse.clock)) as reader:
        try:
            return reader.read_from_outside()
        except OSError:
            return None  # the thread has ended
