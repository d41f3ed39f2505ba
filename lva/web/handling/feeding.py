"""What the server's task does while a request is handled: it takes the body, then watches the client."""

from __future__ import annotations

from typing import Protocol

import trio

from lva.settings import Settings
from lva.web.handling.exchange import Exchange, Receive
from lva.web.handling.short_waits import ShortWaits
from lva.web.problems import HttpProblem


class Body(Protocol):
    """Where a request's body goes as it arrives."""

    def append(self, data: bytes) -> None: ...
    def set_complete(self) -> None: ...


async def feed(
    exchange: Exchange, receive: Receive, body: Body, limits: Settings, waits: ShortWaits
) -> None:
    """Pass the body on as it arrives, within the limits; return when the exchange is over.

    The client is watched once the handling takes long, or sends a response in parts.

    Cancellation: ends it; the request itself is not touched.
    """
    if exchange.has_body:
        with exchange.feeding:
            if not await _pass_on_in_time(exchange, receive, body, limits):
                await _watch(exchange, receive, waits)
        return
    body.set_complete()
    await waits.wait(exchange.noticed)
    if not exchange.done.is_set():
        with exchange.feeding:
            await _watch(exchange, receive, waits)


async def _watch(exchange: Exchange, receive: Receive, waits: ShortWaits) -> None:
    await waits.wait(exchange.noticed)
    while not exchange.done.is_set() and (await receive())["type"] != "http.disconnect":
        pass  # what is left of the body is not wanted any more


async def _pass_on_in_time(
    exchange: Exchange, receive: Receive, body: Body, limits: Settings
) -> bool:
    """Pass the body on, if it comes in time; return whether the exchange was over before its end."""
    with trio.move_on_after(limits.body_timeout):
        return await _pass_on(exchange, receive, body, limits.max_body_size)
    late = f"The request's body did not arrive within {limits.body_timeout:g} s."
    exchange.refuse(HttpProblem(408, late))
    return False


async def _pass_on(exchange: Exchange, receive: Receive, body: Body, limit: int) -> bool:
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return True
        data = message.get("body", b"")
        size += len(data)
        if size > limit:
            large = f"The request's body is larger than {limit} bytes."
            exchange.refuse(HttpProblem(413, large))
            return False
        body.append(data)
        if not message.get("more_body", False):
            body.set_complete()
            return False
