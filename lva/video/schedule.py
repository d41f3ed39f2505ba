"""Working intervals of a stream, by the clock on the wall.

Where that clock is put back, the hour that comes twice counts twice; what it leaves out when it is put
forward does not come.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from lva.video.definition import DAYS, Interval, StreamDefinition


def is_working_time(definition: StreamDefinition) -> bool:
    """Return whether a stream is to be worked on now."""
    zone = None if definition.time_zone is None else ZoneInfo(definition.time_zone)
    return works_at(definition.schedule, datetime.now(zone))


def works_at(schedule: Sequence[Interval], now: datetime) -> bool:
    """Return whether a stream with this schedule works at this local time; always if it is empty.

    An interval whose end is not after its begin goes on into the next day.
    """
    return not schedule or any(_within(interval, now) for interval in schedule)


def _within(interval: Interval, now: datetime) -> bool:
    today, yesterday = DAYS[now.weekday()], DAYS[(now - timedelta(days=1)).weekday()]
    at = now.time()
    if interval.begin < interval.end:
        return today in interval.days and interval.begin <= at < interval.end
    return (today in interval.days and at >= interval.begin) or (
        yesterday in interval.days and at < interval.end
    )
