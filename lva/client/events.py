"""The service's stream of events, read on Trio."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final

from lva.client.asking import answer_of, refusal
from lva.client.event_lines import Event, EventLines
from lva.client.target import FailedError, Target

#: A tick comes every second.
_SILENCE: Final = 10.0


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
