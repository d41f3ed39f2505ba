"""One HTTP request and its response while they are under way: id, limits, containment, points."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, MutableMapping
from functools import lru_cache
from typing import Any, Final

import trio

from lva.events.points import (
    ERRORS,
    REQUESTS,
    SERVICE,
    MonitoringPoint,
    PointAdditions,
    ReadOnlyDict,
    collect_additions,
    read_only,
)
from lva.host.routing import Owner
from lva.host.runtimes.errors import split_cancelled
from lva.http.refusal import CLIENT_CLOSED_REQUEST
from lva.logs.loggers import current_request, service_logger
from lva.web.handling.failures import HandlerFailures
from lva.web.handling.framing import Framing, sendable
from lva.web.problems import MEDIA_TYPE, HttpProblem, default_code

LOGGER: Final = service_logger("lva.web")
REQUEST_ID_HEADER: Final = b"luna-request-id"
#: Under this key of the ASGI scope the web application finds the exchange.
SCOPE_KEY: Final = "lva.exchange"
#: The template of requests that no route matches; one name for all keeps the series bounded.
UNMATCHED: Final = "*"
_KNOWN_VERBS: Final = frozenset(
    {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"}
)
_MAX_ID_LENGTH: Final = 128
#: Responses above this size, in bytes, do not fit into the socket's buffers at once.
LARGE: Final = 65_536

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
#: Takes the points of a request that has ended.
Collect = Callable[[list[MonitoringPoint]], None]
#: Told of each request that has ended: template, plugin, status, error code, seconds.
Observe = Callable[[str, str | None, int, str | None, float], None]


class Exchange:
    """A request and its response while they are under way.

    Attributes:
        request_id: The client's, or a new one.
        template: The matched route's path.
        error_code: Why the request failed; None if it did not or nobody said.
        unavailable: Set before such a cancellation to make the problem that is then the answer.
        completed: Whether the whole response was handed to the server.
        gone: Whether the client went away, or the server closed the connection, before that.
        stop: Cancels the task that `run` is called in.
        has_body: Whether the request has a body.
        feeding: In it the server's task takes the body and watches the client; see `feeding.py`.
        done: Set when nothing of the handling is left.
        noticed: Set then too, or earlier once the client is to be watched.
        endless: Whether the answer ends when the client leaves, so that this is no error.
        failures: Logs what its handler raises.
    """

    def __init__(
        self,
        asgi: Scope,
        send: Send,
        collect: Collect,
        observe: Observe,
        failures: HandlerFailures | None = None,
    ) -> None:
        self.request_id: str = ""
        self.template = UNMATCHED
        self.error_code: str | None = None
        self.stop: Callable[[], None] = _nothing
        self.feeding: trio.CancelScope = trio.CancelScope()
        self._sending = False
        self._cancel_wanted = False
        self.unavailable: Callable[[], HttpProblem] | None = None
        self.done: trio.Event = trio.Event()
        self.noticed: trio.Event = trio.Event()
        self.completed: bool = False
        self.gone = False
        self.endless: bool = False
        self.failures: HandlerFailures = failures or HandlerFailures()
        self._asgi = asgi
        self._send = send
        self._collect = collect
        self._observe = observe
        self._additions = PointAdditions()
        self._settled = False
        self._began = time.time()
        self._clock = time.perf_counter()
        self._status: int | None = None
        # HTTP/2 needs no header to tell that there is a body.
        self.has_body: bool = not asgi.get("http_version", "1.1").startswith("1")
        self._framing: Framing | None = None
        self._owner: Owner | None = None
        self._read_headers()

    def _read_headers(self) -> None:
        for name, value in self._asgi["headers"]:
            if name == REQUEST_ID_HEADER:
                self.request_id = _clean_id(value)
            elif name in {b"content-length", b"transfer-encoding"}:
                self.has_body = True
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
        elif not self.done.is_set():
            self.stop()

    def _leave_owner(self) -> None:
        if self._owner is not None:
            self._owner.end(self)

    async def run(self, respond: Callable[[], Awaitable[None]]) -> None:
        """Handle the request; contain whatever its handler does; make its points."""
        current_request.set(self.request_id)
        self._additions = collect_additions()
        failure: BaseException | None = None
        try:
            try:
                await respond()
            except BaseException as error:
                cancelled, failure = split_cancelled(error)
                try:
                    if cancelled is not None and not self._cancel_wanted:
                        raise cancelled from None
                finally:
                    del cancelled  # or error, traceback and frame would keep one another alive
            if self._cancel_wanted:
                with trio.CancelScope(shield=True):
                    await self._conclude(failure)
            else:
                await self._conclude(failure)
        except Exception as error:
            self.log_failure(error)
        finally:
            del failure
            self._leave_owner()
            self.done.set()
            self.noticed.set()
            if not self.completed:
                self.feeding.cancel()  # the server closes the connection then
            self.settle()

    def settle(self) -> None:
        """Hand over the request's points, and have it counted, once."""
        if not self._settled:
            self._settled = True
            elapsed = time.perf_counter() - self._clock
            self._collect(self._points(elapsed))
            if self.endless and self.error_code is None:
                return  # how long somebody has looked says nothing of the service
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
            if not ended:
                self.error_code = "response_aborted"
            elif not self.endless and self._status < 400:  # an error keeps its own code
                self.error_code = "client_disconnected"
        elif failure is not None:
            await self.answer(_failed(self._owner))
        elif self.unavailable is not None and self._cancel_wanted and not self.gone:
            await self.answer(self.unavailable())
        else:
            self._status = CLIENT_CLOSED_REQUEST
            self.error_code = "client_disconnected"

    def log_failure(self, failure: BaseException) -> None:
        """Log what was raised outside of a handler's call: by a streamed body, or by the service."""
        name = None if self._owner is None else self._owner.name
        self.failures.log(name, f"the response to {self._asgi['method']} {self.template}", failure)

    async def answer(self, problem: HttpProblem) -> None:
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

    def refuse(self, problem: HttpProblem) -> None:
        """End the handling with this answer, unless it is being answered already."""
        if self._status is not None:
            return
        problem.headers.setdefault("Connection", "close")
        self.unavailable = lambda: problem
        self.cancel()

    async def send(self, message: Message) -> None:
        """Pass on a message of the response, noting what the points need.

        Cancellation: takes effect before the message, or after it, and never midway; see `cancel`.

        Raises:
            BadResponseError: HTTP does not allow this response.
        """
        await trio.lowlevel.checkpoint_if_cancelled()  # here, and not midway; see `cancel`
        kind = message["type"]
        if kind == "http.response.start":
            if self._status is not None:
                return
            headers = sendable(message["status"], message["headers"])
            headers.append((REQUEST_ID_HEADER, self.request_id.encode()))
            self._framing = Framing(self._asgi["method"], message["status"], headers)
            self._status = message["status"]
            message["headers"] = headers
        elif kind == "http.response.body":
            await self._count(message)
        self._sending = True
        try:
            await self._send(message)
        finally:
            self._sending = False
            if self._cancel_wanted:
                self.stop()

    async def _count(self, message: Message) -> None:
        """Note how much of the response was sent, and whether this is its end."""
        last = not message.get("more_body", False)
        framing = self._framing
        assert framing is not None
        framing.take(len(message.get("body", b"")), last)
        if last:
            if framing.sent > LARGE:
                # The server takes what a client that has left does not: let its task notice.
                for _ in range(4):
                    await trio.lowlevel.checkpoint()
            # Noted first: once this message is handed over, the exchange is over for the server.
            self.completed = not self.gone
        else:
            self.noticed.set()

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
            points.append(
                MonitoringPoint(
                    ERRORS,
                    self._began,
                    {**common, "error_code": self.error_code or default_code(status)},
                    {**fields, "request_id": self.request_id},
                )
            )
        return points


def _failed(owner: Owner | None) -> HttpProblem:
    if owner is None or owner.name is None:
        return HttpProblem(500, "The service failed to handle the request.")
    return HttpProblem(
        500, f"Plugin {owner.name!r} failed to handle the request; its log says why."
    )


def _nothing() -> None:
    pass


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
