"""What happens to streams, and what is seen in them, as event plugins receive it.

Both kinds have a JSON document, `as_dict()`, whose keys stay what they are; later versions may add some.
"""

from __future__ import annotations

import base64
import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from time import time as now
from typing import Any, ClassVar, Final, TypeVar, cast

from lva.events.points import ReadOnlyDict, Sized, text_size

T = TypeVar("T")

STREAM_EVENT_NAME: Final = "stream_event"
ANALYTICS_EVENT_NAME: Final = "analytics_event"
#: Most bytes of an event's data, as JSON roughly, and of its picture; how deep data may be nested.
MAX_DATA: Final = 1024 * 1024
MAX_IMAGE: Final = 16 * 1024 * 1024
MAX_DEPTH: Final = 32
_IMAGE_TYPE: Final = "image/jpeg"
_NUMBER: Final = 8
#: What `datetime` can say, in Unix seconds: to the end of the year 9999.
_LATEST: Final = 253_402_300_799.0
_MOST_INT: Final = 2**63 - 1


def _new_id() -> str:
    return str(uuid.uuid4())


class _AnyStreamEvent(Sized):
    """Copies and pickles through the constructor, as a point does."""

    __slots__ = ()

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return type(self), tuple(getattr(self, each.name) for each in fields(self))  # type: ignore[arg-type] # derived classes are data classes


@dataclass(frozen=True, slots=True)
class StreamEvent(_AnyStreamEvent):
    """A change of a stream's state, as event plugins receive it. Immutable.

    Args:
        stream_id: The stream's id.
        stream: Its name.
        status: The state that it has entered, such as ``in_progress`` or ``failure``.
        reason: Why, for people.
        before: The state before; None for a new stream.
        code: What went wrong or ended, such as ``connection_failed``; None if nothing did.
        time: When, in Unix seconds; kept to the millisecond.
        account_id: Whose stream it is, where the operator has set that.
        event_id: A UUID.
        epoch: The epoch of the agent's lease of the stream, from 1 on; None if the stream is no fleet's.
        callbacks: Those of the stream's definition when this happened, for the plugin that posts to them.
            They hold secrets: no document of the event has them. None if it was read from a document.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: A text is empty that must not be, or not valid Unicode, or the time is out of range.
    """

    stream_id: str
    stream: str
    status: str
    reason: str
    before: str | None = None
    code: str | None = None
    time: float = field(default_factory=now)
    account_id: str | None = None
    event_id: str = field(default_factory=_new_id)
    epoch: int | None = None
    callbacks: Sequence[Any] | None = field(default=(), repr=False, compare=False)

    series: ClassVar[str] = STREAM_EVENT_NAME

    def __post_init__(self) -> None:
        size = _texts(self, "stream_id", "stream", "status", "event_id")
        size += _texts(self, "reason", may_be_empty=True)
        size += _optional_texts(self.before, self.code, self.account_id)
        _check_epoch(self.epoch)
        object.__setattr__(self, "time", _moment("time", self.time))
        object.__setattr__(self, "size", size + _NUMBER)

    @property
    def event_type(self) -> str:
        """``stream_`` and the status."""
        return f"stream_{self.status}"

    @property
    def tags(self) -> dict[str, str]:
        """What filters and taps know it by."""
        return {
            "stream_id": self.stream_id,
            "stream": self.stream,
            "event_type": self.event_type,
            "status": self.status,
        }

    @property
    def fields(self) -> dict[str, Any]:
        """The rest of it."""
        return _rest(self.as_dict(), self.tags)

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            **_head(self, self.time),
            "time": self.time,
            "status": self.status,
            "before": self.before,
            "code": self.code,
            "reason": self.reason,
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> StreamEvent:
        """Return the event of which this is the document.

        Raises:
            TypeError, ValueError: It is none.
        """
        return _made(cls, document, {})


@dataclass(frozen=True, slots=True)
class StreamAnalyticsEvent(_AnyStreamEvent):
    """What an analytics plugin has seen in a frame of a stream, as event plugins receive it. Immutable.

    Args:
        stream_id: The stream's id.
        stream: Its name.
        analytics: The name of the analytics plugin.
        event_type: As the analytics plugin calls it, such as ``motion_start``.
        frame: The number of the frame.
        time: The frame's, in Unix seconds.
        data: What the plugin says of it; anything that JSON can.
        image: A JPEG, or nothing.
        image_url: The path at which the service has the picture for a while, or nothing.
        image_size: Its bytes, also where the picture itself has been left out.
        number: Of the stream's events, from 1 on.
        created: When the service got it, in Unix seconds; kept to the millisecond.
        account_id: Whose stream it is, where the operator has set that.
        event_id: A UUID.
        epoch, callbacks: As `StreamEvent`'s.

    Raises:
        TypeError: An argument has the wrong type, or data what JSON cannot say.
        ValueError: A text is empty that must not be, or not valid Unicode; a number is not finite or needs
            more than 64 bits; data or picture are too large.
    """

    stream_id: str
    stream: str
    analytics: str
    event_type: str
    frame: int
    time: float
    data: Mapping[str, Any] = field(default_factory=dict)
    image: bytes = field(default=b"", repr=False)
    image_url: str = ""
    image_size: int = 0
    number: int = 0
    created: float = field(default_factory=now)
    account_id: str | None = None
    event_id: str = field(default_factory=_new_id)
    epoch: int | None = None
    callbacks: Sequence[Any] | None = field(default=(), repr=False, compare=False)

    series: ClassVar[str] = ANALYTICS_EVENT_NAME

    def __post_init__(self) -> None:
        size = _texts(self, "stream_id", "stream", "analytics", "event_type", "event_id")
        size += _optional_texts(self.account_id, self.image_url)
        _check_epoch(self.epoch)
        for name in ("frame", "number", "image_size"):
            if type(getattr(self, name)) is not int:
                raise TypeError(f"{name} is an int, not {type(getattr(self, name)).__name__}")
        if not isinstance(self.time, int | float) or not math.isfinite(self.time):
            raise ValueError("time is a finite number of Unix seconds")
        if not isinstance(self.image, bytes):
            raise TypeError(f"image is a JPEG as bytes, not {type(self.image).__name__}")
        if len(self.image) > MAX_IMAGE:
            raise ValueError(f"image has {len(self.image)} bytes; at most {MAX_IMAGE} are taken")
        data, data_size = read_only_data(self.data)
        object.__setattr__(self, "data", data)
        object.__setattr__(self, "image_size", len(self.image) or self.image_size)
        object.__setattr__(self, "created", _moment("created", self.created))
        object.__setattr__(self, "size", size + data_size + len(self.image) + 4 * _NUMBER)

    @property
    def tags(self) -> dict[str, str]:
        """What filters and taps know it by."""
        return {
            "stream_id": self.stream_id,
            "stream": self.stream,
            "analytics": self.analytics,
            "event_type": self.event_type,
        }

    @property
    def fields(self) -> dict[str, Any]:
        """The rest of it, without the picture itself."""
        return _rest(self.without_picture().as_dict(), self.tags)

    def without_picture(self) -> StreamAnalyticsEvent:
        """Return the event with the size and the address of the picture, but not the picture itself."""
        return replace(self, image=b"") if self.image else self

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON; the picture, if it is there, in base64."""
        image: dict[str, Any] | None = None
        if self.image_size:
            image = {"type": _IMAGE_TYPE, "size": self.image_size, "url": self.image_url or None}
        if self.image:
            image = {**(image or {}), "base64": base64.b64encode(self.image).decode()}
        return {
            **_head(self, self.created),
            "time": self.time,
            "number": self.number,
            "analytics": self.analytics,
            "frame": self.frame,
            "data": dict(self.data),
            "image": image,
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> StreamAnalyticsEvent:
        """Return the event of which this is the document; without a picture if that is not in it.

        Raises:
            TypeError, KeyError, ValueError: It is none.
        """
        image = document.get("image") or {}
        if not isinstance(image, Mapping):
            raise TypeError(f"image is an object or null, not {type(image).__name__}")
        created = datetime.fromisoformat(document["event_create_time"]).timestamp()
        return _made(
            cls,
            document,
            {
                "created": created,
                "image": base64.b64decode(image.get("base64", ""), validate=True),
                "image_url": image.get("url") or "",
                "image_size": image.get("size", 0),
            },
        )


def whole_event(event: Any) -> Any:
    """Return an event for all plugins, checked whatever its class.

    Raises:
        TypeError, ValueError: As its class says.
    """
    kind = StreamEvent if isinstance(event, StreamEvent) else StreamAnalyticsEvent
    if type(event) is kind and hasattr(event, "size"):
        return event
    try:
        return kind(**{each.name: getattr(event, each.name) for each in fields(kind)})
    except AttributeError as error:
        raise TypeError(f"a {type(event).__name__} that was not constructed: {error}") from None


def read_only_data(data: object) -> tuple[ReadOnlyDict, int]:
    """Return an event's data for any number of plugins, and roughly its size as JSON.

    Raises:
        TypeError, ValueError: As `StreamAnalyticsEvent` says; the message has the path of the value.
    """
    if not isinstance(data, Mapping):
        raise TypeError(f"data is a mapping, not {type(data).__name__}")
    frozen, size = _frozen("data", data, MAX_DEPTH)
    if size > MAX_DATA:
        raise ValueError(f"data is too large: {size} bytes; at most {MAX_DATA} are taken")
    return cast("ReadOnlyDict", frozen), size


def _frozen(path: str, value: object, depth: int) -> tuple[Any, int]:
    """Return a read-only copy of what JSON can say, and its size."""
    if value is None or isinstance(value, bool):
        return value, _NUMBER
    if isinstance(value, str):
        return str(value), text_size(path, value) + 2
    if isinstance(value, int):
        if abs(value) > _MOST_INT:
            raise ValueError(f"{path} does not fit into 64 bits")
        return int(value), _NUMBER
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{path} is not finite: {value}; leave it out instead")
        return float(value), _NUMBER
    if not isinstance(value, Mapping | list | tuple):
        raise TypeError(f"{path} is a {type(value).__name__}, which JSON cannot say")
    if depth <= 0:
        raise ValueError(f"{path} is nested too deeply; at most {MAX_DEPTH} levels are taken")
    if isinstance(value, Mapping):
        return _frozen_mapping(path, value, depth)
    items, size = [], 2
    for number, item in enumerate(value):
        frozen, more = _frozen(f"{path}.{number}", item, depth - 1)
        items.append(frozen)
        size += more + 1
    return tuple(items), size


def _frozen_mapping(path: str, value: Mapping[Any, Any], depth: int) -> tuple[Any, int]:
    found: dict[str, Any] = {}
    size = 2
    for key, item in value.items():
        if not isinstance(key, str):
            raise TypeError(f"{path} has a key that is a {type(key).__name__}; JSON's are texts")
        frozen, more = _frozen(f"{path}.{key}"[:200], item, depth - 1)
        found[str(key)] = frozen
        size += text_size(f"a key of {path}", key) + more + 4
    return ReadOnlyDict(found), size


def _head(event: StreamEvent | StreamAnalyticsEvent, created: float) -> dict[str, Any]:
    """Return how every document begins."""
    at = datetime.fromtimestamp(created, UTC).isoformat(timespec="milliseconds")
    return {
        "event_name": event.series,
        "event_id": event.event_id,
        "event_type": event.event_type,
        "event_create_time": at.replace("+00:00", "Z"),
        "account_id": event.account_id,
        "stream_id": event.stream_id,
        "stream": event.stream,
        "epoch": event.epoch,
    }


def _made(kind: type[T], document: Mapping[str, Any], more: Mapping[str, Any]) -> T:
    names = {each.name for each in fields(kind)}  # type: ignore[arg-type] # one of the two classes
    more = {**more, "callbacks": None}
    return kind(
        **{key: document[key] for key in names & document.keys() if key not in more}, **more
    )


def _rest(document: dict[str, Any], tags: Mapping[str, Any]) -> dict[str, Any]:
    left_out = {"event_name", "time", *tags}
    return {key: value for key, value in document.items() if key not in left_out}


def _moment(name: str, value: object) -> float:
    """Return a time to the millisecond, which is what documents say of it."""
    if not isinstance(value, int | float):
        raise TypeError(f"{name} is in Unix seconds, not {type(value).__name__}")
    if not 0 <= value <= _LATEST:
        raise ValueError(f"{name} is no time in Unix seconds: {value}")
    return round(float(value), 3)


def _texts(event: _AnyStreamEvent, *names: str, may_be_empty: bool = False) -> int:
    """Return the size of texts of an event, which have to be there."""
    size = 0
    for name in names:
        value = getattr(event, name)
        if not isinstance(value, str):
            raise TypeError(f"{name} is a str, not {type(value).__name__}")
        if not (value or may_be_empty):
            raise ValueError(f"{name} is empty")
        size += text_size(name, value)
    return size


def _optional_texts(*values: str | None) -> int:
    size = 0
    for value in values:
        if value is not None and not isinstance(value, str):
            raise TypeError(f"a text or None is needed, not {type(value).__name__}")
        size += text_size("a text", value or "")
    return size


def _check_epoch(epoch: object) -> None:
    if epoch is not None and type(epoch) is not int:
        raise TypeError(f"epoch is an int or None, not {type(epoch).__name__}")
