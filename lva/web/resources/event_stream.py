"""`GET /events`: the service as it is, and as it changes, as server-sent events.

Each event is rendered once for all readers. A reader that does not keep up is cut off, so that memory is
bounded; all readers get a last event before the server closes its connections, so that none delays the stop.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Final

import trio
from quart import Response
from quart_trio.wrappers import TrioResponse
from trio_util import wait_any

from lva.host.host import Host
from lva.host.life.states import Transition
from lva.web.problems import HttpProblem
from lva.web.resources.access import Access
from lva.web.resources.assets import build
from lva.web.resources.streams import FAREWELL, RETRY_AFTER, Shutdown, abort_of, stream_headers
from lva.web.resources.telemetry import COLUMNS, STEP, STEPS, Telemetry

#: Seconds between two ticks.
INTERVAL: Final = 1.0
#: How many events may wait for a reader before it is cut off.
_BACKLOG: Final = 16
_HEADERS: Final = stream_headers("text/event-stream")


@dataclass(eq=False, slots=True)
class _EventReader:
    """One open stream."""

    details: bool
    events: trio.MemorySendChannel[bytes]
    abort: Callable[[], None]
    is_over: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class _ServerSentEvent:
    """A rendered event: for those who may see details, and for all others."""

    full: bytes
    public: bytes

    def seen_by(self, reader: _EventReader) -> bytes:
        """Return what this reader gets."""
        return self.full if reader.details else self.public


class EventStreams:
    """All open streams.

    Args:
        telemetry: What is told.
        host: The plugins; changes of their states are told as they happen.
        access: Decides who may see reasons, which hold error messages.
        shutdown: How far the stop of the service is.
        most: How many streams may be open at once.
    """

    def __init__(
        self,
        telemetry: Telemetry,
        host: Host,
        access: Access,
        shutdown: Shutdown,
        most: int,
    ) -> None:
        self._telemetry = telemetry
        self._host = host
        self._access = access
        self._shutdown = shutdown
        self._most = most
        self._readers: set[_EventReader] = set()
        self._started = time.time()
        self._hello: _ServerSentEvent | None = None
        self._known: list[Any] = []
        host.lives.watchers.append(self._moved)

    async def run(self) -> None:
        """Send a tick each second until the server closes its connections; then say goodbye.

        Resources: readers that do not take the last event in time are cut off.

        Cancellation: ends it without a goodbye.
        """
        await wait_any(self._tick_on, self._shutdown.closing.wait)
        self._publish(_rendered("bye", {"at": self._now(), "reason": self._shutdown.reason}))
        for reader in self._readers:
            reader.events.close()
        with trio.move_on_after(FAREWELL):
            while self._readers:
                await trio.sleep(FAREWELL / 10)
                self._forget_ended()
        for reader in list(self._readers):
            self._cut_off(reader)

    async def open(self, request: Any, is_over: Callable[[], bool]) -> Response:
        """Answer a request with a stream.

        Args:
            request: The request.
            is_over: Tells whether the request has ended, in whatever way.

        Raises:
            HttpProblem: There are too many streams, or the service is stopping.
        """
        if self._shutdown.closing.is_set():
            raise HttpProblem(
                503, "The service is stopping.", "not_ready", {"Retry-After": RETRY_AFTER}
            )
        if request.method == "HEAD":
            return TrioResponse(b"", headers=_HEADERS)
        self._forget_ended()
        if len(self._readers) >= self._most:
            raise HttpProblem(
                503,
                f"{self._most} streams are open, which is what max_event_streams allows;"
                " close a console, or try again later.",
                "too_many_streams",
                {"Retry-After": RETRY_AFTER},
            )
        sender, receiver = trio.open_memory_channel[bytes](_BACKLOG)
        reader = _EventReader(
            self._access.sees_details(request), sender, abort_of(request), is_over
        )
        sender.send_nowait(self._greeting().seen_by(reader))
        self._readers.add(reader)
        response = TrioResponse(self._body(reader, receiver), headers=_HEADERS)
        response.timeout = None
        return response

    async def _body(
        self, reader: _EventReader, events: trio.MemoryReceiveChannel[bytes]
    ) -> AsyncIterator[bytes]:
        try:
            async for event in events:
                yield event
        finally:
            self._readers.discard(reader)

    async def _tick_on(self) -> None:
        due = trio.current_time()
        while True:
            due = max(due + INTERVAL, trio.current_time())
            await trio.sleep_until(due)
            self._tick()

    def _tick(self) -> None:
        news = self._telemetry.sample()
        self._hello = None
        self._forget_ended()
        if not self._readers:
            return
        if self._known != self._inventory():
            self._publish(self._greeting())
        tick = {**self._about(), **news, "blocks": self._telemetry.blocks()}
        self._publish(_rendered("tick", tick, {"blocks": {}}))

    def _moved(self, plugin: str, before: str, transition: Transition) -> None:
        told = self._telemetry.note(plugin, before, transition)
        self._hello = None
        if self._readers:
            change = {**told, "ready": self._is_ready()}
            self._publish(_rendered("transition", change, {"reason": None}))

    def _publish(self, event: _ServerSentEvent) -> None:
        for reader in list(self._readers):
            try:
                reader.events.send_nowait(event.seen_by(reader))
            except trio.WouldBlock:
                self._cut_off(reader)
            except trio.BrokenResourceError:
                self._readers.discard(reader)

    def _cut_off(self, reader: _EventReader) -> None:
        """Let go of a reader that does not read."""
        self._readers.discard(reader)
        reader.events.close()
        reader.abort()

    def _forget_ended(self) -> None:
        """Let go of those whose stream ended before it was begun."""
        for reader in [reader for reader in self._readers if reader.is_over()]:
            self._readers.discard(reader)

    def _about(self) -> dict[str, Any]:
        return {"at": self._now(), "ready": self._is_ready(), "draining": self._draining}

    @property
    def _draining(self) -> bool:
        return self._shutdown.draining.is_set()

    def _is_ready(self) -> bool:
        return not self._draining and not self._host.not_ready()

    def _greeting(self) -> _ServerSentEvent:
        """Return the `hello`, rendered at most once between two changes."""
        if self._hello is None:
            self._known = self._inventory()
            plugins = self._telemetry.plugins()
            timeline = list(self._telemetry.timeline)
            hello = {
                "v": 1,
                "details": True,
                **self._about(),
                "service": {
                    "version": version("lva"),
                    "build": build(),
                    "started": round(self._started, 3),
                    "admin_token": self._access.has_token,
                },
                "step": STEP,
                "window": STEP * STEPS,
                "series": self._telemetry.series(),
                "columns": COLUMNS,
                "failing": self._telemetry.failing(),
                "plugins": plugins,
                "timeline": timeline,
                "blocks": self._telemetry.blocks(),
            }
            public = {
                "details": False,
                "plugins": [{**plugin, "reason": None} for plugin in plugins],
                "timeline": [{**transition, "reason": None} for transition in timeline],
                "blocks": {},
            }
            self._hello = _rendered("hello", hello, public)
        return self._hello

    def _inventory(self) -> list[Any]:
        """Return what a `hello` alone tells of the plugins."""
        return [
            (
                life.name,
                life.loaded.kind,
                life.loaded.runs_in,
                life.settings.critical,
                self._telemetry.unit(life),
            )
            for life in self._host.lives.values()
        ]

    def _now(self) -> float:
        return round(time.time(), 3)


def _rendered(
    name: str, data: dict[str, Any], public: Mapping[str, Any] | None = None
) -> _ServerSentEvent:
    """Render an event; `public` is what its members are for who may not see details, if they are others."""
    full = _frame(name, data)
    return _ServerSentEvent(full, full if public is None else _frame(name, {**data, **public}))


def _frame(name: str, data: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()
