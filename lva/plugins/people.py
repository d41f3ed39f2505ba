"""Sees people who stand or walk: when they come, how many there are and where, and when they go."""

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

#: Width and height of the detector's window.
WINDOW = (64, 128)


class Config(PresenceConfig):
    """The parameters of `people`."""

    certainty: float = Field(
        0.5, ge=0, le=10, description="How sure the detector must be; more is stricter."
    )


class People(PresencePlugin):
    """Looks for whole people with OpenCV's histograms of gradients; they need 100 pixels of height."""

    Config: ClassVar[type[BaseModel] | None] = Config
    kind = "people"

    def open(self, stream: AnalyticsStream) -> None:
        super().open(stream)
        cv2 = opencv()
        self._detector = cv2.HOGDescriptor()
        self._detector.setSVMDetector(cv2.HOGDescriptor_getDefaultPeopleDetector())

    def find(self, gray: np.ndarray[Any, Any]) -> Sequence[Sequence[int]]:
        if gray.shape[1] < WINDOW[0] or gray.shape[0] < WINDOW[1]:
            return []
        boxes, weights = self._detector.detectMultiScale(
            gray, winStride=(8, 8), padding=(8, 8), scale=1.05
        )
        return [
            box
            for box, weight in zip(boxes, weights, strict=True)
            if float(weight) >= self.config.certainty
        ]
