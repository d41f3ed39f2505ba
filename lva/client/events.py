"""The service's stream of events, read on Trio."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any, Final

from lva.client.asking import answer_of, refusal
from lva.client.target import FailedError, Target

if TYPE_CHECKING:
    import httpx

#: A tick comes every second.
_SILENCE: Final = 10.0
Event = tuple[str, dict[str, Any]]


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
        async for event in _events_in(response):
            yield event


class BusyError(Exception):
    """There is a service, and it has no stream to give now."""


async def _events_in(response: httpx.Response) -> AsyncGenerator[Event, None]:
    name, data = "message", ""
    async for line in response.aiter_lines():
        key, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                yield name, json.loads(data)
            name, data = "message", ""
        elif key == "event":
            name = value
        elif key == "data":
            data += value
