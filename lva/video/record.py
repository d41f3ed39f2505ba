"""What is told of a stream: each change of its state, and each event that an analytics plugin saw in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from lva.video.codes import StreamState


@dataclass(frozen=True, slots=True)
class StreamChange:
    """A change of a stream's state.

    Attributes:
        stream_id, name: The stream's.
        time: In Unix seconds.
        before, status: The states.
        code: Of `lva.video.codes.CODES`, if something went wrong or ended.
        reason: In words.
    """

    stream_id: str
    name: str
    time: float
    before: StreamState | None
    status: StreamState
    code: str | None
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "time": round(self.time, 3),
            "status": self.status.value,
            "before": None if self.before is None else self.before.value,
            "code": self.code,
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True)
class SeenEvent:
    """What an analytics plugin has seen in one frame of a stream.

    Attributes:
        number: Of the stream's events, from 1 on.
        event_type, data, image: As the plugin gave them.
        stream_id, name: The stream's.
        analytics: The plugin's name.
        frame: The frame's number.
        time: The frame's, in Unix seconds.
    """

    number: int
    event_type: str
    stream_id: str
    name: str
    analytics: str
    frame: int
    time: float
    data: Mapping[str, Any]
    image: bytes

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON, without the picture."""
        return {
            "number": self.number,
            "event_type": self.event_type,
            "stream_id": self.stream_id,
            "stream": self.name,
            "analytics": self.analytics,
            "frame": self.frame,
            "time": round(self.time, 3),
            "data": dict(self.data),
            "image": bool(self.image),
        }


class Listener(Protocol):
    """Who gets what happens; called in the service's thread, must not wait."""

    def changed(self, change: StreamChange) -> None:
        """A state was entered."""

    def seen(self, event: SeenEvent) -> None:
        """An analytics plugin saw something."""
