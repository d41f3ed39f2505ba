"""`GET /tap`: points as they pass, as JSON lines.

What a reader gets is bounded in every way: points looked at, lines and bytes sent. What is left out is
counted and told. A reader that does not read loses points, never others; one that has stopped reading for
good is cut off when the server closes its connections, so that it does not delay the stop.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, TypeAlias

import trio
from pydantic import Field
from quart import Response
from quart_trio.wrappers import TrioResponse
from typing_extensions import TypedDict

from lva.contract import Published
from lva.documents import Count, one_of
from lva.errors import suggestion
from lva.events.streams import StreamAnalyticsEvent
from lva.host.delivery.tap import STEPS, Passage, Tap
from lva.host.host import Host
from lva.routes.query import QueryParameter
from lva.web.handling.exchange import SCOPE_KEY, Exchange
from lva.web.problems import HttpProblem
from lva.web.resources.access import Access
from lva.web.resources.pages import life_of
from lva.web.resources.streams import FAREWELL, RETRY_AFTER, abort_of, stream_headers

#: How many may look at once.
MOST_TAPS: Final = 8
#: Most lines with points per second, and the default.
MOST_LINES: Final = 1000
LINES: Final = 100
#: Seconds between two looks at what has gathered.
INTERVAL: Final = 0.1
#: Most points looked at each time, so that the event loop is never blocked for long.
LOOKS: Final = 2000
#: Longest text of a tag or a field, and most of them, before they are cut.
LONGEST: Final = 500
MOST_VALUES: Final = 100
#: Size of an event, in bytes, whose objects are left out: the rest of it would be made JSON of for nothing.
LARGE: Final = 32 * 1024
#: After so many seconds without a line one comes that says nothing, so that the stream looks alive.
SILENCE: Final = 15.0
_HEADERS: Final = stream_headers("application/jsonl")
_TEXT: Final = {"type": "string"}
PARAMETERS: Final = (
    QueryParameter(
        "plugin",
        "The points that this plugin publishes, and what becomes of those on their way to it; all that are"
        " published, if left out.",
        _TEXT,
    ),
    QueryParameter(
        "series",
        "Only points of this series; may be repeated.",
        {"type": "array", "items": _TEXT},
    ),
    QueryParameter(
        "tag",
        "NAME:VALUE; only points with this tag. May be repeated: all have to match.",
        {"type": "array", "items": {"type": "string", "pattern": "^[^:]+:"}},
    ),
    QueryParameter(
        "rate",
        "Most points per second.",
        {"type": "integer", "minimum": 1, "maximum": MOST_LINES, "default": LINES},
    ),
)
_NAMES: Final = [parameter.name for parameter in PARAMETERS]


class TappedPoint(TypedDict):
    """A point, and what has happened to it."""

    at: float
    """When it did, in Unix seconds."""
    step: Annotated[
        str,
        one_of(STEPS),
        Field(description=" ".join(f"{step}: {meaning}." for step, meaning in STEPS.items())),
    ]
    plugin: str | None
    """Who has published it (null: the service), or was to take it."""
    series: str
    """The event type, if it is an event of a stream."""
    time: float
    """The point's own, in Unix seconds."""
    tags: dict[str, str | float]
    """Long texts are cut."""
    fields: dict[str, str | float]
    """Long texts are cut. What an event has besides its tags, as text if it is an object; not its picture."""


class LeftOut(TypedDict):
    """How many points were left out since the last such line."""

    at: float
    left_out: Count
    """All of them."""
    over_rate: Count
    """Wanted, but more than the rate allows."""
    not_looked_at: Count
    """Too many to look at, or the reader was too slow."""


class End(TypedDict):
    """The last line."""

    at: float
    end: str
    """Why the stream ends."""


#: A line of the stream.
Tapped: TypeAlias = TappedPoint | LeftOut | End


@dataclass(frozen=True, slots=True)
class TapQuery:
    """What a reader wants to see.

    Attributes:
        plugin: Whose points; None for all that are published.
        series: Of which series; empty for all.
        tags: With which tags.
        rate: How many per second.
    """

    plugin: str | None = None
    series: frozenset[str] = frozenset()
    tags: Mapping[str, str] = field(default_factory=dict)
    rate: int = LINES

    def matches(self, point: Published) -> bool:
        """Return whether a point is among those wanted."""
        if self.series and point.series not in self.series:
            return False
        tags = point.tags
        return all(str(tags.get(name)) == value for name, value in self.tags.items())


class TapStreams:
    """All readers.

    Args:
        host: The plugins.
        closing: Set when the server is about to close its connections.
        access: Decides who may see points, which can hold anything.
    """

    def __init__(self, host: Host, closing: trio.Event, access: Access) -> None:
        self._host = host
        self._closing = closing
        self._access = access
        self._aborts: dict[Tap, Callable[[], None]] = {}
        self._all_gone = trio.Event()

    async def run(self) -> None:
        """Wait until the server closes its connections; then cut off those that do not read.

        Cancellation: ends it; the streams end with their connections.
        """
        await self._closing.wait()
        with trio.move_on_after(FAREWELL):
            if self._aborts:
                await self._all_gone.wait()
        for abort in [*self._aborts.values()]:
            abort()

    async def open(self, request: Any) -> Response:
        """Answer a request with a stream.

        Raises:
            HttpProblem: The request is not allowed or malformed, there are too many readers, or the service
                is stopping.
        """
        self._access.check_details(request)
        query = parse_query(request.args)
        if query.plugin is not None:
            life_of(self._host, query.plugin)
        retry = {"Retry-After": RETRY_AFTER}
        if self._closing.is_set():
            raise HttpProblem(503, "The service is stopping.", "not_ready", retry)
        if len(self._host.publisher.taps) >= MOST_TAPS:
            raise HttpProblem(
                503, f"{MOST_TAPS} taps are open, which is the most.", "too_many_streams", retry
            )
        exchange: Exchange = request.scope[SCOPE_KEY]
        exchange.endless = True
        response = TrioResponse(self._lines(query, abort_of(request)), headers=_HEADERS)
        response.timeout = None
        return response

    async def _lines(self, query: TapQuery, abort: Callable[[], None]) -> AsyncIterator[bytes]:
        if len(self._host.publisher.taps) >= MOST_TAPS:  # others were opened at the same moment
            yield _line({"at": _now(), "end": f"{MOST_TAPS} taps are open, which is the most"})
            return
        with self._host.publisher.taps.tapped(query.plugin) as tap:
            self._aborts[tap] = abort
            try:
                async for lines in self._follow(tap, query):
                    yield lines
            finally:
                del self._aborts[tap]
                if self._closing.is_set() and not self._aborts:
                    self._all_gone.set()

    async def _follow(self, tap: Tap, query: TapQuery) -> AsyncIterator[bytes]:
        meter = Meter(query.rate, trio.current_time())
        while not self._closing.is_set():
            with trio.move_on_after(INTERVAL):
                await self._closing.wait()
            passages, missed = tap.take()
            meter.missed += missed
            meter.refill(trio.current_time())
            lines = [*_selected(passages, query, meter), *meter.notes(trio.current_time())]
            if lines:
                yield b"".join(lines)
        yield _line({"at": _now(), "end": "the service is stopping"})


class Meter:
    """How many points may still be looked at and sent, and what was left out.

    Attributes:
        looks: How many more may be looked at this time.
        missed: Points that nobody looked at: there were too many, or the reader was too slow.
        unsent: Points that were wanted, but more than the rate allows.
    """

    def __init__(self, rate: int, now: float) -> None:
        self.looks: int = LOOKS
        self.missed: int = 0
        self.unsent: int = 0
        self._rate = rate
        self._allowance = float(rate)
        self._filled = self._told = self._spoken = now

    def refill(self, now: float) -> None:
        """Allow what the time since the last call is good for, up to one second's worth."""
        self.looks = LOOKS
        more = (now - self._filled) * self._rate
        self._allowance = min(self._rate, self._allowance + more)
        self._filled = now

    def spend(self) -> bool:
        """Return whether another point may be sent; if not, count it."""
        if self._allowance < 1:
            self.unsent += 1
            return False
        self._allowance -= 1
        self._spoken = self._filled
        return True

    def notes(self, now: float) -> Iterator[bytes]:
        """Tell what was left out, once a second; and now and then, that there is nothing to tell."""
        left_out = self.missed + self.unsent
        if (left_out and now - self._told >= 1) or now - self._spoken >= SILENCE:
            self._told = self._spoken = now
            yield _line(
                {
                    "at": _now(),
                    "left_out": left_out,
                    "over_rate": self.unsent,
                    "not_looked_at": self.missed,
                }
            )
            self.missed = self.unsent = 0


def parse_query(args: Any) -> TapQuery:
    """Return what the query of a request asks for.

    Raises:
        HttpProblem: 400; it has a parameter that there is not, or a value that is none.
    """
    for name in args:
        if name not in _NAMES:
            raise _malformed(f"there is no parameter {name!r}{suggestion(name, _NAMES)}")
    tags = {}
    for text in args.getlist("tag"):
        name, colon, value = text.partition(":")
        if not colon or not name:
            raise _malformed(f"a tag is NAME:VALUE, as in status_code:500, not {text!r}")
        tags[name] = value
    rate = args.get("rate", str(LINES))
    if not (rate.isascii() and rate.isdigit() and len(rate) < 9 and 1 <= int(rate) <= MOST_LINES):
        raise _malformed(f"rate is 1 to {MOST_LINES}, not {rate!r}")
    return TapQuery(args.get("plugin"), frozenset(args.getlist("series")), tags, int(rate))


def _malformed(why: str) -> HttpProblem:
    return HttpProblem(400, f"The query is malformed: {why}.")


def _selected(passages: Any, query: TapQuery, meter: Meter) -> Iterator[bytes]:
    """Go through the lines of the points that are wanted, within the limits."""
    for passage in passages:
        seen = passage.points[: meter.looks]
        meter.looks -= len(seen)
        meter.missed += len(passage.points) - len(seen)
        for point in seen:
            if query.matches(point) and meter.spend():
                yield _rendered(passage, point)


def _rendered(passage: Passage, point: Published) -> bytes:
    return _line(
        {
            "at": round(passage.at, 3),
            "step": passage.step,
            "plugin": passage.plugin,
            "series": point.series[:LONGEST],
            "time": point.time,
            "tags": _shortened(point.tags),
            "fields": _shortened(point.fields, _is_small(point)),
        }
    )


def _is_small(point: Published) -> bool:
    """Return whether what a point has, but for a picture, may be made JSON of to be cut afterwards."""
    picture = point.image if isinstance(point, StreamAnalyticsEvent) else b""
    return point.size - len(picture) <= LARGE


def _shortened(values: Mapping[str, Any], small: bool = True) -> dict[str, Any]:
    """Return tags or fields as far as a person would look at them; a point may be a megabyte."""
    kept = [(name, value) for name, value in values.items() if value is not None][:MOST_VALUES]
    return {_cut(name): _shown(value, small) for name, value in kept}


def _shown(value: Any, small: bool) -> str | float:
    """Return a value of a point as it is, but for long texts; what else an event has as JSON."""
    if isinstance(value, str):
        return _cut(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    return _cut(json.dumps(value, separators=(",", ":"), ensure_ascii=False)) if small else "…"


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _line(value: Tapped) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _now() -> float:
    return round(time.time(), 3)
