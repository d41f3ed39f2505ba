"""Porch: works every so often, publishes a point each time, and tells over HTTP how often."""

import time
from typing import Any

import trio
from pydantic import BaseModel, Field

from lva import BaseBackgroundPlugin, MonitoringPoint, PluginResponse, pluginHTTPResponse


class Config(BaseModel):
    """`[plugins.porch.config]`: wrong and unknown keys are refused before the service starts."""

    interval: float = Field(10.0, gt=0, description="Seconds between two rounds of work.")


class Porch(BaseBackgroundPlugin):
    Config = Config

    async def initialize(self) -> None:
        # Open connections here. Called again after a crash, on the same instance: start afresh.
        self.rounds = 0
        self.addRoute("/porch", self.show)

    async def start(self) -> None:
        # May run for as long as there is work; the host cancels it at the stop.
        while True:
            await trio.sleep(self.config.interval)
            await self.work()

    async def work(self) -> None:
        """Do one round of work. What raises here restarts the plugin, after a back-off."""
        self.rounds += 1
        point = MonitoringPoint("porch", time.time(), tags={}, fields={"rounds": self.rounds})
        self.app.publish("monitoring_event", [point])

    async def show(self, request: Any) -> PluginResponse:
        """Handle GET /porch."""
        return pluginHTTPResponse(body={"rounds": self.rounds})

    async def close(self) -> None:
        """Close here what initialize() opened; it may not have got far."""
