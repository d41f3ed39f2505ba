"""Reads QR codes: their text and where they are, when they come and when they go."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, Field

from lva import AnalyticsEvent, AnalyticsStream, BaseAnalyticsPlugin
from lva.video.episodes import Episode
from lva.video.geometry import Region
from lva.video.looking import LookingConfig, Looks
from lva.video.presence import opencv, placed_in, reduced

if TYPE_CHECKING:
    from lva.video.frame import Frame

if find_spec("cv2") is None:  # only workers import it
    raise ModuleNotFoundError("No module named 'cv2'", name="cv2")

#: Cells of the smallest code.
LEAST_CELLS = 21
#: Most codes that are followed at once.
MOST_CODES = 100


class Config(LookingConfig):
    """The parameters of `codes`."""

    end_seconds: float = Field(
        3.0, ge=0, le=3600, description="For how long a code must be gone until it ends."
    )
    longest: int = Field(
        1280,
        ge=64,
        le=8192,
        description="Longest edge of what is looked at, in pixels; larger pictures are reduced.",
    )


class Codes(BaseAnalyticsPlugin):
    """Reads all QR codes of a picture with OpenCV; the same text is one code."""

    Config: ClassVar[type[BaseModel] | None] = Config

    def open(self, stream: AnalyticsStream) -> None:
        """Begin without codes."""
        self._detector = opencv().QRCodeDetector()
        self._looks = Looks(self.config.interval)
        self._episodes: dict[str, Episode] = {}

    def handleFrame(self, frame: Frame) -> Iterator[AnalyticsEvent]:
        """Yield ``code_start`` and ``code_end``."""
        if not self._looks.is_due(frame.pts):
            return
        found = self._found(frame)
        for text in found:
            if text not in self._episodes and len(self._episodes) < MOST_CODES:
                self._episodes[text] = Episode(0.0, self.config.end_seconds)
        for text, episode in list(self._episodes.items()):
            change = episode.update(text in found, frame.pts)
            if change == "start":
                data = {"text": text, "box": found[text].as_dict()}
                picture = frame.jpeg() if self.config.image else b""
                yield AnalyticsEvent("code_start", data, picture)
            elif change == "end":
                yield AnalyticsEvent(
                    "code_end", {"text": text, "seconds": round(episode.seconds, 3)}
                )
                del self._episodes[text]

    def _found(self, frame: Frame) -> dict[str, Region]:
        """Return the codes' texts, and where they are."""
        gray, factor = reduced(frame.gray(), self.config.longest)
        if min(gray.shape) < LEAST_CELLS:
            return {}
        _, contents, corners, _ = self._detector.detectAndDecodeBytesMulti(gray)
        found: dict[str, Region] = {}
        for content, points in zip(contents, corners if contents else (), strict=True):
            box = placed_in(frame.roi, _around(points), factor)
            if content and frame.droi.holds(box):  # else it was seen, but not read
                found.setdefault(content.decode("utf-8", "replace"), box)
        return found


def _around(points: Any) -> tuple[float, float, float, float]:
    """Return x, y, width and height of the box around points."""
    left, top = (float(value) for value in points.min(0))
    right, bottom = (float(value) for value in points.max(0))
    return left, top, right - left, bottom - top
