"""Waits that mostly end soon, and are ended if they do not: one timer serves all of them."""

from __future__ import annotations

from typing import Final

import trio

#: The longest, in seconds, that a wait is let be; at least half of it.
LONGEST: Final = 0.2


class ShortWaits:
    """Waits for events, each ended after a while.

    A cancel scope with a deadline for each would cost a request more than its route does.

    Args:
        nursery: Where the timer is, while anything waits.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._young: set[trio.Event] = set()
        self._old: set[trio.Event] = set()
        self._timed = False

    async def wait(self, event: trio.Event) -> None:
        """Wait until the event is set; if nobody does so in time, it is set here.

        Cancellation: the event stays as it is.
        """
        self._young.add(event)
        if not self._timed:
            self._timed = True
            self._nursery.start_soon(self._time, name="short waits")
        try:
            await event.wait()
        finally:
            self._young.discard(event)
            self._old.discard(event)

    async def _time(self) -> None:
        try:
            while self._young or self._old:
                for event in self._old:
                    event.set()
                self._old, self._young = self._young, set()
                await trio.sleep(LONGEST / 2)
        finally:
            self._timed = False
