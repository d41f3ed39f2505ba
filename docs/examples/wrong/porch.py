"""Porch: rings are posted, counted, and published as points."""

import time
from typing import Any

import trio
from pydantic import BaseModel, Field

from lva import BaseBackgroundPlugin, MonitoringPoint, PluginResponse, pluginHTTPResponse


class Config(BaseModel):
    """`[plugins.porch.config]`: wrong and unknown keys are refused before the service starts."""

    quiet: float = Field(
        5.0, ge=0, description="Seconds after a ring in which others do not count."
    )
    interval: float = Field(60.0, gt=0, description="Seconds between two lines in the log.")


class Porch(BaseBackgroundPlugin):
    Config = Config

    async def initialize(self) -> None:
        self.rings = 0
        self.last = float("-inf")
        self.addRoute("/porch", self.show)
        self.addRoute("/porch/bell", self.ring, methods={"push"})

    def start(self) -> None:
        while True:
            trio.sleep(self.config.interval)
            self.logger.info("%d rings so far", self.rings)

    async def ring(self, request: Any) -> PluginResponse:
        """Handle POST /porch/bell."""
        time.sleep(0.2)  # the bell rings
        now = trio.current_time()
        if now - self.last >= self.config.quiet:
            self.last = now
            self.rings += 1
            point = MonitoringPoint("rings", time.time(), tags={}, fields={"rings": self.rings})
            self.app.publish("monitoring_event", [point])
        return pluginHTTPResponse(statusCode=204)

    async def show(self, request: Any) -> PluginResponse:
        """Handle GET /porch."""
        return pluginHTTPResponse(body={"rings": self.rings})
