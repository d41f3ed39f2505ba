"""The event types that plugins can ask for: the one place to add another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from lva.errors import hint
from lva.events.points import MonitoringPoint, whole
from lva.events.streams import (
    ANALYTICS_EVENT_NAME,
    STREAM_EVENT_NAME,
    StreamAnalyticsEvent,
    StreamEvent,
    whole_event,
)


@dataclass(frozen=True, slots=True)
class EventType:
    """A kind of event: its name is what a plugin writes as `eventName`.

    Args:
        name: The documented name.
        item: The class of what is published under it. `handleEvent` gets a list of these and a
            logger. Its objects have a `size` in bytes; a `series` and `tags`, which filters go by; a `time`
            and `fields`, which taps show with them; and `as_dict()`, which is their JSON.
        whole: Given an object of `item`, or of a class derived from it, returns it, or a copy of it, checked
            whatever its class; raises TypeError or ValueError.
        description: One line for messages and docs.
        encode: Returns an item as it stands in a spool: what JSON can say.
        decode: Returns the item again; raises TypeError, LookupError or ValueError.
    """

    name: str
    item: type
    whole: Callable[[Any], Any]
    description: str
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


MONITORING_EVENT: Final = EventType(
    "monitoring_event",
    MonitoringPoint,
    whole,
    "points of requests, errors and background plugins",
    lambda point: (point.series, point.time, point.tags, point.fields),
    lambda values: MonitoringPoint(*values),
)
STREAM_EVENT: Final = EventType(
    STREAM_EVENT_NAME,
    StreamEvent,
    whole_event,
    "changes of the state of streams",
    StreamEvent.as_dict,
    StreamEvent.from_dict,
)
ANALYTICS_EVENT: Final = EventType(
    ANALYTICS_EVENT_NAME,
    StreamAnalyticsEvent,
    whole_event,
    "what analytics plugins have seen in frames of streams",
    StreamAnalyticsEvent.as_dict,
    StreamAnalyticsEvent.from_dict,
)

#: Every event type by name. A developer of the service who adds one adds it here.
EVENT_TYPES: Final[Mapping[str, EventType]] = MappingProxyType(
    {event.name: event for event in (MONITORING_EVENT, STREAM_EVENT, ANALYTICS_EVENT)}
)
_BY_CLASS: Final = {event.item: event for event in EVENT_TYPES.values()}


def name_of(item: Any) -> str:
    """Return the name of the event type that an item is of."""
    return _type_of(item).name


def _type_of(item: Any) -> EventType:
    event = _BY_CLASS.get(type(item))
    if event is None:  # of a derived class, such as one of points
        event = next(event for cls, event in _BY_CLASS.items() if isinstance(item, cls))
    return event


def check_names(names: Iterable[str]) -> None:
    """Refuse names of event types that there are not.

    Raises:
        ValueError: The message lists those there are, or names the one that is meant.
    """
    for name in names:
        if name not in EVENT_TYPES:
            raise ValueError(f"there is no event type {name!r}{hint(name, EVENT_TYPES)}")


def encode(item: Any) -> Any:
    """Return an item of any event type as it stands in a spool."""
    return _type_of(item).encode(item)


def decode(value: Any) -> Any:
    """Return the item that `encode` was given.

    Raises:
        ValueError, TypeError, LookupError: It is damaged.
    """
    if isinstance(value, list):
        return MONITORING_EVENT.decode(value)
    return EVENT_TYPES[value["event_name"]].decode(value)
