"""What is told of a block: in the log, and in what is kept of the plugin."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

from lva.errors import counted
from lva.host.watch.stacks import Line, formatted
from lva.host.watch.uses import WHAT, Block, Blocked, LoopUses
from lva.logs.loggers import plugin_logger, service_logger
from lva.logs.recurring import Recurring

LOGGER: Final = service_logger("lva.host")

#: What goes on for so long, in seconds, is logged before it has ended.
LONG: Final = 1.0
#: Of how many lines it is remembered when they were last reported.
_MOST_PLACES: Final = 1000
UNSEEN: Final = "a line that was not seen"


class Culprit(NamedTuple):
    """What blocked something.

    Attributes:
        plugin: None for the service itself.
        stack: What it was seen doing, the innermost line first; empty if it was not seen.
    """

    plugin: str | None
    stack: Sequence[Line]

    @property
    def where(self) -> str:
        """The line that is to be looked at: the plugin's innermost one, or the innermost at all."""
        if not self.stack:
            return UNSEEN
        own = (line for line in self.stack if line.plugin == self.plugin is not None)
        return str(next(own, self.stack[0]))


class Reporter:
    """Reports blocks. In the watching thread only; times are `time.perf_counter()`'s.

    Args:
        uses: Where they are counted.
    """

    def __init__(self, uses: LoopUses) -> None:
        self.uses = uses
        self._places: dict[tuple[str | None, str], Recurring] = {}

    def report(self, culprit: Culprit, begun: float, seconds: float) -> None:
        """Report a block of the service's event loop that has ended."""
        OpenBlock(self, culprit, "service", begun).end(seconds)

    def report_thread(self, culprit: Culprit, begun: float, seconds: float) -> None:
        """Report that a plugin's own thread has kept the interpreter, and so blocked the event loop."""
        seen = f"; the thread was last seen at {culprit.where}" if culprit.stack else ""
        if culprit.plugin is not None:
            self.uses.note_block(culprit.plugin, _block(culprit, "service", begun, seconds))
        self.log(
            culprit,
            f"blocked the event loop for {seconds:.2f} s: its own thread kept the interpreter{seen}",
        )

    def report_collection(self, seconds: float) -> None:
        """Report that the interpreter's garbage collection has blocked the event loop."""
        self._log_unowned(f"a garbage collection blocked the event loop for {seconds:.2f} s")

    def report_unknown(self, seconds: float, why: str) -> None:
        """Report a block of the event loop of which it is not known whose it was."""
        self._log_unowned(
            f"the event loop was blocked for {seconds:.2f} s; it is not known by what: {why}"
        )

    def _log_unowned(self, said: str) -> None:
        self.log(Culprit(None, ()), said, said.partition(" for ")[0])

    def log(self, culprit: Culprit, said: str, place: str | None = None) -> bool:
        """Log a line and the stack, unless this place was logged just now; return whether it was."""
        key = culprit.plugin, place or culprit.where
        if key not in self._places and len(self._places) >= _MOST_PLACES:
            self._places.clear()
        news = self._places.setdefault(key, Recurring(time.perf_counter)).again()
        if not news:
            return False
        if news > 1:
            said += f"; {counted(news - 1, 'more time')} since that was last reported"
        _warn(culprit.plugin, said, formatted(culprit.stack) if culprit.stack else None)
        return True


class OpenBlock:
    """A block that is reported, until it ends: it is logged then, or sooner if it goes on for long.

    Args:
        reporter: Who reports it.
        culprit: Whose it is.
        of: What is blocked.
        begun: When it began.
    """

    def __init__(self, reporter: Reporter, culprit: Culprit, of: Blocked, begun: float) -> None:
        self.begun: float = begun
        self._reporter = reporter
        self._culprit = culprit
        self._of = of
        self._block: Block | None = None
        self._logged: bool | None = None  # None: not yet

    def go_on(self, seconds: float) -> None:
        """Note for how long it has gone on."""
        self._note(seconds, over=False)
        if self._logged is None and seconds >= LONG:
            self._logged = self._reporter.log(
                self._culprit, self._said("has blocked", f"for {seconds:.2f} s so far")
            )

    def end(self, seconds: float) -> None:
        """Note that it has ended, after so long."""
        self._note(seconds, over=True)
        if self._logged is None:
            self._reporter.log(self._culprit, self._said("blocked", f"for {seconds:.2f} s"))
        elif self._logged:
            said = self._said("blocked", f"for {seconds:.2f} s in all")
            _warn(self._culprit.plugin, said, None)

    def _note(self, seconds: float, over: bool) -> None:
        plugin, uses = self._culprit.plugin, self._reporter.uses
        if plugin is None:
            return
        if self._block is None:
            self._block = _block(self._culprit, self._of, self.begun, seconds, over)
            uses.note_block(plugin, self._block)
        else:
            uses.prolong(plugin, self._block, seconds, over)

    def _said(self, verb: str, how_long: str) -> str:
        who = "the service itself " if self._culprit.plugin is None else ""
        return f"{who}{verb} {WHAT[self._of]} {how_long} at {self._culprit.where}"


def _block(culprit: Culprit, of: Blocked, begun: float, seconds: float, over: bool = True) -> Block:
    stack = [str(line) for line in reversed(culprit.stack)]
    at = time.time() - (time.perf_counter() - begun)
    return Block(at, seconds, culprit.where, stack, of, over)


def _warn(plugin: str | None, said: str, stack: str | None) -> None:
    """Log with a stack that is not the caller's."""
    logger = LOGGER if plugin is None else plugin_logger(plugin)
    if not logger.isEnabledFor(logging.WARNING):
        return
    record = logger.makeRecord(
        logger.name, logging.WARNING, __file__, 0, "%s", (said,), None, sinfo=stack
    )
    logger.handle(record)
