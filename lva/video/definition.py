"""What a stream is, as a user defines it: the body of ``POST /streams``."""

from __future__ import annotations

import datetime as dt
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Strict(BaseModel):
    """Refuses unknown keys."""

    model_config = ConfigDict(extra="forbid")


class AnalyticsUse(Strict):
    """One analytics plugin on a stream."""

    name: str = Field(description="The plugin's name, as GET /analytics lists it.")
    parameters: dict[str, Any] = Field({}, description="Over `[plugins.NAME.config]`.")


class Rectangle(Strict):
    """A part of the picture, in pixels."""

    x: int = Field(0, ge=0)
    y: int = Field(0, ge=0)
    width: int = Field(ge=1)
    height: int = Field(ge=1)


class Rate(Strict):
    """Which frames are looked at."""

    unit: Literal["fps", "frame", "key"] = Field(
        description="fps: value frames a second; frame: every value-th; key: key frames."
    )
    value: float = Field(1, gt=0, le=1000)

    @model_validator(mode="after")
    def _whole(self) -> Rate:
        if self.unit == "frame" and not self.value.is_integer():
            raise ValueError("value is a whole number where unit is frame")
        return self


class Retry(Strict):
    """How often a connection is made anew."""

    attempt_count: int | None = Field(
        None, ge=0, description="Most attempts in a row; no limit if null."
    )
    delay: float = Field(
        1.0,
        ge=0.1,
        le=3600,
        description="Seconds before the first; doubled, with jitter, up to 60.",
    )


class Interval(Strict):
    """When the stream is worked on, in local time."""

    begin: dt.time
    end: dt.time
    days: list[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]] = Field(
        ["mon", "tue", "wed", "thu", "fri", "sat", "sun"], min_length=1
    )

    @model_validator(mode="after")
    def _some_time(self) -> Interval:
        if self.begin.tzinfo or self.end.tzinfo:
            raise ValueError("begin and end are in local time; leave the time zone out")
        if self.begin == self.end:
            raise ValueError("begin and end are the same; leave the schedule out for always")
        return self


class StreamDefinition(Strict):
    """A stream: where frames come from, and who looks at which of them."""

    name: str = Field(min_length=1, max_length=200, description="Its name, for people.")
    source: str = Field(min_length=1, max_length=4096, description="An address, a file, or test:.")
    analytics: list[AnalyticsUse] = Field(
        [],
        max_length=50,
        description="Who looks at its frames: name and parameters of each plugin.",
    )
    roi: Rectangle | None = Field(
        None, description="x, y, width and height in pixels of the part that is looked at."
    )
    rate: Rate | None = Field(
        None, description="unit (fps, frame, key) and value; all frames if left out."
    )
    schedule: list[Interval] = Field(
        [],
        max_length=50,
        description="Intervals of begin, end, and days in local time; always, if empty.",
    )
    eof_retry: Retry = Field(Retry(), description="After the end of a live source; a file is done.")
    decode_error_retry: Retry = Field(
        default_factory=Retry, description="attempt_count and delay after any other failure."
    )
    autorestart: bool = Field(True, description="Start the worker again when it dies.")
    timeout: float = Field(3.0, ge=0.1, le=600, description="Seconds without data.")
    analytics_timeout: float = Field(
        10.0, ge=0.1, le=3600, description="Seconds that one call of an analytics plugin may take."
    )
    memory_limit: int = Field(
        1024**3, ge=64 * 1024**2, description="Bytes of resident memory of the worker."
    )

    @model_validator(mode="after")
    def _each_once(self) -> StreamDefinition:
        names = [use.name for use in self.analytics]
        if len(set(names)) < len(names):
            raise ValueError("analytics: name each plugin once")
        return self
