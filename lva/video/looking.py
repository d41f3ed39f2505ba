"""What analytics plugins share that look now and then, rather than at every frame."""

from __future__ import annotations

from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field


class LookingConfig(BaseModel):
    """The parameters of a plugin that looks now and then."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    interval: float = Field(
        0.5, ge=0, le=3600, description="Seconds between two looks; frames between are left out."
    )
    image: bool = Field(True, description="Whether an event of a start has a JPEG of the frame.")


class Looks:
    """Tells which frames are looked at.

    Args:
        interval: Seconds between two looks.
    """

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._last: float | None = None

    def is_due(self, pts: float) -> bool:
        """Return whether the frame of this time is looked at; one that is earlier than the last one is."""
        if self._last is not None and 0 <= pts - self._last < self._interval:
            return False
        self._last = pts
        return True
