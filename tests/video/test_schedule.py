from datetime import datetime

import pytest

from lva.video.definition import Interval
from lva.video.schedule import works_at

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
