"""What is published of streams: each change an event; start, end and errors points."""

from __future__ import annotations

import pytest

from lva.video.codes import StreamState
from lva.video.publishing import event_of, points_of_change
from lva.video.record import StreamChange


def change(before: str | None, status: str, code: str | None = None) -> StreamChange:
    states = [None if state is None else StreamState(state) for state in (before, status)]
    assert states[1] is not None
    return StreamChange("7a", "d\ud800oor", 1_800_000_000.0, states[0], states[1], code, "so\udfff")


@pytest.mark.parametrize(
    ("before", "status", "code", "series"),
    [
        (None, "pending", None, []),
        ("pending", "in_progress", None, ["start"]),
        ("in_progress", "in_progress", None, []),  # another size of frames
        ("in_progress", "in_progress", "analytics_failed", ["error"]),
        ("in_progress", "restart", "stalled", ["error"]),
        ("in_progress", "restart", "end_of_stream", []),
        ("in_progress", "done", "end_of_stream", ["stop"]),
        ("pending", "failure", "not_found", ["stop", "error"]),
        ("in_progress", "stop", None, ["stop"]),
        ("in_progress", "paused", None, ["stop"]),
        (None, "stop", None, ["stop"]),
    ],
)
def test_start_end_and_error_are_points_and_each_change_an_event(before, status, code, series):
    """Kind: whatever a worker has sent as a reason, the change can be published."""
    made = change(before, status, code)
    points = [*points_of_change(made)]
    assert [point.series for point in points] == [f"stream_processing_{name}" for name in series]
    assert all(point.tags["stream"] == "d?oor" for point in points)
    event = event_of(made, "acme")
    assert (event.status, event.before, event.code, event.account_id) == (
        status,
        before,
        code,
        "acme",
    )
    assert (event.event_type, event.reason) == (f"stream_{status}", "so?")
