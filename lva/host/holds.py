"""What is told of a hold of the event loop: in the log, and in what is kept of the plugin."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from lva.host.loop_use import Hold, LoopUses
from lva.host.stacks import Line, formatted, place_in
from lva.logs import plugin_logger, service_logger

LOGGER: Final = service_logger("lva.host")

#: For how long, in seconds, further holds at the same line are only counted and not logged.
LOG_INTERVAL: Final = 10.0
#: How many lines are remembered for that.
_MOST_PLACES: Final = 1000


class Culprit(NamedTuple):
    """What holds the event loop.

    Attributes:
        plugin: None for the service itself.
        stack: What it was seen doing, the innermost line first.
    """

    plugin: str | None
    stack: Sequence[Line]

    @property
    def where(self) -> str:
        """The line that is to be looked at."""
        return place_in(self.stack, self.plugin)


@dataclass(slots=True)
class _Quiet:
    """Until when a place is not logged, and how many holds there were not."""

    until: float = 0.0
    unlogged: int = 0


class Reporter:
    """Reports holds. In the watchdog's thread only.

    Args:
        uses: Where they are counted.
    """

    def __init__(self, uses: LoopUses) -> None:
        self._uses = uses
        self._quiet: dict[tuple[str | None, str], _Quiet] = {}

    def report(self, culprit: Culprit, begun: float, now: float) -> HoldReport:
        """Report that a step of a task holds the event loop.

        Args:
            culprit: Whose step it is.
            begun: When it began (`time.monotonic()`).
            now: The time.
        """
        self._count(culprit, begun, now)
        said = f"holds the event loop, for {now - begun:.2f} s so far, at {culprit.where}"
        return HoldReport(self._uses, culprit, begun, now, self._log(culprit, said, now))

    def report_thread(self, culprit: Culprit, begun: float, now: float) -> None:
        """Report that a plugin's own thread has held the interpreter, and so the event loop."""
        self._count(culprit, begun, now)
        self._log(
            culprit,
            f"held the interpreter, and so the service's event loop, for {now - begun:.2f} s from its"
            f" own thread, about at {culprit.where}",
            now,
        )

    def report_collection(self, seconds: float) -> None:
        """Report that the interpreter's garbage collection has held the event loop."""
        LOGGER.warning("a garbage collection held the event loop for %.2f s", seconds)

    def _count(self, culprit: Culprit, begun: float, now: float) -> None:
        if culprit.plugin is None:
            return
        hold = Hold(
            time.time() - (time.monotonic() - begun),
            now - begun,
            culprit.where,
            [str(line) for line in reversed(culprit.stack)],
        )
        self._uses.note_hold(culprit.plugin, hold)

    def _log(self, culprit: Culprit, said: str, now: float) -> bool:
        """Log a line and the stack, unless this place was logged just now; return whether it was."""
        place = culprit.plugin, culprit.where
        quiet = self._quiet.get(place, _Quiet())
        if now < quiet.until:
            quiet.unlogged += 1
            return False
        if quiet.unlogged:
            said += f"; {quiet.unlogged} more times since that was last reported"
        if len(self._quiet) >= _MOST_PLACES:
            self._quiet.clear()
        self._quiet[place] = _Quiet(now + LOG_INTERVAL)
        _warn(culprit, said, formatted(culprit.stack))
        return True


class HoldReport:
    """A hold that has been reported, until it ends.

    Args:
        uses: Where its length is kept.
        culprit: Whose it is.
        begun: When it began.
        now: Until when it is counted already.
        logged: Whether its end is to be logged, too.
    """

    def __init__(
        self, uses: LoopUses, culprit: Culprit, begun: float, now: float, logged: bool
    ) -> None:
        self._uses = uses
        self._culprit = culprit
        self._begun = begun
        self._counted = now
        self._logged = logged

    def go_on(self, now: float) -> None:
        """Note that it has gone on until now."""
        if self._culprit.plugin is not None and now > self._counted:
            self._uses.prolong_hold(self._culprit.plugin, now - self._counted)
            self._counted = now

    def end(self, when: float) -> None:
        """Note that it has ended."""
        self.go_on(when)
        if self._logged:
            seconds = when - self._begun
            said = f"held the event loop for {seconds:.2f} s in all, at {self._culprit.where}"
            _warn(self._culprit, said, None)


def _warn(culprit: Culprit, said: str, stack: str | None) -> None:
    """Log with a stack that is not the caller's."""
    logger = LOGGER if culprit.plugin is None else plugin_logger(culprit.plugin)
    if not logger.isEnabledFor(logging.WARNING):
        return
    if culprit.plugin is None:
        said = f"the service itself {said}"
    record = logger.makeRecord(
        logger.name, logging.WARNING, __file__, 0, "%s", (said,), None, sinfo=stack
    )
    logger.handle(record)
