"""Server-sent events: put together from their lines, and the service's own stream of them, read on Trio."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any, Final, TypeAlias

from lva.client.asking import answer_of, refusal
from lva.client.target import FailedError, Target

#: A tick comes every second.
_SILENCE: Final = 10.0
#: An event's name, and what it holds.
Event: TypeAlias = tuple[str, dict[str, Any]]


class EventLines:
    """Takes the lines of one response, one after the other."""

    def __init__(self) -> None:
        self._name, self._data = "message", ""

    def take(self, line: str) -> Event | None:
        """Return the event that a line ends, if it ends one."""
        key, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if key == "event":
            self._name = value
        elif key == "data":
            self._data += value
        elif not line:
            name, data = self._name, self._data
            self._name, self._data = "message", ""
            if data:
                return name, json.loads(data)
        return None


async def events(target: Target) -> AsyncGenerator[Event, None]:
    """Go through the events of one connection: their names and what they hold.

    Raises:
        httpx.TransportError: The service cannot be reached, or was silent for too long.
        BusyError: It has no stream to spare now, or is stopping.
        FailedError: It refuses, or it is something else.
    """
    async with (
        target.async_client(_SILENCE) as client,
        client.stream("GET", "/events") as response,
    ):
        if response.status_code != 200:
            await response.aread()
            problem = refusal(response.status_code, answer_of(target, response))
            raise BusyError(problem.message) if response.status_code == 503 else problem
        if not response.headers.get("content-type", "").startswith("text/event-stream"):
            raise FailedError(f"what responds at {target.address} has no stream of events")
        whole = EventLines()
        async for line in response.aiter_lines():
            if (event := whole.take(line)) is not None:
                yield event


class BusyError(Exception):
    """There is a service, and it has no stream to give now."""
