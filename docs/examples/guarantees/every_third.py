"""G11: this plugin fails at every third frame, and each frame is accounted for."""

from lva import BaseAnalyticsPlugin
from lva.video.frame import Frame


class EveryThird(BaseAnalyticsPlugin):
    def handleFrame(self, frame: Frame) -> None:
        if frame.number % 3 == 0:
            raise ValueError("a frame that it does not like")
