"""asyncio style: readings come in and are watched over HTTP, and go out as points."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from pydantic import BaseModel, Field
from werkzeug.exceptions import BadRequest

from lva import BaseBackgroundPlugin, MonitoringPoint, PluginApp, PluginResponse, pluginHTTPResponse


class Config(BaseModel):
    """`[plugins.thermometers.config]`."""

    silence: float = Field(60.0, gt=0, description="Seconds after which a reading is forgotten.")


class Thermometers(BaseBackgroundPlugin):
    runtime = "asyncio"
    Config = Config

    def __init__(self, app: PluginApp) -> None:
        super().__init__(app)
        self.forgetting: asyncio.Task[None] | None = None

    async def initialize(self) -> None:
        self.readings: dict[str, tuple[float, float]] = {}
        self.news = asyncio.Condition()
        self.addRoute("/thermometers", self.watch)
        self.addRoute("/thermometers/<name>", self.put, methods={"put"})

    async def start(self) -> None:
        # May return at once. The host watches the task: if it fails, that is a crash of the plugin.
        self.forgetting = asyncio.create_task(self.forget())

    async def forget(self) -> None:
        while True:
            oldest = time.time() - self.config.silence
            self.readings = {name: r for name, r in self.readings.items() if r[0] > oldest}
            await asyncio.sleep(self.config.silence / 10)

    async def put(self, request: Any, name: str) -> PluginResponse:
        """The request is complete, so nothing of it has to be awaited."""
        try:
            degrees = float(request.json["degrees"])
        except (KeyError, TypeError, ValueError) as error:
            raise BadRequest("A reading is a JSON object with the number 'degrees'.") from error
        now = time.time()
        self.readings[name] = (now, degrees)
        point = MonitoringPoint("temperature", now, {"thermometer": name}, {"degrees": degrees})
        self.app.publish("monitoring_event", [point])
        async with self.news:
            self.news.notify_all()
        return pluginHTTPResponse(statusCode=204)

    async def watch(self, request: Any) -> AsyncIterator[str]:
        """An async generator is a streamed response; it is cancelled when the client leaves."""
        while True:
            yield (
                " ".join(f"{name}={degrees:g}" for name, (_, degrees) in self.readings.items())
                + "\n"
            )
            async with self.news:
                await self.news.wait()

    async def close(self) -> None:
        # The task still runs now. Without this it would be ended next, and named in the receipt.
        if self.forgetting is not None:
            self.forgetting.cancel()
