"""What is published of streams: events, and points of the monitoring series."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from lva.events.points import SERVICE, MonitoringPoint, Value
from lva.events.streams import StreamAnalyticsEvent, StreamEvent
from lva.video.codes import StreamState
from lva.video.supervision.record import StreamChange

#: The series of points when frames begin to come, when work on a stream has ended, and of what went wrong.
STARTED: Final = "stream_processing_start"
ENDED: Final = "stream_processing_stop"
FAILED: Final = "stream_processing_error"
#: That of what analytics plugins see.
SEEN: Final = "analytics"
_ENDS: Final = {StreamState.STOP, StreamState.PAUSED, StreamState.DONE, StreamState.FAILURE}
_LONGEST: Final = 1000


def event_of(change: StreamChange, account_id: str | None) -> StreamEvent:
    """Return the event of a change of a stream's state."""
    return StreamEvent(
        change.stream_id,
        _clean(change.name),
        change.status.value,
        _clean(change.reason),
        None if change.before is None else change.before.value,
        change.code,
        change.time,
        account_id,
        epoch=change.epoch,
        callbacks=change.callbacks,
    )


def points_of_change(change: StreamChange) -> Iterator[MonitoringPoint]:
    """Yield the points of a change: of a start, of an end, and of an error, as far as it is one."""
    tags: dict[str, Value] = {
        "service": SERVICE,
        "stream_id": change.stream_id,
        "stream": _clean(change.name),
    }
    fields: dict[str, Value] = {"reason": _clean(change.reason), **_epoch(change.epoch)}
    if change.status is not change.before:
        if change.status is StreamState.IN_PROGRESS:
            yield MonitoringPoint(STARTED, change.time, tags, fields)
        elif change.status in _ENDS:
            ended = {**tags, "status": change.status.value}
            yield MonitoringPoint(ENDED, change.time, ended, fields)
    if change.code is not None and change.code != "end_of_stream":
        yield MonitoringPoint(FAILED, change.time, {**tags, "error_code": change.code}, fields)


def point_of_event(event: StreamAnalyticsEvent) -> MonitoringPoint:
    """Return the point of what an analytics plugin saw: that it did, without what it was."""
    fields: dict[str, Value] = {"frame": event.frame, **_epoch(event.epoch)}
    return MonitoringPoint(SEEN, event.time, event.tags, fields)


def _epoch(epoch: int | None) -> dict[str, Value]:
    return {} if epoch is None else {"epoch": epoch}


def _clean(text: str) -> str:
    """Return a text that can be in a point: a worker may have sent anything."""
    return text[:_LONGEST].encode(errors="replace").decode()
