"""Monitoring points, the series the service makes itself, and what a handler adds to its request's point."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, ClassVar, Final, NoReturn

#: What a tag or a field may hold.
Value = str | int | float

_LEAST_INT: Final = -(2**63)
_MOST_INT: Final = 2**63 - 1
#: Largest point, in bytes of its names and values.
MAX_SIZE: Final = 1024 * 1024
_NUMBER: Final = 8
#: How many characters of a series' name are shown in messages.
_NAME_SHOWN: Final = 100
#: Most bytes of tags, and of fields, that a handler adds.
_MAX_ADDITIONS: Final = MAX_SIZE // 4
#: The `service` tag of every point that the service makes.
SERVICE: Final = "luna-video-agent"
REQUESTS: Final = "requests"
ERRORS: Final = "errors"
#: Connections that the service itself closed or could not accept; the field `count` says how many.
CONNECTION_ERRORS: Final = "connection_errors"

#: Tags and fields of a request's points that only the service sets.
RESERVED: Final = frozenset(
    {"service", "route", "status_code", "error_code", "request_id", "execution_time"}
)


class ReadOnlyDict(dict[str, Value]):
    """A dict that refuses changes: every plugin is handed the same point.

    It stays a `dict`, so that `json.dumps` and `{**tags}` work as plugin authors expect.
    """

    __slots__ = ("size",)

    #: How many bytes its names and values take; set once they have been checked.
    size: int

    def _refuse(self, *_args: object, **_kwargs: object) -> NoReturn:
        raise TypeError("what is published is shared by all plugins: copy it first")

    __setitem__: ClassVar[Callable[..., NoReturn]] = _refuse
    __delitem__: ClassVar[Callable[..., NoReturn]] = _refuse
    __ior__: ClassVar[Callable[..., NoReturn]] = _refuse
    update: ClassVar[Callable[..., NoReturn]] = _refuse
    setdefault: ClassVar[Callable[..., NoReturn]] = _refuse
    pop: ClassVar[Callable[..., NoReturn]] = _refuse
    popitem: ClassVar[Callable[..., NoReturn]] = _refuse
    clear: ClassVar[Callable[..., NoReturn]] = _refuse

    def __reduce__(self) -> tuple[type, tuple[dict[str, Value]]]:
        """Pickle and deep-copy as a plain dict, which may be changed."""
        return dict, (dict(self),)


class Sized:
    """Has a size that is no part of what a point or an event says."""

    __slots__ = ("size",)

    #: Roughly how many bytes its names and values take.
    size: int


@dataclass(frozen=True, slots=True)
class MonitoringPoint(Sized):
    """One measurement, as event plugins receive it. Immutable.

    Args:
        series: Name of the series, for example ``requests``. Not empty.
        time: When the event started, in Unix seconds.
        tags: What monitoring systems index by.
        fields: What they store without an index.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: A name is empty, a number is not finite or needs more than 64 bits, a text is not
            valid Unicode, or the point is larger than `MAX_SIZE` bytes.
    """

    series: str
    time: float
    tags: Mapping[str, Value]
    fields: Mapping[str, Value]

    def __post_init__(self) -> None:
        if not isinstance(self.series, str):
            raise TypeError(f"series is a str, not {type(self.series).__name__}")
        if not self.series:
            raise ValueError("series is empty")
        try:
            tags, fields = self._checked()
        except (TypeError, ValueError) as error:
            raise type(error)(f"series {self.series[:_NAME_SHOWN]!r}: {error}") from None
        object.__setattr__(self, "tags", tags)
        object.__setattr__(self, "fields", fields)
        object.__setattr__(self, "size", _whole_size(self.series, tags, fields))

    def _checked(self) -> tuple[ReadOnlyDict, ReadOnlyDict]:
        """Return tags and fields that are right, once time and size are known to be so, too."""
        if not isinstance(self.time, int | float):
            raise TypeError(f"time is in Unix seconds, not {type(self.time).__name__}")
        try:
            finite = math.isfinite(self.time)
        except OverflowError:  # an int beyond what a float holds
            finite = False
        if not finite:
            raise ValueError("time is not finite")
        tags, fields = read_only("tags", self.tags), read_only("fields", self.fields)
        if (size := _whole_size(self.series, tags, fields)) > MAX_SIZE:
            raise ValueError(f"the point is too large: {size} bytes; at most {MAX_SIZE} are taken")
        return tags, fields

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON; plain dictionaries are encoded twice as fast."""
        tags, fields = dict(self.tags), dict(self.fields)
        return {"series": self.series, "time": self.time, "tags": tags, "fields": fields}

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        """Copy and pickle through the constructor."""
        return MonitoringPoint, (self.series, self.time, dict(self.tags), dict(self.fields))


def whole(point: MonitoringPoint) -> MonitoringPoint:
    """Return a point of a derived class, or one that was made without its constructor, for all plugins.

    Such a class may have left out the checks, or have changed the point since.

    Args:
        point: It.

    Returns:
        The point, if it is as `MonitoringPoint` would have made it; else a copy that is.

    Raises:
        TypeError, ValueError: As `MonitoringPoint` says.
    """
    try:
        plain = MonitoringPoint(point.series, point.time, point.tags, point.fields)
    except AttributeError as error:
        raise TypeError(f"a {type(point).__name__} that was not constructed: {error}") from None
    as_made = point.tags is plain.tags and point.fields is plain.fields
    return point if as_made and getattr(point, "size", None) == plain.size else plain


def read_only(what: str, values: Mapping[str, Value]) -> ReadOnlyDict:
    """Return tags or fields for any number of points, or those of another point as they are.

    Args:
        what: ``tags`` or ``fields``, for messages.
        values: They.

    Raises:
        TypeError, ValueError: As `MonitoringPoint` says.
    """
    if type(values) is ReadOnlyDict and hasattr(values, "size"):
        return values
    frozen = ReadOnlyDict(values)
    for name, value in frozen.items():
        if not isinstance(name, str):
            raise TypeError(f"{what} have names of type str, not {type(name).__name__}")
        if not name:
            raise ValueError(f"{what} have an empty name")
        if type(value) is not str or not value.isascii():  # else there is nothing to check
            _check_value(what, value, name)
    frozen.size = _size(what, frozen)
    return frozen


def _check_value(group: str, value: object, name: str) -> None:
    if type(value) is float and math.isfinite(value):
        return
    what = f"{group}[{name!r}]" if group else repr(name)
    if not isinstance(value, str | int | float):
        raise TypeError(f"{what} must be a str, int or float, not {type(value).__name__}")
    if isinstance(value, int) and not _LEAST_INT <= value <= _MOST_INT:
        raise ValueError(f"{what} does not fit into 64 bits, as monitoring systems need it")
    if isinstance(value, str):
        text_size(what, value)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{what} is not finite: {value}; leave it out instead")


def _whole_size(series: str, tags: ReadOnlyDict, fields: ReadOnlyDict) -> int:
    return text_size("series", series) + _NUMBER + tags.size + fields.size


def _size(what: str, values: Mapping[str, Value]) -> int:
    size = 0
    for name, value in values.items():
        size += text_size(what, name)
        size += text_size(what, value) if isinstance(value, str) else _NUMBER
    return size


def text_size(what: str, text: str) -> int:
    """Return the size of a text in UTF-8, which is how all monitoring systems want it."""
    if text.isascii():
        return len(text)
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise ValueError(f"{what}: not valid Unicode ({error.reason})") from None


class PointAdditions:
    """What the handler of a request adds to the request's point."""

    __slots__ = ("fields", "tags")

    def __init__(self) -> None:
        self.tags: dict[str, Value] = {}
        self.fields: dict[str, Value] = {}


_additions: ContextVar[PointAdditions | None] = ContextVar("lva_point_additions", default=None)


def collect_additions() -> PointAdditions:
    """Collect, from now on in this task's context, what handlers add to their request's point."""
    additions = PointAdditions()
    _additions.set(additions)
    return additions


def add_point_tags(**tags: Value) -> None:
    """Add tags to the points of the request being handled.

    Works in the handler, in the tasks it starts and in worker threads it calls.

    Raises:
        RuntimeError: No request is being handled.
        ValueError: A name is one that the service sets itself, or a value cannot be in a point.
        TypeError: A value is no str, int or float.
    """
    tags_so_far = _current().tags
    tags_so_far.update(_checked(tags, tags_so_far))


def add_point_fields(**fields: Value) -> None:
    """Add fields to the points of the request being handled; as `add_point_tags` otherwise."""
    fields_so_far = _current().fields
    fields_so_far.update(_checked(fields, fields_so_far))


def _current() -> PointAdditions:
    additions = _additions.get()
    if additions is None:
        raise RuntimeError("no request is being handled here, so there is no point to add to")
    return additions


def _checked(values: Mapping[str, Any], known: Mapping[str, Value]) -> Mapping[str, Value]:
    for name, value in values.items():
        if name in RESERVED:
            raise ValueError(f"{name!r} is set by the service; choose another name")
        _check_value("", value, name)
    if _size("tags and fields", {**known, **values}) > _MAX_ADDITIONS:
        raise ValueError(f"a request's point takes at most {_MAX_ADDITIONS} bytes from its handler")
    return values
