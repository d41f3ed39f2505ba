"""How long the steps of Trio tasks take, by plugin, while a measurement is under way.

Timing every step of every task costs some percent of the requests per second, so it is done in short
windows only. Outside of them a step costs nothing more, and a call into a plugin one comparison.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import Token
from time import perf_counter
from typing import Final

import trio

from lva.host.loop_use import LoopUses
from lva.logs import current_plugin

#: For how long each step is timed, and how often, in seconds on average.
WINDOW: Final = 0.01
PERIOD: Final = 0.2


async def sample_steps(uses: LoopUses, longest: float) -> None:
    """Time the steps in one window after the other, until cancelled. In Trio's thread, once at a time.

    Args:
        uses: Where it is noted what plugins have used.
        longest: Steps that take so long, in seconds, are left out.
    """
    while True:
        await trio.sleep(PERIOD * random.uniform(0.5, 1.5))  # noqa: S311 - no cryptography
        begun = perf_counter()
        with measured_steps(longest) as clock:
            await trio.sleep(WINDOW)
        uses.note_window(perf_counter() - begun - clock.left_out, clock.seconds)


def enter_plugin(name: str) -> Token[str | None]:
    """Note that the code that the current task runs from here on is a plugin's."""
    token = current_plugin.set(name)
    if _clock is not None:
        _clock.switch(name)
    return token


def leave_plugin(token: Token[str | None]) -> None:
    """Note that the plugin's code has returned to what called it."""
    current_plugin.reset(token)
    if _clock is not None:
        _clock.switch(current_plugin.get())


@contextmanager
def measured_steps(longest: float) -> Iterator[StepClock]:
    """Time the steps of all tasks while inside. In Trio's thread, once at a time.

    Args:
        longest: Steps that take so long, in seconds, are left out.
    """
    global _clock
    _clock = clock = StepClock(longest)
    trio.lowlevel.add_instrument(clock)
    try:
        yield clock
    finally:
        _clock = None
        trio.lowlevel.remove_instrument(clock)


class StepClock(trio.abc.Instrument):
    """Adds up how long steps take.

    A request's task is nobody's but while it is in a plugin's handler, so one step may belong to several.

    Attributes:
        seconds: By plugin; None for the service itself.
        left_out: The seconds of the steps that took too long to be counted.
    """

    def __init__(self, longest: float) -> None:
        self.seconds: dict[str | None, float] = {}
        self.left_out: float = 0.0
        self._longest = longest
        self._begun: float | None = None  # None between steps, and in the step that began it all
        self._since = 0.0
        self._plugin: str | None = None
        self._parts: list[tuple[str | None, float]] = []

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._plugin = task.context.get(current_plugin)
        self._begun = self._since = perf_counter()

    def switch(self, plugin: str | None) -> None:
        """Count what follows in this step as this plugin's."""
        if self._begun is not None:
            now = perf_counter()
            self._parts.append((self._plugin, now - self._since))
            self._plugin, self._since = plugin, now

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if self._begun is None:
            return
        now = perf_counter()
        if now - self._begun >= self._longest:
            self.left_out += now - self._begun
        else:
            for plugin, seconds in (*self._parts, (self._plugin, now - self._since)):
                self.seconds[plugin] = self.seconds.get(plugin, 0.0) + seconds
        self._begun = None
        self._parts.clear()


_clock: StepClock | None = None
