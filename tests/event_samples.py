"""An item of each event type."""

from __future__ import annotations

import json
from typing import Any

from lva import MonitoringPoint, StreamAnalyticsEvent, StreamEvent

JPEG = b"\xff\xd8" + bytes(1000)
POINT = MonitoringPoint("n", 1.0, {"t": "x"}, {"v": 1})
CHANGE = StreamEvent("7a", "door", "failure", "no answer", "pending", "timeout", 1_800_000_000.25)
SEEN = StreamAnalyticsEvent(
    "7a", "door", "motion", "motion_start", 3, 1_800_000_000.5, {"boxes": [{"x": 1, "ü": None}]}, JPEG,
    "/streams/7a/events/1.jpg", 1, account_id="acme",
)  # fmt: skip
ITEMS: dict[str, Any] = {"monitoring_event": POINT, "stream_event": CHANGE, "analytics_event": SEEN}


def documents(*items: Any) -> list[Any]:
    """Return the JSON of items as it is read."""
    return [json.loads(json.dumps(item.as_dict())) for item in items]
