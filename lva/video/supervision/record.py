"""What is told of a stream: each change of its state, and each event that an analytics plugin saw in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from lva.events.streams import StreamAnalyticsEvent
from lva.video.callbacks import Callback
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
        epoch: Of the agent's lease of the stream, in a fleet.
        callbacks: Those of its definition.
    """

    stream_id: str
    name: str
    time: float
    before: StreamState | None
    status: StreamState
    code: str | None
    reason: str
    epoch: int | None = None
    callbacks: Sequence[Callback] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "time": round(self.time, 3),
            "status": self.status.value,
            "before": None if self.before is None else self.before.value,
            "code": self.code,
            "reason": self.reason,
        }


class Listener(Protocol):
    """Who gets what happens; called in the service's thread, must not wait."""

    def changed(self, change: StreamChange) -> None:
        """A state was entered."""

    def seen(self, event: StreamAnalyticsEvent) -> None:
        """An analytics plugin saw something; the event has its picture, which is not for keeping."""
