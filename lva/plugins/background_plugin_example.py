"""The documented background plugin: two routes and a job that warms a teapot up, one degree a second."""

from typing import Any

import trio

from lva import (
    BaseBackgroundHandler,
    BaseBackgroundPlugin,
    PluginApp,
    PluginResponse,
    pluginHTTPResponse,
)

BOILING = 100


class HandlerExample(BaseBackgroundHandler):
    """A handler class: one coroutine for each HTTP verb that it serves."""

    async def get(self, request: Any) -> PluginResponse:
        return self.response(
            body="I am teapot", headers={"Content-Type": "text/plain"}, statusCode=418
        )


def anotherHandlerExample(request: Any) -> PluginResponse:
    """A handler function; a plain `def` runs in a worker thread and may block."""
    return pluginHTTPResponse(statusCode=200, body="T800", headers={"Content-Type": "text/plain"})


class BackgroundPluginExample(BaseBackgroundPlugin):
    """Serves /teapot and /teapot/version, and counts a temperature up to the boiling point."""

    def __init__(self, app: PluginApp) -> None:
        super().__init__(app)
        self.temperature: int = 0

    async def initialize(self) -> None:
        self.temperature = 0
        self.addRoute("/teapot", HandlerExample)
        self.addRoute("/teapot/version", anotherHandlerExample, methods={"get"})

    async def start(self) -> None:
        await self.usefulJob()

    async def usefulJob(self) -> None:
        """Work for as long as the plugin runs; the host cancels it at stop."""
        while self.temperature < BOILING:
            await trio.sleep(1)
            self.temperature += 1
            self.logger.debug("the teapot has %d degrees", self.temperature)
        self.logger.info("the teapot boils")

    async def close(self) -> None:
        self.logger.debug("the teapot is put away at %d degrees", self.temperature)
