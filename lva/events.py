"""The event types that plugins can ask for: the one place to add another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from lva.points import MonitoringPoint, whole


@dataclass(frozen=True, slots=True)
class EventType:
    """A kind of event: its name is what a plugin writes as `eventName`.

    Args:
        name: The documented name.
        item: The class of what is published under it. `handleEvent` gets a list of these and a
            logger.
        whole: Given an object of `item`, or of a class derived from it, returns it, or a copy of it, checked
            whatever its class; raises TypeError or ValueError.
        description: One line for messages and docs.
    """

    name: str
    item: type
    whole: Callable[[Any], Any]
    description: str


MONITORING_EVENT: Final = EventType(
    "monitoring_event",
    MonitoringPoint,
    whole,
    "points of requests, errors and background plugins",
)

#: Every event type by name. A developer of the service who adds one adds it here.
EVENT_TYPES: Final[Mapping[str, EventType]] = MappingProxyType(
    {event.name: event for event in (MONITORING_EVENT,)}
)
