"""A file as it was written for the original service. It runs here as it stands."""

import asyncio
import json

from luna_plugins.base.plugins_meta.base_plugins import (
    BaseBackgroundHandler,
    BaseBackgroundPlugin,
    BaseEventPlugin,
    pluginHTTPResponse,
)

slowest = {}


class SlowestRequests(BaseEventPlugin):
    eventName = "monitoring_event"

    async def handleEvent(self, points, logger):
        await asyncio.gather(*(self.note(point, logger) for point in points))

    async def note(self, point, logger):
        if point.series == "requests":
            route, took = point.tags["route"], point.fields["execution_time"]
            slowest[route] = max(took, slowest.get(route, 0.0))
            logger.debug("%s took %g s", route, took)


class SlowestHandler(BaseBackgroundHandler):
    async def get(self, request):
        return self.response(
            body=json.dumps(slowest), headers={"Content-Type": "application/json"}, statusCode=200
        )


def count(request):
    return pluginHTTPResponse(statusCode=200, body=str(len(slowest)))


class Slowest(BaseBackgroundPlugin):
    def __init__(self, app):
        super().__init__(app)
        self.task = None

    async def initialize(self):
        self.addRoute("/slowest", SlowestHandler)
        self.addRoute("/slowest/count", count, methods={"get"})

    async def start(self):
        self.task = asyncio.create_task(self.report())

    async def report(self):
        while True:
            self.app.ctx.logger.info("slowest requests so far: %s", slowest)
            await asyncio.sleep(60)

    async def close(self):
        if self.task:
            self.task.cancel()
