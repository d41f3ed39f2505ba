"""One HTTP request from its first byte to its points: id, limits, containment.

Each request is handled in a task of the service's own nursery, so that a handler that ignores its
cancellation is left behind instead of keeping the server from stopping. The server's task meanwhile
feeds it the body and watches for the client going away.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Awaitable, Callable, MutableMapping
from functools import lru_cache, partial
from typing import Any, Final, Protocol

import trio

from lva.host.routing import Owner
from lva.host.runtimes import Patience, split_cancelled
from lva.logs import brief, current_request, plugin_logger
from lva.points import (
    ERRORS,
    REQUESTS,
    SERVICE,
    MonitoringPoint,
    PointAdditions,
    ReadOnlyDict,
    collect_additions,
    read_only,
)
from lva.settings import Settings
from lva.web.lanes import Lanes
from lva.web.problems import CLIENT_CLOSED_REQUEST, MEDIA_TYPE, Problem, default_code

LOGGER: Final = logging.getLogger("lva.web")
REQUEST_ID_HEADER: Final = b"luna-request-id"
#: Under this key of the ASGI scope the web application finds the exchange.
SCOPE_KEY: Final = "lva.exchange"
#: The template of requests that no route matches; one name for all keeps the series bounded.
UNMATCHED: Final = "*"
#: How long, in seconds, a cancelled request may take to end before it is left behind: at most, and which part
#: of `shutdown_timeout`, since in a stop others wait for it.
_GRACE: Final = 1.0
_GRACE_SHARE: Final = 0.04
#: While other requests are under way, points gather for this long, in seconds, or until they are so many: to
#: publish a few at once costs little more than to publish one.
GATHER_TIME: Final = 0.01
GATHER_COUNT: Final = 50

_KNOWN_VERBS: Final = frozenset(
    {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"}
)
_MAX_ID_LENGTH: Final = 128
#: Responses above this size, in bytes, do not fit into the socket's buffers at once.
_LARGE: Final = 65_536

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
Publish = Callable[[str, list[MonitoringPoint]], object]
#: Takes the points of a request that has ended.
Collect = Callable[[list[MonitoringPoint]], None]
#: Told of each request that has ended: template, plugin, status, error code, seconds.
Observe = Callable[[str, str | None, int, str | None, float], None]


class Body(Protocol):
    """Where a request's body goes as it arrives."""

    def append(self, data: bytes) -> None: ...
    def set_complete(self) -> None: ...


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


class Exchange:
    """A request and its response while they are under way.

    Attributes:
        request_id: The client's, or a new one.
        template: The matched route's path.
        error_code: Why the request failed; None if it did not or nobody said.
        unavailable: Set before such a cancellation to make the problem that is then the answer.
        completed: Whether the whole response was handed to the server.
        gone: Whether the client went away, or the server closed the connection, before that.
        done: Set when nothing of the handling is left.
        endless: Whether the answer ends when the client leaves, so that this is no error.
    """

    def __init__(
        self, asgi: Scope, send: Send, collect: Collect, observe: Observe, limits: Settings
    ) -> None:
        self.request_id: str = ""
        self.template = UNMATCHED
        self.error_code: str | None = None
        self._scope = trio.CancelScope()
        self._feeding = trio.CancelScope()
        self._sending = False
        self._cancel_wanted = False
        self.unavailable: Callable[[], Problem] | None = None
        self.done: trio.Event = trio.Event()
        self.completed: bool = False
        self.gone = False
        self.endless: bool = False
        self._asgi = asgi
        self._send = send
        self._collect = collect
        self._observe = observe
        self._limits = limits
        self._additions = PointAdditions()
        self._settled = False
        self._began = time.time()
        self._clock = time.perf_counter()
        self._status: int | None = None
        # HTTP/2 needs no header to tell that there is a body.
        self._has_body = not asgi.get("http_version", "1.1").startswith("1")
        self._sent = 0
        self._owner: Owner | None = None
        self._read_headers()

    def _read_headers(self) -> None:
        for name, value in self._asgi["headers"]:
            if name == REQUEST_ID_HEADER:
                self.request_id = _clean_id(value)
            elif name in {b"content-length", b"transfer-encoding"}:
                self._has_body = True
        if not self.request_id:
            self.request_id = f"{int(self._began)},{_uuid4()}"

    def served_by(self, owner: Owner) -> None:
        """Tie the request to the plugin whose handler serves it, until the response is complete."""
        self._owner = owner
        owner.begin(self)

    def cancel(self) -> None:
        """End the handling as soon as no message is on its way to the server.

        Hypercorn cannot bear being cancelled while it writes the head of a response: what it then
        tries to send instead breaks its state machine, and with it the server.
        """
        self._cancel_wanted = True
        if self._sending:
            self._leave_owner()  # no code of the plugin runs now
        else:
            self._scope.cancel()

    def _leave_owner(self) -> None:
        if self._owner is not None:
            self._owner.end(self)

    async def run(self, respond: Callable[[], Awaitable[None]]) -> None:
        """Handle the request; contain whatever its handler does; make its points."""
        current_request.set(self.request_id)
        self._additions = collect_additions()
        failure: BaseException | None = None
        try:
            with self._scope:
                try:
                    await respond()
                except BaseException as error:
                    cancelled, failure = split_cancelled(error)
                    if cancelled is not None:
                        raise cancelled from None
            await self._conclude(failure)
        except Exception as error:
            self.log_failure(error)
        finally:
            self._leave_owner()
            self.done.set()
            if not self.completed:
                self._feeding.cancel()  # the server closes the connection then
            self.settle()

    def settle(self) -> None:
        """Hand over the request's points, and have it counted, once."""
        if not self._settled:
            self._settled = True
            elapsed = time.perf_counter() - self._clock
            self._collect(self._points(elapsed))
            owner = None if self._owner is None else self._owner.name
            self._observe(self.template, owner, self._status or 500, self.error_code, elapsed)

    def leave_behind(self) -> None:
        """Account for a handling that ignored its cancellation."""
        self.error_code = "abandoned"
        self._status = self._status or CLIENT_CLOSED_REQUEST
        self.settle()

    async def _conclude(self, failure: BaseException | None) -> None:
        """Answer what is still unanswered; find out why a response is incomplete."""
        left = self.gone and isinstance(failure, GeneratorExit)  # how a stream is told
        if failure is not None and not left:
            self.log_failure(failure)
        if self.completed:
            return
        if self._status is not None:
            ended = failure is None or left
            if not (ended and self.endless):
                self.error_code = "client_disconnected" if ended else "response_aborted"
        elif failure is not None:
            await self.answer(Problem(500, "The service failed to handle the request."))
        elif self.unavailable is not None and self._cancel_wanted and not self.gone:
            await self.answer(self.unavailable())
        else:
            self._status = CLIENT_CLOSED_REQUEST
            self.error_code = "client_disconnected"

    def log_failure(self, failure: BaseException) -> None:
        """Log what was raised outside of a handler's call: by a streamed body, or by the service."""
        name = None if self._owner is None else self._owner.name
        logger = LOGGER if name is None else plugin_logger(name)
        what = f"{self._asgi['method']} {self.template}"
        logger.error(
            "the response to %s raised %s",
            what,
            brief(failure),
            exc_info=failure,
            extra={"phase": "handler"},
        )

    async def answer(self, problem: Problem) -> None:
        """Send a problem document without the web framework's help."""
        self.error_code = problem.error_code
        body = problem.body(self.request_id)
        headers = [
            (b"content-type", MEDIA_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            *((name.lower().encode(), value.encode()) for name, value in problem.headers.items()),
        ]
        try:
            await self.send(
                {"type": "http.response.start", "status": problem.status, "headers": headers}
            )
            await self.send({"type": "http.response.body", "body": body, "more_body": False})
        except Exception as error:
            LOGGER.debug("a problem document could not be sent: %s", type(error).__name__)

    async def feed(self, receive: Receive, body: Body) -> None:
        """Pass the body on as it arrives, within the limits; return when the exchange is over.

        It is over, for the server, when the response is complete or the client has gone away.
        """
        with self._feeding:
            if self._has_body:
                limit = self._limits.body_timeout
                with trio.move_on_after(limit) as in_time:
                    if await self._feed_body(receive, body):
                        return
                if in_time.cancelled_caught:
                    self._refuse(
                        Problem(408, f"The request's body did not arrive within {limit:g} s.")
                    )
            else:
                body.set_complete()
            while (await receive())["type"] != "http.disconnect":
                pass  # what is left of the body is not wanted any more

    async def _feed_body(self, receive: Receive, body: Body) -> bool:
        """Pass the body on; return whether the exchange was over before its end."""
        size, limit = 0, self._limits.max_body_size
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return True
            data = message.get("body", b"")
            size += len(data)
            if size > limit:
                self._refuse(Problem(413, f"The request's body is larger than {limit} bytes."))
                return False
            body.append(data)
            if not message.get("more_body", False):
                body.set_complete()
                return False

    def _refuse(self, problem: Problem) -> None:
        """End the handling with this answer, unless it is being answered already."""
        if self._status is not None:
            return
        problem.headers.setdefault("Connection", "close")
        self.unavailable = lambda: problem
        self.cancel()

    async def send(self, message: Message) -> None:
        """Pass on a message of the response, noting what the points need."""
        await trio.lowlevel.checkpoint_if_cancelled()  # here, and not midway; see `cancel`
        kind = message["type"]
        if kind == "http.response.start":
            if self._status is not None:
                return
            self._status = message["status"]
            message["headers"] = [
                *message["headers"],
                (REQUEST_ID_HEADER, self.request_id.encode()),
            ]
        elif kind == "http.response.body":
            await self._count(message)
        self._sending = True
        try:
            await self._send(message)
        finally:
            self._sending = False
            if self._cancel_wanted:
                self._scope.cancel()

    async def _count(self, message: Message) -> None:
        """Note how much of the response was sent, and whether this is its end."""
        self._sent += len(message.get("body", b""))
        if not message.get("more_body", False):
            if self._sent > _LARGE:
                # The server takes what a client that has left does not: let its task notice, and
                # ours be told, which is a few steps of the event loop.
                for _ in range(4):
                    await trio.lowlevel.checkpoint()
            # Noted first: once this message is handed over, the exchange is over for the server.
            self.completed = not self.gone

    def _points(self, elapsed: float) -> list[MonitoringPoint]:
        tags, fields = self._additions.tags, self._additions.fields
        status = self._status or 500
        common = _tags(self._asgi["method"], self.template, status)
        if tags:
            common = read_only("tags", {**tags, **common})
        points = [
            MonitoringPoint(
                REQUESTS,
                self._began,
                common,
                {**fields, "request_id": self.request_id, "execution_time": elapsed},
            )
        ]
        if status >= 400 or self.error_code is not None:
            code = self.error_code or default_code(status)
            points.append(
                MonitoringPoint(
                    ERRORS,
                    self._began,
                    {**common, "error_code": code},
                    {**fields, "request_id": self.request_id},
                )
            )
        return points


@lru_cache(maxsize=1024)
def _tags(method: str, template: str, status: int) -> ReadOnlyDict:
    """Return the service's own tags; they are made once for all points that have the same."""
    verb = method if method in _KNOWN_VERBS else "OTHER"
    route = f"{verb}:{template}"
    return read_only("tags", {"service": SERVICE, "route": route, "status_code": status})


def _clean_id(value: bytes) -> str:
    """Return the client's request id if it is short and printable, else nothing."""
    text = value.decode("latin-1").strip()
    return text if len(text) <= _MAX_ID_LENGTH and text.isascii() and text.isprintable() else ""


def _uuid4() -> str:
    """Return a random UUID (RFC 9562, version 4) as text, several times faster than `uuid`."""
    digits = os.urandom(16).hex()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


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
        self._publish = publish
        self._observe = observe
        self._limits = limits
        self._nursery = nursery
        self._grace = max(Patience.LEAST, min(_GRACE, _GRACE_SHARE * limits.shutdown_timeout))
        self._lanes = Lanes(nursery)
        self._points: list[MonitoringPoint] = []  # to be published
        self._gathering = False  # whether a task sees to that

    async def handle(self, asgi: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; when cancelled, cancel it, and leave it behind if it does not end."""
        exchange = asgi[SCOPE_KEY] = Exchange(
            asgi, send, self._collect, self._observe, self._limits
        )
        body, respond = self._begin(asgi, exchange)
        lane = await self._lanes.take()
        self.in_flight += 1
        lane.start(partial(exchange.run, respond), exchange.log_failure)
        try:
            await exchange.feed(receive, body)
            if exchange.completed:
                await exchange.done.wait()
        finally:
            if not exchange.done.is_set():
                exchange.gone = not exchange.completed
                exchange.cancel()
                with trio.move_on_after(self._grace, shield=True):
                    await exchange.done.wait()
                if not exchange.done.is_set():
                    exchange.leave_behind()
            self.in_flight -= 1
            if not self.in_flight:
                self._publish_points()
            self._lanes.give_back(lane)

    def _collect(self, points: list[MonitoringPoint]) -> None:
        """Take points, and see to it that they are published soon."""
        self._points += points
        if self.in_flight <= 1:
            return  # `handle` publishes them when this request, the only one, has ended
        if len(self._points) >= GATHER_COUNT:
            self._publish_points()
        elif not self._gathering:
            self._gathering = True
            self._nursery.start_soon(self._publish_later, name="points of requests")

    async def _publish_later(self) -> None:
        try:
            await trio.sleep(GATHER_TIME)
        finally:
            self._gathering = False
            self._publish_points()

    def _publish_points(self) -> None:
        points, self._points = self._points, []
        if points:
            self._publish("monitoring_event", points)

    def _begin(self, asgi: Scope, exchange: Exchange) -> tuple[Body, Callable[[], Awaitable[None]]]:
        """Return where the body goes and what answers the request."""
        if self.in_flight >= self._limits.max_requests:
            return _NoBody(), partial(exchange.answer, _overloaded())
        try:
            responder = self._web.open(asgi, exchange.send)
        except Exception as error:
            problem = Problem(400, f"The request is malformed: {brief(error)}.")
            return _NoBody(), partial(exchange.answer, problem)
        return responder.body, responder.respond


class _NoBody:
    """Takes the body of a request that is refused."""

    def append(self, data: bytes) -> None:
        """Forget it."""

    def set_complete(self) -> None:
        """Nothing waits for it."""


def _overloaded() -> Problem:
    return Problem(
        503,
        "The service handles as many requests as it can; try again shortly.",
        error_code="overloaded",
        headers={"Retry-After": "1"},
    )
