import shutil
import socket
import subprocess

import pytest
from redis import Redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from lva.testing import ServerWorld, check_event_contract

TALLY = """
import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from lva import BaseEventPlugin


class Tally(BaseEventPlugin):
    runtime = "asyncio"
    eventName = "monitoring_event"

    async def initialize(self):
        self.redis = redis.Redis.from_url(self.config["url"], retry=Retry(NoBackoff(), 0))

    async def handleEvent(self, points, logger):
        async with self.redis.pipeline(transaction=False) as pipe:
            for point in points:
                pipe.rpush("requests", point.fields["request_id"])
            await pipe.execute()

    async def close(self):
        if hasattr(self, "redis"):
            await self.redis.aclose()
"""


@pytest.fixture
def redis_server(tmp_path):
    program = shutil.which("redis-server") or pytest.skip("there is no redis-server")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen([program, "--port", str(port), "--dir", tmp_path, "--save", ""])
    try:
        with Redis(port=port, retry=Retry(ConstantBackoff(0.05), 200)) as client:
            client.ping()
            yield client
    finally:
        server.kill()
        server.wait()


def test_points_survive_what_happens_to_the_server(redis_server):
    port = redis_server.connection_pool.connection_kwargs["port"]

    def world():
        return ServerWorld(
            ("127.0.0.1", port),
            received=lambda: repr(redis_server.lrange("requests", 0, -1)),
            clear=redis_server.flushdb,
        )

    check_event_contract(
        TALLY, config=lambda world: {"url": f"redis://{world.address}"}, world=world
    )
