"""An event plugin that says exactly which points failed, so that only those are sent again."""

import logging

import httpx
from pydantic import BaseModel

from lva import (
    BaseEventPlugin,
    MonitoringPoint,
    PartialDeliveryError,
    PermanentDeliveryError,
    PluginApp,
)


class Config(BaseModel):
    """`[plugins.collector.config]`."""

    url: str


class Collector(BaseEventPlugin):
    eventName = "monitoring_event"
    Config = Config
    host_settings = {"batch_size": 200}

    def __init__(self, app: PluginApp) -> None:
        super().__init__(app)
        self.client: httpx.AsyncClient | None = None

    async def initialize(self) -> None:
        self.client = httpx.AsyncClient(trust_env=False)

    async def handleEvent(self, points: list[MonitoringPoint], logger: logging.Logger) -> None:
        assert self.client is not None
        documents = [{"series": p.series, "tags": p.tags, "fields": p.fields} for p in points]
        reply = await self.client.post(self.config.url, json=documents)
        if reply.status_code == 400:
            # The collector will never take this batch: do not send it again.
            raise PermanentDeliveryError(reply.text)
        reply.raise_for_status()  # any other error: the whole batch is sent again after a back-off
        words = reply.json()["status"]  # one word for each point, in order
        busy = [point for point, word in zip(points, words, strict=True) if word == "busy"]
        wrong = [point for point, word in zip(points, words, strict=True) if word == "wrong"]
        if busy or wrong:
            raise PartialDeliveryError(
                f"{len(busy)} points to send again, {len(wrong)} refused",
                failed=busy,
                rejected=wrong,
            )

    async def close(self) -> None:
        # Must cope with an initialize() that never got here, and be harmless when called again.
        if self.client is not None:
            await self.client.aclose()
            self.client = None
