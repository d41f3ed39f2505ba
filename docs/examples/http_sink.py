"""An HTTP sink: posts batches of points as JSON, and tells the host what became of them."""

import logging

import httpx
from pydantic import BaseModel, Field

from lva import BaseEventPlugin, MonitoringPoint, PermanentDeliveryError, PluginApp, RetryLaterError


class Config(BaseModel):
    """`[plugins.http_sink.config]`."""

    url: str = Field(description="Where points are posted.")
    timeout: float = Field(5.0, gt=0, description="Most seconds for one request.")


class HttpSink(BaseEventPlugin):
    eventName = "monitoring_event"
    Config = Config
    # Gather for a second: many points in one request. A user's table overrides this.
    host_settings = {"batch_size": 500, "flush_interval": 1.0}

    def __init__(self, app: PluginApp) -> None:
        super().__init__(app)
        self.client: httpx.AsyncClient | None = None

    async def initialize(self) -> None:
        self.client = httpx.AsyncClient(timeout=self.config.timeout, trust_env=False)

    async def handleEvent(self, points: list[MonitoringPoint], logger: logging.Logger) -> None:
        assert self.client is not None
        documents = [
            {"series": p.series, "time": p.time, "tags": p.tags, "fields": p.fields} for p in points
        ]
        try:
            reply = await self.client.post(self.config.url, json=documents)
        except httpx.TransportError as error:
            # The sink is away, for which these points are not to blame: this call does not count.
            raise RetryLaterError(f"{self.config.url} does not respond: {error!r}") from error
        if reply.status_code == 400:
            raise PermanentDeliveryError(reply.text)  # it will never take them
        reply.raise_for_status()  # anything else: the batch comes again after a back-off

    async def close(self) -> None:
        if self.client is not None:
            await self.client.aclose()
            self.client = None
