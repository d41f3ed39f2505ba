from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from lva.video.definition import Interval, StreamDefinition
from lva.video.schedule import is_working_time, works_at

MONDAY, SUNDAY = "2026-11-30", "2026-11-29"


@pytest.mark.parametrize(
    ("begin", "end", "days", "now", "works"),
    [
        ("08:00", "18:00", ["mon"], f"{MONDAY} 08:00", True),
        ("08:00", "18:00", ["mon"], f"{MONDAY} 18:00", False),
        ("08:00", "18:00", ["mon"], f"{SUNDAY} 12:00", False),
        ("22:00", "06:00", ["sun"], f"{SUNDAY} 23:00", True),
        ("22:00", "06:00", ["sun"], f"{MONDAY} 05:59", True),
        ("22:00", "06:00", ["sun"], f"{MONDAY} 06:00", False),
        ("22:00", "06:00", ["sun"], f"{SUNDAY} 05:00", False),
        ("22:00", "06:00", ["mon"], f"{MONDAY} 05:00", False),
    ],
)
def test_working_intervals(begin, end, days, now, works):
    interval = Interval.model_validate({"begin": begin, "end": end, "days": days})
    assert works_at([interval], datetime.fromisoformat(now)) is works


def test_without_intervals_it_always_works():
    assert works_at([], datetime.fromisoformat(MONDAY))


@pytest.mark.parametrize(
    ("begin", "end", "moment", "works"),
    [
        # In Berlin, 02:00 to 03:00 comes twice on 25 October 2026, and not at all on 29 March.
        ("02:15", "02:45", "2026-10-25T00:30+00:00", True),
        ("02:15", "02:45", "2026-10-25T01:30+00:00", True),
        ("02:15", "02:45", "2026-10-25T02:30+00:00", False),
        ("02:15", "02:45", "2026-03-29T01:15+00:00", False),
        ("01:00", "03:30", "2026-03-29T01:15+00:00", True),
        ("08:00", "18:00", "2026-07-01T06:30+00:00", True),
        ("08:00", "18:00", "2026-12-01T06:30+00:00", False),
        ("22:00", "06:00", "2026-10-25T04:30+00:00", True),
    ],
)
def test_hours_are_those_of_the_clock_on_the_wall(begin, end, moment, works):
    """The kind is a time zone whose clock is put back and forward."""
    interval = Interval.model_validate({"begin": begin, "end": end})
    now = datetime.fromisoformat(moment).astimezone(ZoneInfo("Europe/Berlin"))
    assert works_at([interval], now) is works


def test_a_day_may_be_whole():
    interval = Interval.model_validate({"begin": "00:00", "end": "24:00", "days": ["sun"]})
    at = (f"{SUNDAY} 00:00", f"{SUNDAY} 23:59", f"{MONDAY} 00:00", "2026-11-28 23:59")
    assert [works_at([interval], datetime.fromisoformat(text)) for text in at] == [
        True, True, False, False,
    ]  # fmt: skip


def test_the_zone_of_a_stream_counts():
    """The kind is a service that is elsewhere than its cameras: two zones that are never at the same hour."""
    day = datetime.now(ZoneInfo("Pacific/Kiritimati")).strftime("%a").lower()
    whole = [{"begin": "00:00", "end": "24:00", "days": [day]}]
    for zone, works in (("Pacific/Kiritimati", True), ("Pacific/Pago_Pago", False)):
        definition = StreamDefinition.model_validate(
            {"name": "a", "source": "test:", "schedule": whole, "time_zone": zone}
        )
        assert is_working_time(definition) is works
