"""Two classes in one file: one plugin, started, restarted and stopped as one."""

import logging
from collections import deque
from typing import Any

from lva import (
    BaseBackgroundPlugin,
    BaseEventPlugin,
    MonitoringPoint,
    PluginResponse,
    pluginHTTPResponse,
)

#: What the two classes share; both run in the same thread, so no lock is needed.
newest: deque[str] = deque(maxlen=10)


class Collect(BaseEventPlugin):
    eventName = "monitoring_event"

    async def initialize(self) -> None:
        newest.clear()

    async def handleEvent(self, points: list[MonitoringPoint], logger: logging.Logger) -> None:
        newest.extend(
            str(point.tags.get("route")) for point in points if point.series == "requests"
        )


class Show(BaseBackgroundPlugin):
    async def initialize(self) -> None:
        self.addRoute("/newest", self.show)

    async def show(self, request: Any) -> PluginResponse:
        return pluginHTTPResponse(body=list(newest))
