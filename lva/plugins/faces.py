"""Sees faces that look at the camera: when they come, how many there are and where, and when they go."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, Field

from lva import AnalyticsStream
from lva.video.presence import PresenceConfig, PresencePlugin, opencv

if TYPE_CHECKING:
    import numpy as np

if find_spec("cv2") is None:  # only workers import it
    raise ModuleNotFoundError("No module named 'cv2'", name="cv2")

#: The classifier, one of those in the package: of its frontal ones the one that errs least.
CASCADE = "haarcascade_frontalface_alt2.xml"


class Config(PresenceConfig):
    """The parameters of `faces`."""

    min_size: float = Field(
        0.05, gt=0, le=1, description="The smallest face, as a share of the longest edge."
    )
    min_neighbors: int = Field(
        5, ge=0, le=50, description="How many hits in one place make a face; more are stricter."
    )


class Faces(PresencePlugin):
    """Looks for faces with OpenCV's cascade of Haar features; it knows nobody."""

    Config: ClassVar[type[BaseModel] | None] = Config
    kind = "faces"

    def open(self, stream: AnalyticsStream) -> None:
        super().open(stream)
        self._cv2 = opencv()
        self._cascade = self._cv2.CascadeClassifier(self._cv2.data.haarcascades + CASCADE)
        if self._cascade.empty():
            raise RuntimeError(f"OpenCV has no {CASCADE}; run: pip install 'lva[opencv]'")

    def find(self, gray: np.ndarray[Any, Any]) -> Sequence[Sequence[int]]:
        side = max(20, round(self.config.min_size * max(gray.shape)))
        if min(gray.shape) < side:
            return []
        even = self._cv2.equalizeHist(gray)
        found: Sequence[Sequence[int]] = self._cascade.detectMultiScale(
            even, 1.1, self.config.min_neighbors, minSize=(side, side)
        )
        return found
