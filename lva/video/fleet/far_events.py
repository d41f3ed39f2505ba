"""Events of streams that other agents work on, for who looks at one of these streams here."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, Final, TypeAlias

import trio

#: Seconds between two looks at whether somebody looks at a stream, and between two questions to its agent.
LOOK: Final = 0.25
PACE: Final = 2.0

#: The newest events of a stream, newest first; None if they cannot be had now, or are here.
Page: TypeAlias = Sequence[dict[str, Any]] | None


class FarEvents:
    """Asks for the events of a stream as long as somebody looks at it.

    Args:
        looked_at: Returns the ids of the streams that somebody looks at.
        ask: Returns the newest events of a stream.
        tell: Gets a stream's id and its new events, oldest first.
    """

    def __init__(
        self,
        looked_at: Callable[[], Collection[str]],
        ask: Callable[[str], Awaitable[Page]],
        tell: Callable[[str, Sequence[dict[str, Any]]], None],
    ) -> None:
        self._looked_at = looked_at
        self._ask = ask
        self._tell = tell
        self._followed: set[str] = set()

    async def run(self) -> None:
        """Ask until cancelled.

        Resources: a task for each stream that somebody looks at, until nobody does.

        Cancellation: ends all of them.

        Errors: what `ask` or `tell` raises ends this, and is raised in a group.
        """
        async with trio.open_nursery() as nursery:
            while True:
                for stream_id in {*self._looked_at()} - self._followed:
                    self._followed.add(stream_id)
                    nursery.start_soon(self._follow, stream_id, name=f"events of {stream_id}")
                await trio.sleep(LOOK)

    async def _follow(self, stream_id: str) -> None:
        """Tell what is new of a stream; what was there when somebody came is in its list of events."""
        known: set[Any] | None = None
        while stream_id in self._looked_at():
            page = await self._ask(stream_id)
            if page is not None:
                if known is not None:
                    new = [event for event in reversed(page) if event["event_id"] not in known]
                    self._tell(stream_id, new)
                known = {event["event_id"] for event in page}
            await trio.sleep(PACE)
        self._followed.discard(stream_id)


def page_of(body: bytes) -> Page:
    """Return the events that a response has; None if it has none that are understood here."""
    try:
        found = json.loads(body)["events"]
        return [event for event in found if event["event_id"] and event["time"] is not None]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
