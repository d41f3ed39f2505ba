"""G3: an event plugin is given what others say in their close(): it stops after them."""

import logging

from lva import BaseEventPlugin, MonitoringPoint

heard: list[str] = []


class Hears(BaseEventPlugin):
    eventName = "monitoring_event"

    async def handleEvent(self, points: list[MonitoringPoint], logger: logging.Logger) -> None:
        heard.extend(point.series for point in points)
