"""Tells readers how the streams are, and what happens, as server-sent events.

All is rendered once for all readers. What happens is gathered for a moment, and the oldest of too many
events are left out and counted, so that a storm of events costs readers little. A reader that does not keep
up is cut off.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import trio

from lva.events.streams import StreamAnalyticsEvent
from lva.video.definition import StreamDefinition
from lva.video.registry.elsewhere import Elsewhere
from lva.video.supervision.record import StreamChange
from lva.video.supervision.stream import Stream

#: Where the files of the page in the console are that shows it.
CONSOLE: Final = Path(__file__).parents[1] / "console"
#: Seconds between two looks at what has happened; at every so many of them, streams are looked at, too.
LOOK: Final = 0.25
LOOKS: Final = 4
#: For how many seconds changes of states are told to a new reader, and the most of each stream.
WINDOW: Final = 900
CHANGES: Final = 100
#: Most events that are told at once; events of one stream that a new reader of it is told.
EVENTS: Final = 100
#: Types of events of each stream of which a reader of all is told the newest one.
TYPES: Final = 8
#: Messages that may wait for a reader before it is cut off; most readers.
BACKLOG: Final = 16
READERS: Final = 50


class TooManyReadersError(Exception):
    """There are as many readers as may be."""


@dataclass(eq=False, slots=True)
class _FeedReader:
    """One reader; `stream_id` is that of the only stream it is told of, if there is one."""

    stream_id: str | None
    messages: trio.MemorySendChannel[bytes]


class Feed:
    """What readers are told.

    Args:
        streams: Returns all streams.
        status: Returns what `/streams/ID` shows of one.
        fleet: Returns what `/fleet` shows; None without a fleet.
    """

    def __init__(
        self,
        streams: Callable[[], Iterable[Stream | Elsewhere]],
        status: Callable[[Stream | Elsewhere], dict[str, Any]] = lambda stream: stream.status(),
        fleet: Callable[[], dict[str, Any] | None] = lambda: None,
    ) -> None:
        self._streams = streams
        self._status = status
        self._fleet = fleet
        self._readers: set[_FeedReader] = set()
        self._arrived = trio.Event()
        self._known: list[tuple[str, int]] = []
        self._told: dict[str, dict[str, Any]] = {}
        self._changes: list[StreamChange] = []
        self._events: deque[StreamAnalyticsEvent] = deque(maxlen=EVENTS)
        self._far: dict[str, Sequence[dict[str, Any]]] = {}
        self._left_out = 0

    async def run(self) -> None:
        """Tell the readers until cancelled; then they are at the end."""
        try:
            while True:
                await self._arrived.wait()
                await self._tell_on()
                self._arrived = trio.Event()
        finally:
            for reader in self._readers:
                reader.messages.close()

    async def _tell_on(self) -> None:
        looks = 0
        self._known = _inventory(self._streams())
        while self._readers:
            await trio.sleep(LOOK)
            looks += 1
            self._look(whole=looks % LOOKS == 0)

    def changed(self, change: StreamChange) -> None:
        """Tell of a change of a stream's state."""
        if self._readers:
            self._changes.append(change)

    def seen(self, event: StreamAnalyticsEvent) -> None:
        """Tell of what an analytics plugin saw."""
        if self._readers:
            self._left_out += len(self._events) == EVENTS
            self._events.append(event)

    def looked_at(self) -> set[str]:
        """Return the ids of the streams that somebody is told of who is told of no other."""
        return {reader.stream_id for reader in self._readers if reader.stream_id is not None}

    def seen_far(self, stream_id: str, events: Sequence[dict[str, Any]]) -> None:
        """Tell who is told of no other stream of events that another agent has told of, as documents."""
        self._far[stream_id] = [*self._far.get(stream_id, ()), *events][-EVENTS:]

    def open(self, stream_id: str | None = None) -> AsyncGenerator[bytes, None]:
        """Return what a new reader is told: ``hello``, then ``update`` after ``update``.

        Args:
            stream_id: The only stream that it wants to be told of.

        Raises:
            TooManyReadersError: There are `READERS` already.
        """
        if len(self._readers) >= READERS:
            raise TooManyReadersError
        sender, receiver = trio.open_memory_channel[bytes](BACKLOG)
        reader = _FeedReader(stream_id, sender)
        return self._body(reader, receiver)

    async def _body(
        self, reader: _FeedReader, messages: trio.MemoryReceiveChannel[bytes]
    ) -> AsyncGenerator[bytes, None]:
        self._readers.add(reader)  # here, or one that is never read would stay
        self._told = {}  # what has changed since is no news to this reader, or was taken back
        self._arrived.set()
        try:
            yield self._hello(reader.stream_id)
            async for message in messages:
                yield message
        finally:
            self._readers.discard(reader)

    def _look(self, *, whole: bool) -> None:
        """Send what is new; if `whole`, also how the streams are."""
        streams = {stream.id: stream for stream in self._streams()}
        if (known := _inventory(streams.values())) != self._known:
            self._known, self._told = known, {}
            self._publish(self._hello)
        moved: dict[str, dict[str, Any]] = {}
        ids = streams if whole else {change.stream_id for change in self._changes}
        for stream_id in ids:
            if stream_id in streams:
                now = self._status(streams[stream_id])
                before = self._told.get(stream_id, {})
                news = {k: v for k, v in now.items() if k not in before or before[k] != v}
                moved |= {stream_id: news} if news else {}
                self._told[stream_id] = now
        changes, self._changes = self._changes, []
        events, left_out = list(self._events), self._left_out
        self._events.clear()
        self._left_out = 0
        far, self._far = self._far, {}
        fleet = self._of_fleet() if whole else {}

        def render(only: str | None) -> bytes:
            update = {
                "at": _now(),
                "streams": {k: v for k, v in moved.items() if only in {None, k}},
                "changes": [_change(item) for item in changes if only in {None, item.stream_id}],
                "events": [
                    *(item.as_dict() for item in events if only in {None, item.stream_id}),
                    *far.get(only or "", ()),
                ],
                "left_out": left_out,
                **fleet,
            }
            return _message("update", update)

        if moved or changes or events or far or whole:
            self._publish(render)

    def _of_fleet(self) -> dict[str, Any]:
        fleet = self._fleet()
        return {} if fleet is None else {"fleet": fleet}

    def _publish(self, render: Callable[[str | None], bytes]) -> None:
        rendered: dict[str | None, bytes] = {}
        for reader in list(self._readers):
            if reader.stream_id not in rendered:
                rendered[reader.stream_id] = render(reader.stream_id)
            try:
                reader.messages.send_nowait(rendered[reader.stream_id])
            except trio.WouldBlock:
                self._readers.discard(reader)
                reader.messages.close()

    def _hello(self, only: str | None) -> bytes:
        shown = [stream for stream in self._streams() if only in {None, stream.id}]
        now = _now()
        hello = {
            "v": 1,
            "at": now,
            "window": WINDOW,
            "streams": [
                {**self._status(stream), **_more(stream, now, with_events=only is not None)}
                for stream in shown
            ],
            **self._of_fleet(),
        }
        return _message("hello", hello)


def _inventory(streams: Iterable[Stream | Elsewhere]) -> list[tuple[str, int]]:
    """Return what a `hello` alone tells of: which streams there are, and their definitions."""
    return [(stream.id, stream.version) for stream in streams]


def _more(stream: Stream | Elsewhere, now: float, *, with_events: bool) -> dict[str, Any]:
    """Return what a reader is told of a stream at first, besides its status; oldest first.

    What has happened to a stream of another agent, only that one knows.
    """
    definition = stream.definition
    more: dict[str, Any] = {
        "roi": None if definition.roi is None else definition.roi.model_dump(),
        "droi": None if definition.droi is None else definition.droi.model_dump(),
        "regions": list(_regions(definition)),
    }
    if isinstance(stream, Elsewhere):
        return {**more, "changes": [], "newest": []}
    newest = list(stream.log)[-CHANGES:]
    more["changes"] = [change for change in newest if change["time"] > now - WINDOW]
    more["newest"] = (
        [stream.events.document(event) for event in list(stream.events)[-EVENTS:]]
        if with_events
        else _briefly(stream)
    )
    return more


def _briefly(stream: Stream) -> list[dict[str, Any]]:
    """Return the newest events in short, each type once, oldest first: which were seen lately."""
    found: dict[str, dict[str, Any]] = {}
    for event in islice(reversed(stream.events), EVENTS):
        found.setdefault(event.event_type, {"event_type": event.event_type, "time": event.time})
    return list(reversed(found.values()))[-TYPES:]


def _regions(definition: StreamDefinition) -> Iterator[dict[str, Any]]:
    """Yield the regions that analytics plugins are given, as `motion` is: each with a name and a shape."""
    for use in definition.analytics:
        given = use.parameters.get("regions")
        for region in given if isinstance(given, list) else ():
            if isinstance(region, dict) and isinstance(region.get("shape"), dict):
                name, shape = str(region.get("name", "")), region["shape"]
                yield {"analytics": use.name, "name": name, "shape": shape}


def _change(change: StreamChange) -> dict[str, Any]:
    return {"stream_id": change.stream_id, "stream": change.name, **change.as_dict()}


def _now() -> float:
    return round(time.time(), 3)


def _message(name: str, data: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()
