"""Redis: counts the requests of each route in a hash. In asyncio style, like most users of its client."""

import logging
from collections import Counter
from typing import Any

import redis.asyncio as redis
from pydantic import BaseModel, SecretStr
from redis.exceptions import ConnectionError as NoConnectionError

from lva import BaseEventPlugin, MonitoringPoint, PluginApp, RetryLaterError


class Config(BaseModel):
    """`[plugins.redis_counter.config]`."""

    url: SecretStr = SecretStr("redis://127.0.0.1:6379")  # may hold a password, so it is masked
    key: str = "requests"


class RedisCounter(BaseEventPlugin):
    eventName = "monitoring_event"
    runtime = "asyncio"
    Config = Config
    host_settings = {"flush_interval": 1.0}

    def __init__(self, app: PluginApp) -> None:
        super().__init__(app)
        self.client: Any = None

    async def initialize(self) -> None:
        self.client = redis.from_url(
            self.config.url.get_secret_value(), socket_connect_timeout=5, socket_timeout=5
        )
        await (
            self.client.ping()
        )  # raises if Redis is unreachable: the host tries again after a back-off

    async def handleEvent(self, points: list[MonitoringPoint], logger: logging.Logger) -> None:
        counts = Counter(str(p.tags["route"]) for p in points if p.series == "requests")
        try:
            # All or nothing: a batch that comes again was not counted in part.
            async with self.client.pipeline(transaction=True) as pipe:
                for route, count in counts.items():
                    pipe.hincrby(self.config.key, route, count)
                await pipe.execute()
        except NoConnectionError as error:
            raise RetryLaterError(f"Redis is unreachable: {error}") from error

    async def close(self) -> None:
        if self.client is not None:
            await self.client.aclose()
            self.client = None
