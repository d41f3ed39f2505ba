"""What a stream is, as a user defines it: the body of ``POST /streams``."""

from __future__ import annotations

import datetime as dt
import json
import re
from typing import Annotated, Any, ClassVar, Literal
from zoneinfo import ZoneInfo

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

from lva.routes.wrong_keys import wrong_keys
from lva.video.board import MOST_ANALYTICS
from lva.video.callbacks import MOST as MOST_CALLBACKS
from lva.video.callbacks import Callback
from lva.video.shapes import Rectangle

#: Days of the week, as `Interval` has them.
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
#: What an agent of a fleet says that it can do.
Label = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]


class Strict(BaseModel):
    """Refuses unknown keys."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")


class AnalyticsUse(Strict):
    """One analytics plugin on a stream."""

    name: str = Field(max_length=200, description="The plugin's name, as GET /analytics lists it.")
    parameters: dict[str, Any] = Field(
        {}, description="They take precedence over `[plugins.NAME.config]`."
    )


class Rate(Strict):
    """Which frames are looked at."""

    unit: Literal["fps", "frame", "key"] = Field(
        description="fps: value frames a second; frame: every value-th; key: key frames."
    )
    value: float = Field(1, ge=1e-5, le=1000)

    @field_validator("value")
    @classmethod
    def _of_its_unit(cls, value: float, info: ValidationInfo) -> float:
        if info.data.get("unit") == "frame" and not value.is_integer():
            raise ValueError("it is a whole number where unit is frame")
        if info.data.get("unit") == "key" and value != 1:
            raise ValueError("leave it out where unit is key")
        return value


class Retry(Strict):
    """How often a connection is made again."""

    attempt_count: int | None = Field(
        None, ge=0, description="Most attempts in a row; no limit if null."
    )
    delay: float = Field(
        1.0,
        ge=0.1,
        le=3600,
        description="Seconds before the first; doubled, with jitter, up to 60.",
    )


class Autorestart(Strict):
    """How often a stream that has failed is started again."""

    attempt_count: int | None = Field(
        None, ge=1, description="Most attempts in a row; no limit if null."
    )
    delay: float = Field(60.0, ge=0.1, le=86_400, description="Seconds before each, with jitter.")


_CLOCK = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9])?")
_CLOCK_OR_END = re.compile(rf"{_CLOCK.pattern}|24:00(:00)?")


def _written(pattern: re.Pattern[str]) -> tuple[BeforeValidator, WithJsonSchema]:
    """Return what reads a time of the day that is written like this; 24:00 is the next midnight."""

    def parse(value: Any) -> dt.time:
        if isinstance(value, dt.time):
            return value
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise ValueError(
                "it is a time such as 08:00; leave the time zone out, time_zone counts"
            )
        return dt.time() if value.startswith("24") else dt.time.fromisoformat(value)

    schema = {"type": "string", "pattern": f"^({pattern.pattern})$"}
    return BeforeValidator(parse), WithJsonSchema(schema)


class Interval(Strict):
    """When the stream is worked on; one whose end is before its begin goes on into the next day."""

    begin: Annotated[dt.time, *_written(_CLOCK)]
    end: Annotated[dt.time, *_written(_CLOCK_OR_END)] = Field(
        description="24:00 is the end of the day."
    )
    days: list[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]] = Field(
        [*DAYS],  # type: ignore[list-item] # they are these
        min_length=1,
        description="Days on which it begins.",
    )

    @field_validator("end")
    @classmethod
    def _some_time(cls, value: dt.time, info: ValidationInfo) -> dt.time:
        if value == info.data.get("begin") != dt.time(0):
            raise ValueError("it is the same as begin; leave the schedule out for always")
        return value


def _as_autorestart(value: Any) -> Any:
    """Return what a plain true or false means."""
    return {True: {}, False: None}[value] if isinstance(value, bool) else value


_LINE = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]*")


def _or_boolean(schema: dict[str, Any]) -> None:
    schema["anyOf"].append({"type": "boolean"})


class StreamDefinition(Strict):
    """A stream: where frames come from, and who looks at which of them."""

    name: str = Field(
        min_length=1,
        max_length=200,
        description="Its name, for people.",
        json_schema_extra={"pattern": f"^{_LINE.pattern}$"},
    )
    source: str = Field(min_length=1, max_length=4096, description="An address, a file, or test:.")
    analytics: list[AnalyticsUse] = Field(
        [],
        max_length=MOST_ANALYTICS,
        description="Who looks at its frames: name and parameters of each plugin.",
    )
    roi: Rectangle | None = Field(
        None, description="x, y, width, height and mode of the part that is looked at."
    )
    droi: Rectangle | None = Field(
        None, description="The same, for the part within roi where what is seen counts."
    )
    rate: Rate | None = Field(
        None, description="unit (fps, frame, key) and value; all frames if left out."
    )
    schedule: list[Interval] = Field(
        [],
        max_length=50,
        description="Intervals of begin, end, and days; always, if empty.",
    )
    time_zone: str | None = Field(
        None,
        max_length=100,
        description="Of the schedule, such as Europe/Berlin; the service's own if left out.",
    )
    eof_retry: Retry = Field(
        Retry(), description="attempt_count and delay after a live source ended; a file is done."
    )
    decode_error_retry: Retry = Field(
        default_factory=Retry,
        description="The same after any other failure; for a file, after one of its worker only.",
    )
    autorestart: Annotated[Autorestart | None, BeforeValidator(_as_autorestart)] = Field(
        None,
        description="attempt_count and delay once the stream has failed; it stays so if left out.",
        json_schema_extra=_or_boolean,
    )
    timeout: float = Field(3.0, ge=0.1, le=600, description="Most seconds without data at first.")
    same_picture_limit: float | None = Field(
        60.0,
        ge=1,
        le=86_400,
        description="Seconds that a live picture may stay the same without a warning; never if null.",
    )
    analytics_timeout: float = Field(
        10.0,
        ge=0.1,
        le=3600,
        description="Seconds that one call of an analytics plugin may take; loading it, 120 at least.",
    )
    memory_limit: int = Field(
        1024**3,
        ge=64 * 1024**2,
        le=2**50,
        description="Most bytes of resident memory of the worker.",
    )
    priority: int = Field(
        10, ge=0, le=19, description="Niceness of the worker: 19 gives way to everything else."
    )
    labels: list[Label] = Field(
        [],
        max_length=100,
        description="In a fleet, only agents that have all of these labels work on it.",
    )
    callbacks: list[Callback] = Field(
        [],
        max_length=MOST_CALLBACKS,
        description="Where its events are posted: type, url, headers, params, picture, conditions.",
    )

    @property
    def analytics_names(self) -> list[str]:
        """The analytics plugins that it names."""
        return [use.name for use in self.analytics]

    @field_validator("name")
    @classmethod
    def _one_line(cls, value: str) -> str:
        if not _LINE.fullmatch(value):
            raise ValueError("it is one line, without control characters")
        return value

    @field_validator("analytics")
    @classmethod
    def _each_once(cls, value: list[AnalyticsUse]) -> list[AnalyticsUse]:
        names = [use.name for use in value]
        if len(set(names)) < len(names):
            raise ValueError("name each plugin once")
        return value

    @field_validator("droi")
    @classmethod
    def _within_roi(cls, value: Rectangle | None, info: ValidationInfo) -> Rectangle | None:
        roi = info.data.get("roi")
        if value is not None and roi is not None:
            if value.mode != roi.mode:
                raise ValueError("give it the mode of roi")
            (left, top), _, (right, bottom), _ = roi.corners()
            if not all(left <= x <= right and top <= y <= bottom for x, y in value.corners()):
                raise ValueError("it is not within roi")
        return value

    @field_validator("time_zone")
    @classmethod
    def _known(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None:
            return None
        if not info.data.get("schedule"):
            raise ValueError("leave it out where there is no schedule")
        try:
            ZoneInfo(value)
        except (LookupError, ValueError, OSError):
            raise ValueError("there is no such time zone on this machine") from None
        return value


def parse_definition(body: Any) -> StreamDefinition:
    """Return the definition that a body is.

    Raises:
        WrongKeysError: It is none.
    """
    if isinstance(body, StreamDefinition):
        return body
    try:
        return StreamDefinition.model_validate_json(json.dumps(body), strict=True)
    except ValidationError as error:
        raise wrong_keys(error, body, StreamDefinition.model_fields) from None
