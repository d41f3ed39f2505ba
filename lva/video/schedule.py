"""Working intervals of a stream."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from lva.video.definition import Interval

_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def works_at(schedule: Sequence[Interval], now: datetime) -> bool:
    """Return whether a stream with this schedule works at this local time; always if it is empty.

    An interval whose end is before its begin goes on into the next day.
    """
    return not schedule or any(_within(interval, now) for interval in schedule)


def _within(interval: Interval, now: datetime) -> bool:
    today, yesterday = _DAYS[now.weekday()], _DAYS[(now - timedelta(days=1)).weekday()]
    at = now.time()
    if interval.begin < interval.end:
        return today in interval.days and interval.begin <= at < interval.end
    return (today in interval.days and at >= interval.begin) or (
        yesterday in interval.days and at < interval.end
    )
