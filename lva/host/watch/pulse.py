"""Whether an asyncio loop in another thread comes round: it is asked, and answers in its own thread."""

from __future__ import annotations

import selectors
import time
from asyncio.base_events import BaseEventLoop
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import count
from time import perf_counter
from types import CodeType, FrameType
from typing import Any, Final, NamedTuple

_TURN: Final = BaseEventLoop._run_once.__code__  # type: ignore[attr-defined] # noqa: SLF001 - one turn of a loop

_numbers: Final = count()


class Pulse:
    """Asks one loop. Any thread may call, and never waits.

    Args:
        call_soon: The loop's `call_soon_threadsafe`.
        main: The function that runs the loop.

    Attributes:
        answered: When it last answered (`time.perf_counter()`).
    """

    def __init__(
        self, call_soon: Callable[[Callable[[int], None], int], Any], main: CodeType
    ) -> None:
        self._call_soon = call_soon
        self._main = main
        self._asked: tuple[int, float] | None = None  # the question's number, and when
        self.answered: float = perf_counter()

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


class PluginLoop(NamedTuple):
    """A plugin's own event loop, as the watch sees it.

    Attributes:
        ident: Its thread's `threading.get_ident()`.
        native_id: Its thread's `threading.get_native_id()`.
        clock: Its thread's `own_processor_clock()`.
        pulse: Tells whether it comes round.
    """

    ident: int
    native_id: int
    clock: int | None
    pulse: Pulse


class Watched(NamedTuple):
    """One plugin, as the watch sees it.

    Attributes:
        module: The name of its module or package.
        loop: Its own event loop, if it has one.
    """

    module: str
    loop: PluginLoop | None


#: Of plugins' own threads, by plugin: the thread's clock, and what it shows, in seconds.
ProcessorTimes = Mapping[str, tuple[int, float]]


def processor_times(plugins: Mapping[str, Watched]) -> ProcessorTimes:
    """Return, for each plugin with a thread of its own, the thread's clock and what it shows."""
    found = {}
    for name, (_, loop) in plugins.items():
        if loop is not None and loop.clock is not None:
            with suppress(OSError):  # the thread has ended
                found[name] = (loop.clock, time.clock_gettime(loop.clock))
    return found
