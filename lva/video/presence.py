"""What detectors of things share: how often they look, and the events of something that comes and goes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from lva.contract import AnalyticsEvent, AnalyticsStream, BaseAnalyticsPlugin
from lva.video.episodes import Episode
from lva.video.geometry import Region
from lva.video.looking import LookingConfig, Looks

if TYPE_CHECKING:
    import numpy as np

    from lva.video.frame import Frame

#: Most boxes in the data of one event.
MOST_BOXES = 100


class PresenceConfig(LookingConfig):
    """The parameters that detectors of things share."""

    min_count: int = Field(
        1, ge=1, le=MOST_BOXES, description="How many there must be at once until it starts."
    )
    start_seconds: float = Field(
        0.5, ge=0, le=3600, description="For how long they must be there until it starts."
    )
    end_seconds: float = Field(
        3.0, ge=0, le=3600, description="For how long they must be gone until it ends."
    )
    longest: int = Field(
        640,
        ge=64,
        le=4096,
        description="Longest edge of what is looked at, in pixels; larger pictures are reduced.",
    )


class PresencePlugin(BaseAnalyticsPlugin):
    """Yields ``KIND_start`` and ``KIND_end`` as things come and go.

    Attributes:
        kind: What the things are called in event types.
    """

    kind: ClassVar[str]

    def open(self, stream: AnalyticsStream) -> None:
        """Begin with nothing there."""
        self._looks = Looks(self.config.interval)
        self._most = 0
        self._episode = Episode(self.config.start_seconds, self.config.end_seconds)

    @abstractmethod
    def find(self, gray: np.ndarray[Any, Any]) -> Sequence[Sequence[int]]:
        """Return x, y, width and height of each thing in a picture of brightness."""

    def handleFrame(self, frame: Frame) -> Iterator[AnalyticsEvent]:  # noqa: N802 - as documented
        """Look at a frame, if it is time to; yield what starts or ends with it."""
        if not self._looks.is_due(frame.pts):
            return
        gray, factor = reduced(frame.gray(), self.config.longest)
        roi = frame.roi
        boxes = [placed_in(roi, box, factor) for box in self.find(gray)]
        boxes = [box for box in boxes if frame.droi.holds(box)][:MOST_BOXES]
        change = self._episode.update(len(boxes) >= self.config.min_count, frame.pts)
        if change == "start":
            self._most = 0
            data = {"count": len(boxes), "boxes": [box.as_dict() for box in boxes]}
            yield AnalyticsEvent(
                f"{self.kind}_start", data, frame.jpeg() if self.config.image else b""
            )
        self._most = max(self._most, len(boxes))
        if change == "end":
            data = {"seconds": round(self._episode.seconds, 3), "most": self._most}
            yield AnalyticsEvent(f"{self.kind}_end", data)


def reduced(gray: np.ndarray[Any, Any], longest: int) -> tuple[np.ndarray[Any, Any], float]:
    """Return a picture whose longest edge is at most so many pixels, and how many of its pixels are one."""
    import cv2
    import numpy as np

    factor = max(gray.shape) / longest
    if factor <= 1:
        return np.ascontiguousarray(gray), 1.0
    size = max(round(gray.shape[1] / factor), 1), max(round(gray.shape[0] / factor), 1)
    return cv2.resize(gray, size, interpolation=cv2.INTER_AREA), factor


def placed_in(roi: Region, box: Sequence[float], factor: float) -> Region:
    """Return a box of the reduced part of a picture as one of the whole picture, cut to the part.

    Args:
        roi: The part.
        box: x, y, width and height.
        factor: As `reduced` gave it.
    """
    x, y, width, height = (round(value * factor) for value in box)
    found = Region(roi.x + x, roi.y + y, max(width, 1), max(height, 1))
    return found.overlap(roi) or found


def opencv() -> Any:
    """Return OpenCV, which computes in one thread: each stream has a process.

    Raises:
        RuntimeError: It is one without the detectors of version 4.
    """
    import cv2

    if not hasattr(cv2, "CascadeClassifier") or not hasattr(cv2, "HOGDescriptor"):
        raise RuntimeError(
            f"OpenCV {cv2.__version__} has no detectors; run: pip install 'lva[opencv]'"
        )
    cv2.setNumThreads(1)
    return cv2
