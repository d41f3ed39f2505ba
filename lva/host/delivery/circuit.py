"""Whether a receiver answers, and when to try again."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, Literal, TypeAlias

import trio
from trio_util import wait_any

#: Longest delay before another attempt, in seconds, while a stop waits for the points.
DRAINING_DELAY: Final = 0.2
CircuitState: TypeAlias = Literal["closed", "open", "probing"]


class Circuit:
    """Keeps calls from a receiver that fails, and probes it with one call at a time.

    Args:
        threshold: After how many failures in a row it opens.
        pause: For how many seconds.
        rng: Shortens pauses by up to half, so that many services do not probe at once.

    Attributes:
        opened_at: When it was opened, in Unix time; None while it is closed. Probes that fail keep it.
        probes_at: When the next call probes the receiver, in Trio time; None while it is closed.
    """

    def __init__(self, threshold: int, pause: float, rng: random.Random) -> None:
        self.opened_at: float | None = None
        self.probes_at: float | None = None
        self._threshold = threshold
        self._pause = pause
        self._rng = rng
        self._failures = 0
        self._probing = False
        self._changed = trio.Event()

    def set_limits(self, threshold: int, pause: float) -> None:
        """Change after how many failures it opens, and for how many seconds."""
        self._threshold = threshold
        self._pause = pause

    @property
    def state(self) -> CircuitState:
        """``closed``: calls pass; ``open``: none does; ``probing``: one does."""
        if self.probes_at is None:
            return "closed"
        return "probing" if self._probing else "open"

    @asynccontextmanager
    async def admission(self, hurry: trio.Event) -> AsyncIterator[None]:
        """Wait until a call may be made, and enclose it; with `hurry` set, wait only briefly.

        Cancellation, Errors: pass; a probe that did not end lets the next one begin.
        """
        while self.probes_at is not None and not await self._may_probe(self.probes_at, hurry):
            pass
        probes = self.probes_at is not None
        self._probing = self._probing or probes
        try:
            yield
        finally:
            if probes:
                self._probing = False
                self._tell()

    async def _may_probe(self, time: float, hurry: trio.Event) -> bool:
        """Wait for the time, or for a change of the state; return whether to probe now."""
        changed = self._changed
        if self._probing:
            await changed.wait()
        else:
            await wait_any(changed.wait, partial(sleep_until, time, hurry))
        return not changed.is_set() and not self._probing

    @property
    def seconds_left(self) -> float | None:
        """How long it is until the next probe; None if it is closed."""
        if self.probes_at is None:
            return None
        return max(0.0, self.probes_at - trio.current_time())

    def probe_at_once(self) -> None:
        """If it is open, let the next call be the probe without a wait: there is reason to hope."""
        if self.probes_at is not None:
            self.probes_at = trio.current_time()
            self._tell()

    def succeeded(self) -> bool:
        """Note that the receiver answered; return whether that closed the circuit."""
        was_open = self.probes_at is not None
        self._failures = 0
        if was_open:
            self.probes_at = self.opened_at = None
            self._tell()
        return was_open

    def failed(self) -> bool:
        """Note a failure; return whether that opened the circuit."""
        self._failures += 1
        was_open = self.probes_at is not None
        if self._failures >= self._threshold:
            pause = self._pause / 2 + self._rng.uniform(0, self._pause / 2)
            self.probes_at = trio.current_time() + pause
            self.opened_at = self.opened_at or time.time()
            self._tell()
        return self.probes_at is not None and not was_open

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


async def sleep_until(time: float, hurry: trio.Event, brief_delay: float = DRAINING_DELAY) -> None:
    """Sleep until a time, but only briefly once there is hurry."""
    with trio.move_on_at(time) as whole:
        await hurry.wait()
    if not whole.cancelled_caught:
        await trio.sleep(min(brief_delay, max(0.0, time - trio.current_time())))
