"""What is published of streams: each change an event; start, end and errors points."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lva import StreamAnalyticsEvent
from lva.video.codes import StreamState
from lva.video.reporting.publishing import event_of, point_of_event, points_of_change
from lva.video.supervision.record import StreamChange
from tests.event_samples import SEEN


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


def test_the_epoch_of_a_lease_is_in_all_that_is_published() -> None:
    """The kind is a late holder's: a receiver can tell that it is one."""
    made = replace(change("in_progress", "failure", "not_found"), epoch=7)
    assert event_of(made, None).as_dict()["epoch"] == 7
    assert [point.fields["epoch"] for point in points_of_change(made)] == [7, 7]
    seen = replace(SEEN, epoch=7)
    assert StreamAnalyticsEvent.from_dict(seen.as_dict()).epoch == 7
    assert point_of_event(seen).fields == {"frame": 3, "epoch": 7}
    assert point_of_event(SEEN).fields == {"frame": 3}
