"""Which of the points that are published one event class gets.

An operator's filter of series and tags decides, and that a class does not get back what it publishes
while it handles points: that would never end. What it does not get is counted as filtered, before it is
accepted.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, Final, TypeAlias

import trio

from lva.logs.loggers import plugin_logger
from lva.settings import PluginSettings

#: For how long, in seconds, points that a class publishes while it handles others are counted for the log.
COUNTED_FOR: Final = 1.0
#: Of how many series it is remembered whether they pass.
_REMEMBERED: Final = 1000

_Match: TypeAlias = Callable[[str], object]


class Handling:
    """One call of `handleEvent`, as what it publishes sees it: by its context, in any thread.

    Attributes:
        intake: That of the class.
        over: Whether the call has ended; a task that it started may go on.
    """

    __slots__ = ("intake", "over")

    def __init__(self, intake: Intake) -> None:
        self.intake: Intake = intake
        self.over: bool = False

    def publishes(self, plugin: str | None) -> Intake | None:
        """Return the intake of the class if the plugin that publishes here is its own.

        A signal handler or a finalizer may have interrupted the call, and publish for another plugin.
        """
        return self.intake if plugin == self.intake.plugin and not self.over else None


#: The call in which this is.
handling: ContextVar[Handling | None] = ContextVar("lva_handling", default=None)


def filter_of(settings: PluginSettings) -> Callable[[Any], bool] | None:
    """Return what says whether a point passes a plugin's filter; None if all points do."""
    if not (settings.series or settings.exclude_series or settings.tags or settings.exclude_tags):
        return None
    included, excluded = _any_of(settings.series or "*"), _any_of(settings.exclude_series)
    tags, exclude_tags = _for_each(settings.tags), _for_each(settings.exclude_tags)

    @lru_cache(_REMEMBERED)
    def series_passes(series: str) -> bool:
        return bool(included(series)) and not excluded(series)

    def passes(point: Any) -> bool:
        there = point.tags
        return (
            series_passes(point.series)
            and all(name in there and match(str(there[name])) for name, match in tags)
            and not any(name in there and match(str(there[name])) for name, match in exclude_tags)
        )

    return passes


def _any_of(patterns: Sequence[str]) -> _Match:
    """Return what tells whether a text matches one of some shell-style patterns."""
    return re.compile("|".join(map(fnmatch.translate, patterns)) or "(?!)").match


def _for_each(patterns: Mapping[str, Sequence[str]]) -> list[tuple[str, _Match]]:
    return [(name, _any_of(several)) for name, several in patterns.items()]


class Intake:
    """What one event class gets.

    Args:
        what: ``"NAME.Class.handleEvent"``, for messages.
        settings: Those of the plugin.
        start: Starts a task of the host's, given its work and its name.

    Attributes:
        plugin: The plugin's name.
        events: The event types whose points it gets.
        filter: The operator's, if there is one.
    """

    def __init__(
        self,
        what: str,
        settings: PluginSettings,
        start: Callable[[Callable[[], Awaitable[None]], str], None],
    ) -> None:
        self.filter: Callable[[Any], bool] | None
        self.plugin: str = what.partition(".")[0]
        self.events: tuple[str, ...] = ()
        self._what = what
        self._start = start
        self._own = 0  # published in its own calls, roughly: only the log tells it
        self._warned = False
        self._token = trio.lowlevel.current_trio_token()
        self.set(settings)

    def set(self, settings: PluginSettings) -> None:
        """Change the filter."""
        self.filter = filter_of(settings)
        self._takes_own = settings.own_points

    def wanted(self, points: Sequence[Any], own: bool) -> Sequence[Any]:
        """Return those of the points that the class gets; at any moment and in any thread.

        Args:
            points: What is published.
            own: Whether that happens in one of the class's own calls.
        """
        if own:
            self._note_own(len(points))
            if not self._takes_own:
                return ()
        passes = self.filter
        return points if passes is None else [point for point in points if passes(point)]

    def _note_own(self, count: int) -> None:
        self._own += count
        if not self._warned:
            self._warned = True
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._start, self._warn, f"{self._what} (own points)")

    async def _warn(self) -> None:
        """Warn of a class that publishes while it handles points; once."""
        await trio.sleep(COUNTED_FOR)
        plugin_logger(self.plugin).warning(
            "%s publishes points while it handles some: %.0f a second; %s",
            self._what,
            self._own / COUNTED_FOR,
            "it gets them back, since own_points is true: that may never end"
            if self._takes_own
            else "it does not get these itself (own_points = true would change that)",
        )
