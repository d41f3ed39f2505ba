"""One HTTP request from its first byte to its points: id, limits, containment.

Each request is handled in a task of the service's own nursery, so that a handler that ignores its
cancellation is left behind instead of keeping the server from stopping.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

import trio

from lva.host.routing import Owner
from lva.host.runtimes import split_cancelled
from lva.logs import current_request
from lva.points import ERRORS, REQUESTS, SERVICE, MonitoringPoint, collecting_additions
from lva.settings import Settings
from lva.web.problems import CLIENT_CLOSED_REQUEST, MEDIA_TYPE, Problem, default_code

LOGGER: Final = logging.getLogger("lva.web")
REQUEST_ID_HEADER: Final = b"luna-request-id"
#: Under this key of the ASGI scope the web application finds the exchange.
SCOPE_KEY: Final = "lva.exchange"
#: The template of requests that no route matches; one name for all keeps the series bounded.
UNMATCHED: Final = "*"
#: How long, in seconds, a cancelled request may take to end before it is left behind.
CANCEL_GRACE: Final = 1.0

_KNOWN_VERBS: Final = frozenset(
    {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"}
)
_MAX_ID_LENGTH: Final = 128

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Publish = Callable[[str, list[MonitoringPoint]], None]


class Exchange:
    """A request and its response while they are under way.

    Attributes:
        request_id: The client's, or a new one.
        template: The matched route's path.
        error_code: Why the request failed; None if it did not or nobody said.
        scope: Cancelling it ends the handling.
        unavailable: Set before such a cancellation to answer with a problem, if there is still time.
    """

    def __init__(self, asgi: Scope, receive: Receive, send: Send, limits: Settings) -> None:
        self.request_id = ""
        self.template = UNMATCHED
        self.error_code: str | None = None
        self.scope = trio.CancelScope()
        self.unavailable: Problem | None = None
        self.done = trio.Event()
        self._asgi = asgi
        self._receive = receive
        self._send = send
        self._limits = limits
        self._began = time.time()
        self._clock = time.perf_counter()
        self._status: int | None = None
        self._completed = False
        self._body_bytes = 0
        self._awaits_body = False
        self._body_deadline = 0.0
        self._owner: Owner | None = None
        self._read_headers()

    def _read_headers(self) -> None:
        for name, value in self._asgi["headers"]:
            if name == REQUEST_ID_HEADER:
                self.request_id = _clean_id(value)
            elif name in {b"content-length", b"transfer-encoding"}:
                self._awaits_body = True
        if not self.request_id:
            self.request_id = f"{int(self._began)},{uuid.uuid4()}"
        if self._awaits_body:
            self._body_deadline = trio.current_time() + self._limits.body_timeout

    def served_by(self, owner: Owner) -> None:
        """Tie the request to the plugin whose handler serves it, until the response is complete."""
        self._owner = owner
        owner.begin(self.scope)

    async def run(self, app: App, publish: Publish) -> None:
        """Handle the request; contain whatever its handler does; publish its points."""
        current_request.set(self.request_id)
        self._asgi[SCOPE_KEY] = self
        failure: BaseException | None = None
        with collecting_additions() as additions:
            try:
                with self.scope:
                    try:
                        await app(self._asgi, self.receive, self.send)
                    except BaseException as error:
                        cancelled, failure = split_cancelled(error)
                        if cancelled is not None:
                            raise cancelled from None
                await self._conclude(failure)
            finally:
                if self._owner is not None:
                    self._owner.end(self.scope)
                publish("monitoring_event", self._points(additions.tags, additions.fields))
                self.done.set()

    async def _conclude(self, failure: BaseException | None) -> None:
        """Answer what is still unanswered; find out why a response is incomplete."""
        if failure is not None:
            LOGGER.error("handling a request failed", exc_info=failure)
        if self._completed:
            return
        if self._status is not None:
            self.error_code = "client_disconnected" if failure is None else "response_aborted"
        elif failure is not None:
            await self.answer(Problem(500, "The service failed to handle the request."))
        elif self.unavailable is not None and self.scope.cancel_called:
            await self.answer(self.unavailable)
        else:
            self._status = CLIENT_CLOSED_REQUEST
            self.error_code = "client_disconnected"

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
        except Exception as error:  # noqa: BLE001 - the client is gone; the points still tell
            LOGGER.debug("a problem document could not be sent: %s", type(error).__name__)

    async def receive(self) -> Message:
        """Pass on the next message of the request, within the limits of time and size."""
        if not self._awaits_body:
            message: Message = await self._receive()
            return message
        with trio.move_on_at(self._body_deadline) as limit:
            message = await self._receive()
        if limit.cancelled_caught:
            seconds = f"{self._limits.body_timeout:g} s"
            await self._refuse(
                Problem(408, f"The request's body did not arrive within {seconds}.")
            )
        if message["type"] != "http.request" or not message.get("more_body", False):
            self._awaits_body = False
        self._body_bytes += len(message.get("body", b""))
        if self._body_bytes > self._limits.max_body_size:
            await self._refuse(
                Problem(
                    413,
                    f"The request's body is larger than {self._limits.max_body_size} bytes.",
                )
            )
        return message

    async def _refuse(self, problem: Problem) -> None:
        """End the handling with this answer; does not return."""
        self.unavailable = problem
        problem.headers.setdefault("Connection", "close")
        self.scope.cancel()
        await trio.sleep_forever()

    async def send(self, message: Message) -> None:
        """Pass on a message of the response, noting what the points need."""
        kind = message["type"]
        if kind == "http.response.start":
            if self._status is not None:
                return
            self._status = message["status"]
            message["headers"] = [
                *message["headers"],
                (REQUEST_ID_HEADER, self.request_id.encode()),
            ]
        elif kind == "http.response.body" and not message.get("more_body", False):
            # Noted first: handing this message over is what ends the request, and this task with it.
            self._completed = True
        await self._send(message)

    def _points(
        self, tags: dict[str, str | int | float], fields: dict[str, str | int | float]
    ) -> list[MonitoringPoint]:
        method = self._asgi["method"]
        status = self._status or 500
        common = {
            **tags,
            "service": SERVICE,
            "route": f"{method if method in _KNOWN_VERBS else 'OTHER'}:{self.template}",
            "status_code": status,
        }
        elapsed = time.perf_counter() - self._clock
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


def _clean_id(value: bytes) -> str:
    """Return the client's request id if it is short and printable, else nothing."""
    text = value.decode("latin-1").strip()
    return text if len(text) <= _MAX_ID_LENGTH and text.isascii() and text.isprintable() else ""


class Requests:
    """Handles all requests of the service.

    Args:
        app: The web application.
        publish: Hands the requests' points to the plugins.
        limits: Sizes and times.
        nursery: Where requests run; must tolerate tasks that never end.
    """

    def __init__(self, app: App, publish: Publish, limits: Settings, nursery: trio.Nursery) -> None:
        self.in_flight = 0
        self._app = app
        self._publish = publish
        self._limits = limits
        self._nursery = nursery

    async def handle(self, asgi: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; when cancelled, cancel it, and leave it behind if it does not end."""
        exchange = Exchange(asgi, receive, send, self._limits)
        app = self._app if self.in_flight < self._limits.max_requests else _refuse_overload
        self.in_flight += 1
        self._nursery.start_soon(exchange.run, app, self._publish, name="request")
        try:
            await exchange.done.wait()
        finally:
            if not exchange.done.is_set():
                exchange.scope.cancel()
                with trio.move_on_after(CANCEL_GRACE, shield=True):
                    await exchange.done.wait()
            self.in_flight -= 1


async def _refuse_overload(asgi: Scope, _receive: Receive, _send: Send) -> None:
    await asgi[SCOPE_KEY].answer(
        Problem(
            503,
            "The service handles as many requests as it can; try again shortly.",
            error_code="overloaded",
            headers={"Retry-After": "1"},
        )
    )
