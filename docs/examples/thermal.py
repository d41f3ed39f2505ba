"""A blocking library: every call of it runs in a worker thread, one at a time."""

import time
from typing import Any

import trio
from pydantic import BaseModel, Field

from lva import BaseBackgroundPlugin, MonitoringPoint, PluginApp, PluginResponse, pluginHTTPResponse


class Driver:
    """Stands for a library that knows nothing of event loops: each call waits for a device."""

    def __init__(self, port: str) -> None:
        self.port = port
        time.sleep(0.01)

    def read(self) -> float:
        time.sleep(0.01)
        return 36.6

    def shut(self) -> None:
        time.sleep(0.01)


class Config(BaseModel):
    """`[plugins.thermal.config]`."""

    port: str = "/dev/ttyS0"
    interval: float = Field(1.0, gt=0, description="Seconds between two readings.")


class Thermal(BaseBackgroundPlugin):
    Config = Config

    def __init__(self, app: PluginApp) -> None:
        super().__init__(app)
        self.driver: Driver | None = None
        self.celsius: float | None = None
        # The library may not be called from two threads at once.
        self.one_at_a_time = trio.CapacityLimiter(1)

    async def call(self, function: Any, *args: Any) -> Any:
        """Call the library in a thread; a stop waits for the call, so no thread is abandoned in it."""
        return await trio.to_thread.run_sync(function, *args, limiter=self.one_at_a_time)

    async def initialize(self) -> None:
        self.driver = await self.call(Driver, self.config.port)
        self.addRoute("/thermal", self.show)

    async def start(self) -> None:
        assert self.driver is not None
        while True:
            self.celsius = await self.call(self.driver.read)
            point = MonitoringPoint("thermal", time.time(), {}, {"celsius": self.celsius})
            self.app.publish("monitoring_event", [point])
            await trio.sleep(self.config.interval)

    async def show(self, request: Any) -> PluginResponse:
        return pluginHTTPResponse(body={"celsius": self.celsius})

    async def close(self) -> None:
        if self.driver is not None:
            await self.call(self.driver.shut)
            self.driver = None
