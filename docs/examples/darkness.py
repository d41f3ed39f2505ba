"""Says when a picture is dark."""

from lva import AnalyticsEvent, BaseAnalyticsPlugin


class Darkness(BaseAnalyticsPlugin):
    def handleFrame(self, frame):
        brightness = float(frame.small().mean())
        if brightness < 20:
            yield AnalyticsEvent("dark", {"brightness": brightness}, frame.jpeg())
