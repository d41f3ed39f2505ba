"""G9: points that this plugin could not deliver are in the receipt, and in the exit code."""

import logging

from lva import BaseEventPlugin, MonitoringPoint


class Dropper(BaseEventPlugin):
    eventName = "monitoring_event"
    host_settings = {"max_attempts": 3}

    async def handleEvent(self, points: list[MonitoringPoint], logger: logging.Logger) -> None:
        raise ValueError("cannot make sense of that")
