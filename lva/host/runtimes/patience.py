"""How long the host waits for a plugin."""

from __future__ import annotations

import math
from typing import ClassVar, Final

import trio


class Patience:
    """How long the host waits for one plugin: each wait has a limit, and a stop sets one over all."""

    #: What code gets at least, in seconds, to end once it is cancelled, even past the deadline.
    LEAST: Final = 0.1
    #: How long, in seconds, an `__init__` may block the event loop before it is waited for in the background.
    #: Nearly all return sooner, and then no task switch is needed. Tests in virtual time set more; as an
    #: argument it would pass through service, host and lives for them alone.
    BRIEFLY: ClassVar[float] = 0.02

    def __init__(self) -> None:
        self._deadline = math.inf
        self._scopes: set[trio.CancelScope] = set()

    def set_deadline(self, deadline: float) -> None:
        """Let no wait, not even one under way, last longer than this (Trio time)."""
        self._deadline = deadline
        for scope in self._scopes:
            end = max(deadline, trio.current_time() + self.LEAST)
            scope.deadline = min(scope.deadline, end)

    def left(self, limit: float, share: float = 1.0) -> float:
        """Return how long a wait may last, in seconds; the arguments are those of `wait`."""
        return max(self.LEAST, min(limit, (self._deadline - trio.current_time()) * share))

    async def wait(self, event: trio.Event, limit: float, share: float = 1.0) -> bool:
        """Wait for the event; return whether it is set.

        Cancellation: does not reach it.

        Args:
            event: What is waited for.
            limit: For how long at most, in seconds.
            share: How much of the time until the deadline this wait may use up.
        """
        if not event.is_set():
            with trio.move_on_after(self.left(limit, share), shield=True) as scope:
                self._scopes.add(scope)
                try:
                    await event.wait()
                finally:
                    self._scopes.discard(scope)
        return event.is_set()
