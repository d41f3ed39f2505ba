"""The documented event plugin: sends the point of every request to another service over HTTP."""

import logging
from collections.abc import Mapping
from typing import Any, ClassVar

import httpx
from pydantic import BaseModel, Field

from lva import BaseRequestMonitoringPlugin, MonitoringPoint, PluginApp, RetryLaterError
from lva.http_replies import is_page, refusal


class Config(BaseModel):
    """Where the points go: `[plugins.request_monitoring_plugin_example.config]`."""

    url: str = "http://127.0.0.1:5020/1/buckets"
    bucket: str = "plugin_test_bucket"
    timeout: float = Field(5.0, gt=0, description="Limit on one HTTP request, in seconds.")


class RequestMonitoringPlugin(BaseRequestMonitoringPlugin):
    """Creates a bucket when it initializes and posts each point's tags and fields there as JSON."""

    Config: ClassVar[type[BaseModel] | None] = Config
    # One HTTP request for each point: small batches stay far from handle_timeout.
    host_settings: ClassVar[Mapping[str, Any]] = {"batch_size": 50}

    def __init__(self, app: PluginApp) -> None:
        super().__init__(app)
        self.session: httpx.AsyncClient | None = None

    async def initialize(self) -> None:
        # The collector is this service's own: no proxy from the environment comes between.
        self.session = httpx.AsyncClient(timeout=self.config.timeout, trust_env=False)
        reply = await self.session.post(self.config.url, params={"bucket": self.config.bucket})
        exists = reply.status_code == httpx.codes.CONFLICT
        if not exists and (not reply.is_success or is_page(reply.text)):
            raise refusal(reply.status_code, reply.headers, reply.text, receiver=self.config.url)

    async def flushPointToMonitoring(self, point: MonitoringPoint, logger: logging.Logger) -> None:
        assert self.session is not None
        url = f"{self.config.url}/{self.config.bucket}/objects"
        try:
            reply = await self.session.post(url, json={"tags": point.tags, "fields": point.fields})
        except httpx.RequestError as error:
            raise RetryLaterError(f"no response from {url}: {error!r}") from error
        if not reply.is_success or is_page(reply.text):
            raise refusal(reply.status_code, reply.headers, reply.text, receiver=self.config.url)
        logger.debug("sent a point of %s: %d", point.series, reply.status_code)

    async def close(self) -> None:
        if self.session is not None:
            await self.session.aclose()
            self.session = None
