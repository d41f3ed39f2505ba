"""All HTTP requests: how many at once, each in a task that can be abandoned.

Each request is handled in a task of the service's own nursery, so that a handler that ignores its
cancellation is abandoned instead of keeping the server from stopping. The server's task meanwhile
feeds it the body and watches for the client going away.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, Protocol

import trio

from lva.events.points import MonitoringPoint
from lva.host.runtimes.patience import Patience
from lva.logs.loggers import brief
from lva.settings import Settings
from lva.web.handling.exchange import SCOPE_KEY, Exchange, Observe, Receive, Scope, Send
from lva.web.handling.failures import HandlerFailures
from lva.web.handling.feeding import Body, feed
from lva.web.handling.gathering import Gathering, Publish
from lva.web.handling.runners import Runners
from lva.web.handling.short_waits import ShortWaits
from lva.web.problems import HttpProblem

#: How long, in seconds, a cancelled request may take to end before it is abandoned: at most, and which part
#: of `shutdown_timeout`, since in a stop others wait for it.
_GRACE: Final = 1.0
_GRACE_SHARE: Final = 0.04


class Responder(Protocol):
    """One request as the web application knows it."""

    @property
    def body(self) -> Body:
        """Where its body goes."""

    async def respond(self) -> None:
        """Handle the request and send the response."""


class Web(Protocol):
    """The web application."""

    def open(self, asgi: Scope, send: Send) -> Responder:
        """Begin a request.

        Raises:
            Exception: The request is malformed.
        """


def _not_observed(*_: object) -> None:
    pass


class Requests:
    """Handles all requests of the service.

    Args:
        web: The web application.
        publish: Hands the requests' points to the plugins: at once when no other request is under way,
            else within `GATHER_TIME`.
        limits: Sizes and times.
        nursery: Where requests run; must tolerate tasks that never end.
        observe: Counts the requests; by default nothing does.
    """

    def __init__(
        self,
        web: Web,
        publish: Publish,
        limits: Settings,
        nursery: trio.Nursery,
        observe: Observe = _not_observed,
    ) -> None:
        self.in_flight: int = 0
        self._web = web
        self._observe = observe
        self._failures = HandlerFailures()
        self._limits = limits
        self._runners = Runners(nursery)
        self._waits = ShortWaits(nursery)
        self._grace = max(Patience.LEAST, min(_GRACE, _GRACE_SHARE * limits.shutdown_timeout))
        self._gathering = Gathering(publish, nursery)

    async def handle(self, asgi: Scope, receive: Receive, send: Send) -> None:
        """Handle one request.

        Resources: a task in the service's nursery, which outlasts this call if it ignores its cancellation.

        Cancellation: cancels the request, and abandons it if it does not end in its grace.

        Errors: those of the handler end in the response.
        """
        exchange = asgi[SCOPE_KEY] = Exchange(
            asgi, send, self._collect, self._observe, self._failures
        )
        admitted = self.in_flight < self._limits.max_requests
        self.in_flight += admitted  # before anything is awaited, or it would be no bound
        try:
            body, respond = self._begin(asgi, exchange) if admitted else _refuse(exchange)
            runner = self._runners.take()
            exchange.stop = runner.end
            runner.start(partial(exchange.run, respond), exchange.log_failure)
            await self._attend(exchange, receive, body)
        finally:
            self.in_flight -= admitted
        if exchange.done.is_set():
            self._runners.give_back(runner)
            del asgi[SCOPE_KEY]  # a circle, which would be left to the garbage collector

    async def _attend(self, exchange: Exchange, receive: Receive, body: Body) -> None:
        """Feed the request its body until it is over, for whatever reason."""
        try:
            await feed(exchange, receive, body, self._limits, self._waits)
            if exchange.completed and not exchange.done.is_set():
                await exchange.done.wait()
        finally:
            if not exchange.done.is_set():
                exchange.gone = not exchange.completed
                exchange.cancel()
                with trio.move_on_after(self._grace, shield=True):
                    await exchange.done.wait()
                if not exchange.done.is_set():
                    exchange.leave_behind()

    def publish_points(self) -> None:
        """Publish the points of all requests that have ended: some may be waiting for others."""
        self._gathering.publish_all()

    def _collect(self, points: list[MonitoringPoint]) -> None:
        self._gathering.add(points, more_to_come=self.in_flight > 1)

    def _begin(self, asgi: Scope, exchange: Exchange) -> tuple[Body, Callable[[], Awaitable[None]]]:
        """Return where the body goes and what answers the request."""
        try:
            responder = self._web.open(asgi, exchange.send)
        except Exception as error:
            problem = HttpProblem(400, f"The request is malformed: {brief(error)}.")
            return _NoBody(), partial(exchange.answer, problem)
        return responder.body, responder.respond


class _NoBody:
    """Takes the body of a request that is refused."""

    def append(self, data: bytes) -> None:
        """Forget it."""

    def set_complete(self) -> None:
        """Nothing waits for it."""


def _refuse(exchange: Exchange) -> tuple[Body, Callable[[], Awaitable[None]]]:
    problem = HttpProblem(
        503,
        "The service handles as many requests as it can; try again shortly.",
        error_code="overloaded",
        headers={"Retry-After": "1"},
    )
    return _NoBody(), partial(exchange.answer, problem)
