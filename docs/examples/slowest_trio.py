"""`slowest`, ported: the same plugin in Trio style, with all that the host does for it."""

import logging
from typing import Any

import trio
from pydantic import BaseModel, Field

from lva import (
    BaseBackgroundPlugin,
    BaseEventPlugin,
    MonitoringPoint,
    PluginResponse,
    pluginHTTPResponse,
)

slowest: dict[str, float] = {}


class Config(BaseModel):
    """`[plugins.slowest_trio.config]`: what was a constant can now be set, and is checked."""

    interval: float = Field(60.0, gt=0, description="Seconds between two lines in the log.")


class SlowestRequests(BaseEventPlugin):
    eventName = "monitoring_event"

    async def initialize(self) -> None:
        slowest.clear()  # an attempt after a crash begins afresh

    # No gather(): the points come as a list, and nothing here has to be waited for.
    async def handleEvent(self, points: list[MonitoringPoint], logger: logging.Logger) -> None:
        for point in points:
            if point.series == "requests":
                route, took = str(point.tags["route"]), float(point.fields["execution_time"])
                slowest[route] = max(took, slowest.get(route, 0.0))


class Slowest(BaseBackgroundPlugin):
    Config = Config

    async def initialize(self) -> None:
        self.addRoute("/slowest_trio", self.show)

    # No create_task() and no close(): the host runs start() in a task, and cancels it at the stop.
    async def start(self) -> None:
        while True:
            self.logger.info("slowest requests so far: %s", slowest)
            await trio.sleep(self.config.interval)

    async def show(self, request: Any) -> PluginResponse:
        return pluginHTTPResponse(body=slowest)  # a dictionary becomes JSON
