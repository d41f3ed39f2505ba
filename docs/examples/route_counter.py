"""An event plugin: counts the requests of each route and logs a line every so often."""

import logging
from collections import Counter
from typing import Any

from pydantic import BaseModel, Field

from lva import BaseEventPlugin, MonitoringPoint, PluginApp


class Config(BaseModel):
    """`[plugins.route_counter.config]`: a wrong or unknown key is refused before the service starts."""

    report_every: int = Field(100, ge=1, description="Points between two lines in the log.")


class RouteCounter(BaseEventPlugin):
    eventName = "monitoring_event"
    Config = Config
    # The plugin's own defaults for the host's keys; what the user sets wins.
    host_settings = {"batch_size": 500, "flush_interval": 0.2}

    def __init__(self, app: PluginApp) -> None:
        super().__init__(app)
        self.counts: Counter[Any] = Counter()

    async def initialize(self) -> None:
        # The same instance is initialized again after a crash, so the state is reset here.
        self.counts = Counter()

    async def handleEvent(self, points: list[MonitoringPoint], logger: logging.Logger) -> None:
        for point in points:
            if point.series == "requests":
                self.counts[point.tags["route"]] += 1
                if self.counts.total() % self.config.report_every == 0:
                    logger.info("requests so far: %s", dict(self.counts))
