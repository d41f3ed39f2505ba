"""G5: while its receiver is down, every point of this plugin is queued or counted as dropped."""

import logging

from lva import BaseEventPlugin, MonitoringPoint, RetryLaterError


class Down(BaseEventPlugin):
    eventName = "monitoring_event"
    host_settings = {"buffer_limit": 100}

    async def handleEvent(self, points: list[MonitoringPoint], logger: logging.Logger) -> None:
        raise RetryLaterError("the receiver is down")
