"""What runs on Trio's event loop: stamped in the loop's own thread, so that how long it took is known.

Between two stamps one stretch runs: a task's step, or the part of a step that belongs to one plugin. Trio
calls two hooks: one before each step, one before it waits for events. To stamp costs half a microsecond.
Every few milliseconds it is also read what the system tells of the thread, so that when a stretch has lasted
for too long, what was known just before it began can be compared with what is known at its end.
"""

from __future__ import annotations

import contextlib
import random
from collections import deque
from collections.abc import Callable, Iterator
from contextvars import Token
from time import perf_counter
from typing import Final, NamedTuple

import trio

from lva.host.watch.readings import Reading
from lva.host.watch.uses import LoopUses
from lva.logs.loggers import current_plugin

#: For how long every stretch is added up, and how often, in seconds on average.
WINDOW: Final = 0.01
PERIOD: Final = 0.2
#: How old what is known of the thread may be when a stretch begins, in seconds, and as a part of the limit.
_OLDEST: Final = 0.02
_OLDEST_PART: Final = 0.25
#: Within what time, in seconds, a reading and what follows it are done, if nothing keeps the thread from
#: running; and how often that is tried.
_AT_ONCE: Final = 0.001
_MOST_READINGS: Final = 5
#: How many long stretches are kept until somebody takes them.
_MOST_KEPT: Final = 1000


class Stretch(NamedTuple):
    """What ran on the event loop for longer than the limit.

    Attributes:
        begun: When it began (`time.perf_counter()`); tells stretches apart.
        ended: When it ended.
        waits: Whether the loop waited for events, and no task ran.
        plugin: The plugin in whose name it ran, if in one's.
        before: What was known of the thread shortly before it began.
        after: What was known at its end.
    """

    begun: float
    ended: float
    waits: bool
    plugin: str | None
    before: Reading
    after: Reading


class StepClock(trio.abc.Instrument):
    """Stamps what runs on the event loop. Add it to the run; all but `ended` is the loop's own thread's.

    Args:
        limit: Stretches that last for longer, in seconds, are kept.
        read: Reads what is known of the loop's thread.
        moved: Called every few milliseconds, while the loop goes on.

    Attributes:
        running: When what runs now began, and the task whose step it is; None while the loop waits for
            events. One value, so that another thread never sees a half of it.
        before: What was known of the thread shortly before that.
        ended: Stretches that lasted too long, the oldest first. Any thread may take them.
    """

    # Reading and writing them is what a stamp consists of.
    __slots__ = (
        "_due",
        "_left_out",
        "_limit",
        "_moved",
        "_next_reading",
        "_oldest",
        "_read",
        "_window",
        "before",
        "ended",
        "running",
    )

    def __init__(
        self, limit: float, read: Callable[[], Reading], moved: Callable[[], object]
    ) -> None:
        self._limit = limit
        self._read = read
        self._moved = moved
        self._oldest = min(_OLDEST, limit * _OLDEST_PART)
        self._next_reading = 0.0
        self._due = 0.0  # from when on a stamp has more to do
        self._window: dict[str, float] | None = None
        self._left_out = 0.0
        self.before: Reading = read()
        self.running: tuple[float, trio.lowlevel.Task | None] = (self.before.at, None)
        self.ended: deque[Stretch] = deque(maxlen=_MOST_KEPT)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Begin a step."""
        now = perf_counter()
        if now >= self._due:
            now = self._look_back(now)
        self.running = (now, task)
        ran.add(task.context.get(current_plugin))

    def before_io_wait(self, timeout: float) -> None:
        """Begin to wait for events."""
        now = perf_counter()
        if now >= self._due:
            now = self._look_back(now)
        self.running = (now, None)

    def split(self) -> None:
        """Begin another stretch within the step, since the plugin is about to change."""
        now = perf_counter()
        if now >= self._due:
            now = self._look_back(now)
        self.running = (now, self.running[1])

    def _look_back(self, now: float) -> float:
        """Take note of the stretch that ends now; return when the next one begins, which is later.

        What the thread waits for while this runs belongs to neither.
        """
        begun, task = self.running
        lasted = now - begun
        if self._window is not None:
            self._add_up(lasted, _plugin_of(task))
        if now >= self._next_reading:
            after = self._read()
            if lasted >= self._limit:
                stretch = Stretch(begun, now, task is None, _plugin_of(task), self.before, after)
                self.ended.append(stretch)
            self._moved()
            self._next_reading = now + self._oldest
            now = self._read_anew(after)
        else:
            now = perf_counter()
        self._due = self._next_reading if self._window is None else 0.0
        return now

    def _read_anew(self, known: Reading) -> float:
        """Take note of what is known of the thread, once it was not kept from running since; return the time.

        What it has waited between the reading and the next stretch would be taken off that.
        """
        for _ in range(_MOST_READINGS):
            now = perf_counter()
            if now - known.at < _AT_ONCE:
                break
            known = self._read()
        self.before = known
        return now

    # Shares

    async def sample(self, uses: LoopUses) -> None:
        """Add up every stretch in one window after the other. In the loop's thread.

        Cancellation: ends it; a window that is not over is left out.

        Args:
            uses: Where it is noted what plugins have used. Stretches above the limit are noted apart.
        """
        while True:
            await trio.sleep(PERIOD * random.uniform(0.5, 1.5))  # noqa: S311 - no cryptography
            begun = perf_counter()
            self._window, self._left_out, self._due = {}, 0.0, 0.0
            try:
                await trio.sleep(WINDOW)
            finally:
                used, self._window = self._window, None
            uses.note_window(perf_counter() - begun - self._left_out, used)

    def _add_up(self, lasted: float, plugin: str | None) -> None:
        assert self._window is not None
        if lasted >= self._limit:
            self._left_out += lasted
        elif plugin is not None:
            self._window[plugin] = self._window.get(plugin, 0.0) + lasted


def _plugin_of(task: trio.lowlevel.Task | None) -> str | None:
    return None if task is None else task.context.get(current_plugin)


def enter_plugin(name: str) -> Token[str | None]:
    """Note that the code that the current task runs from here on is a plugin's."""
    ran.add(name)
    if _clock is not None:
        _clock.split()
    return current_plugin.set(name)


def leave_plugin(token: Token[str | None]) -> None:
    """Note that the plugin's code has returned to what called it."""
    if _clock is not None:
        _clock.split()
    current_plugin.reset(token)


def install(clock: StepClock) -> None:
    """Let a clock stamp the current run. In the loop's thread; there is one at a time."""
    global _clock
    trio.lowlevel.add_instrument(clock)
    _clock = clock
    if _names is not None:
        trio.lowlevel.remove_instrument(_names)


def remove(clock: StepClock) -> None:
    """Let it stamp no more."""
    global _clock
    if _names is not None:
        trio.lowlevel.add_instrument(_names)
    _clock = None
    trio.lowlevel.remove_instrument(clock)


@contextlib.contextmanager
def noting_who_ran() -> Iterator[set[str | None]]:
    """Note which plugins run on the event loop, also while no clock stamps it.

    Yields:
        Whose code has run; None is the service. Clear it to begin anew.
    """
    global _names
    _names = names = _Names()
    if _clock is None:
        trio.lowlevel.add_instrument(names)
    try:
        yield ran
    finally:
        _names = None
        if _clock is None:
            trio.lowlevel.remove_instrument(names)


class _Names(trio.abc.Instrument):
    """Stands in for the clock: notes whose each step is, and nothing else."""

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        ran.add(task.context.get(current_plugin))


_clock: StepClock | None = None
_names: _Names | None = None
#: The plugins whose code ran since somebody has cleared it.
ran: Final[set[str | None]] = set()
