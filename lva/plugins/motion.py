"""Sees motion: the start and the end of it, from how much of the picture differs from its background."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from lva import AnalyticsEvent, AnalyticsStream, BaseAnalyticsPlugin

if TYPE_CHECKING:
    from lva.video.frame import Frame

#: Longest edge of what is compared, in pixels.
COMPARED = 160


class Config(BaseModel):
    """The parameters of `motion`."""

    model_config = ConfigDict(extra="forbid")

    threshold: int = Field(
        20, ge=1, le=255, description="How much a pixel's brightness must differ, of 255."
    )
    min_area: float = Field(
        0.005, gt=0, le=1, description="The share of the picture that must differ."
    )
    learning_rate: float = Field(
        0.05, gt=0, le=1, description="How much of each frame goes into the background."
    )
    start_frames: int = Field(2, ge=1, le=100, description="Frames with motion until it starts.")
    end_seconds: float = Field(2.0, ge=0, le=3600, description="Seconds without it until it ends.")
    image: bool = Field(True, description="Whether the start has a JPEG of the frame.")


class Motion(BaseAnalyticsPlugin):
    """Compares each frame with a background that follows slowly: a running average of brightness."""

    Config: ClassVar[type[BaseModel] | None] = Config

    def __init__(self, config: Any, logger: logging.Logger) -> None:
        super().__init__(config, logger)
        self._background: Any = None
        self._in_row = 0
        self._moving = False
        self._last = 0.0
        self._since = 0.0

    def open(self, stream: AnalyticsStream) -> None:
        """Check that NumPy is there."""
        import numpy as np

        self._numpy = np

    def handleFrame(self, frame: Frame) -> Iterator[AnalyticsEvent]:
        """Yield ``motion_start`` and ``motion_end``, with the share of the picture and where it moved."""
        share, box = self._difference(frame)
        if share >= self.config.min_area:
            self._in_row += 1
            self._last = frame.pts
            if not self._moving and self._in_row >= self.config.start_frames:
                self._moving, self._since = True, frame.pts
                picture = frame.jpeg() if self.config.image else b""
                data = {"area": round(share, 4), "box": box}
                yield AnalyticsEvent("motion_start", data, picture)
            return
        self._in_row = 0
        if self._moving and not 0 <= frame.pts - self._last < self.config.end_seconds:
            self._moving = False
            yield AnalyticsEvent("motion_end", {"seconds": round(self._last - self._since, 3)})

    def _difference(self, frame: Frame) -> tuple[float, dict[str, int] | None]:
        """Return the share of pixels that differ from the background, and the box around them in pixels."""
        np = self._numpy
        gray = frame.gray()
        step = max(1, max(gray.shape) // COMPARED)
        small = gray[::step, ::step].astype(np.float32)
        if self._background is None or self._background.shape != small.shape:
            self._background = small
            return 0.0, None
        differs = np.abs(small - self._background) > self.config.threshold
        self._background += (small - self._background) * self.config.learning_rate
        share = float(differs.mean())
        if not share:
            return 0.0, None
        rows, columns = np.flatnonzero(differs.any(1)), np.flatnonzero(differs.any(0))
        top, left = int(rows[0]), int(columns[0])
        return share, {
            "x": frame.roi.x + left * step,
            "y": frame.roi.y + top * step,
            "width": (int(columns[-1]) - left + 1) * step,
            "height": (int(rows[-1]) - top + 1) * step,
        }
