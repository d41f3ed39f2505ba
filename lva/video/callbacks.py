"""Callbacks of streams: whom to tell of which events. `callbacks` in a stream's definition says it.

Their addresses and headers are secrets: what shows a definition masks them.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final, Literal, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    SerializationInfo,
    WithJsonSchema,
    field_validator,
    model_serializer,
    model_validator,
)

from lva.events.streams import StreamAnalyticsEvent, StreamEvent
from lva.http_targets import check_headers, check_url

#: Most callbacks of a stream.
MOST: Final = 10
#: The context in which a definition is written with its secrets, to where it is kept.
WITH_SECRETS: Final = {"secrets": True}
_MASK: Final = "***"
_LONGEST: Final = 4096

Event: TypeAlias = StreamEvent | StreamAnalyticsEvent


def _serialized(value: SecretStr, info: SerializationInfo) -> str:
    context = info.context
    kept = isinstance(context, dict) and context.get("secrets")
    return value.get_secret_value() if kept else _MASK


#: Its schema is that of a text which is shown as well as given: pydantic's own says that it is never shown.
Secret = Annotated[
    SecretStr,
    PlainSerializer(_serialized, return_type=str),
    WithJsonSchema({"type": "string", "maxLength": _LONGEST}),
]
Pattern = Annotated[str, Field(min_length=1, max_length=200)]


class _CallbackPart(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")


def _of_one_value(value: Any) -> Any:
    """Refuse what is none, once rather than for each type that there is."""
    if value is not None and not isinstance(value, str | bool | int | float):
        raise ValueError("it is a text, a number, true, false or null")
    return value


class Where(_CallbackPart):
    """What a value of the event's document has to be."""

    path: str = Field(
        min_length=1,
        max_length=500,
        description="Names and numbers with dots between them: data.area, data.boxes.0.x, status.",
    )
    equals: Annotated[str | bool | int | float | None, BeforeValidator(_of_one_value)] = Field(
        None, description="It is this value."
    )
    greater: float | None = Field(None, allow_inf_nan=False, description="A number above this.")
    less: float | None = Field(None, allow_inf_nan=False, description="A number below this.")

    @model_validator(mode="after")
    def _asks(self) -> Where:
        asked = self.model_fields_set - {"path"}
        if not asked or ("equals" in asked and len(asked) > 1):
            raise ValueError("give either equals, or greater, less or both")
        return self

    @model_serializer
    def _only_said(self) -> dict[str, Any]:
        """Serialize what was said: that a value equals null is not that nothing is said of it."""
        return {
            name: getattr(self, name)
            for name in type(self).model_fields
            if name in self.model_fields_set
        }

    def holds(self, document: Mapping[str, Any]) -> bool:
        """Return whether the value is there and is as asked."""
        value: Any = document
        for part in self.path.split("."):
            if isinstance(value, Mapping) and part in value:
                value = value[part]
            elif isinstance(value, list | tuple) and part.isdecimal() and int(part) < len(value):
                value = value[int(part)]
            else:
                return False
        if "equals" in self.model_fields_set:
            # True is no 1 here, as in JSON.
            return bool(
                isinstance(value, bool) == isinstance(self.equals, bool) and value == self.equals
            )
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return (self.greater is None or value > self.greater) and (
            self.less is None or value < self.less
        )


class Conditions(_CallbackPart):
    """Which events a callback gets: those of which all that is said here is so."""

    event_types: list[Pattern] = Field(
        [],
        max_length=50,
        description="Patterns (* ? [abc]), one of which is the event_type: motion_*, stream_failure.",
    )
    analytics: list[Pattern] = Field(
        [], max_length=50, description="Names of analytics plugins, one of which saw it."
    )
    where: list[Where] = Field(
        [],
        max_length=20,
        description="What values of the event's document are: path, equals, greater, less.",
    )

    def hold(self, event: Event) -> bool:
        """Return whether an event is asked for."""
        if self.event_types and not any(
            fnmatch.fnmatchcase(event.event_type, pattern) for pattern in self.event_types
        ):
            return False
        if self.analytics and event.tags.get("analytics") not in self.analytics:
            return False
        if not self.where:
            return True
        bare = event.without_picture() if isinstance(event, StreamAnalyticsEvent) else event
        document = bare.as_dict()
        return all(each.holds(document) for each in self.where)


class Callback(_CallbackPart):
    """One receiver of a stream's events."""

    type: Literal["http"] = Field(description="http: each event is posted as JSON.")
    url: Secret = Field(description="Where to, http:// or https://. Never shown.")
    headers: dict[str, Secret] = Field(
        {}, max_length=50, description="More headers; values are never shown."
    )
    params: dict[str, Secret] = Field(
        {}, max_length=50, description="What is added to the URL's query; values are never shown."
    )
    picture: bool = Field(True, description="Whether the picture is sent with the event.")
    conditions: Conditions = Field(
        Conditions(), description="Which events: event_types, analytics, where; all, if left out."
    )

    @field_validator("url")
    @classmethod
    def _check_url(cls, value: SecretStr) -> SecretStr:
        check_url(_plain(value))
        return value

    @field_validator("headers")
    @classmethod
    def _check_headers(cls, headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
        check_headers({name: _plain(value) for name, value in headers.items()})
        return headers

    @field_validator("params")
    @classmethod
    def _check_params(cls, params: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for value in params.values():
            _plain(value)
        return params


def _plain(value: SecretStr) -> str:
    """Return a secret, unless it is what a definition shows in its place."""
    text = value.get_secret_value()
    if text == _MASK:
        raise ValueError("this is a masked value; give the value itself")
    if len(text) > _LONGEST:
        raise ValueError(f"it is too long; at most {_LONGEST} characters are taken")
    return text


def unmasked(given: Any, present: Sequence[Callback]) -> Any:
    """Return callbacks as they are given, with the present ones' secrets where those are masked.

    Only for the address that a callback has: another one is not told the keys of the one before.

    Args:
        given: What is given as ``callbacks``.
        present: Those of the definition so far, in their places.
    """
    if not isinstance(given, list):
        return given
    numbered = enumerate(given)
    return [_filled(each, present[n]) if n < len(present) else each for n, each in numbered]


def _filled(given: Any, present: Callback) -> Any:
    kept = present.model_dump(context=WITH_SECRETS)
    if not isinstance(given, dict) or given.get("url") not in (_MASK, kept["url"]):
        return given
    filled = {**given, "url": kept["url"]}
    for name in {"headers", "params"} & given.keys():
        if isinstance(given[name], dict):
            filled[name] = {
                key: kept[name].get(key, value) if value == _MASK else value
                for key, value in given[name].items()
            }
    return filled
