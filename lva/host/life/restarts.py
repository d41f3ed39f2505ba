"""Whether and when a plugin that crashed is tried again."""

from __future__ import annotations

import random
from collections import deque

import trio

from lva.errors import counted
from lva.host.life.crash import Crash
from lva.host.life.states import State
from lva.settings import PluginSettings


class Restarts:
    """Counts the crashes of one life, and plans the next attempt: exponential back-off with full jitter.

    Args:
        settings: The plugin's limits.
        rng: Source of the jitter.
    """

    def __init__(self, settings: PluginSettings, rng: random.Random) -> None:
        self._settings = settings
        self._rng = rng
        self._failures = 0
        self._counted: deque[float] = deque()  # when, in Trio time
        self._next_at = 0.0

    @property
    def seconds_left(self) -> float:
        """How long it takes until the next attempt."""
        return max(0.0, self._next_at - trio.current_time())

    def after(self, crash: Crash, running_since: float | None) -> tuple[State, str]:
        """Decide what follows a crash; plan the next attempt if there is one.

        Args:
            crash: The crash.
            running_since: Since when the plugin ran, in Trio time; None if it did not.

        Returns:
            The state, which is BACKOFF if there is another attempt; and why, as the end of a sentence.
        """
        settings = self._settings
        if crash.stuck:
            return State.ABANDONED, ""
        if crash.hopeless:
            return State.FAILED, ""
        if settings.restart == "never":
            return State.FAILED, "; its restart policy is 'never'"
        counts = not crash.during_startup or settings.startup_error_behavior == "error"
        delay = self._plan(running_since, counts)
        if delay is None:
            most = counted(settings.max_restarts, "restart")
            return State.FAILED, f"; that is more than {most} in {settings.restart_window:g} s"
        return State.BACKOFF, f"; next attempt in {delay:.1f} s"

    def _plan(self, running_since: float | None, counts: bool) -> float | None:
        """Return in how many seconds the next attempt is due; None if there were too many that count."""
        now, settings = trio.current_time(), self._settings
        while self._counted and self._counted[0] <= now - settings.restart_window:
            self._counted.popleft()
        if running_since is not None and now - running_since >= settings.restart_window:
            self._failures = 0
        if counts:
            if len(self._counted) >= settings.max_restarts:
                return None
            self._counted.append(now)
        bound = min(settings.backoff_max, settings.backoff_initial * 2.0 ** min(self._failures, 60))
        delay = self._rng.uniform(0, bound)
        self._failures += 1
        self._next_at = now + delay
        return delay
