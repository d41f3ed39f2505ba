"""A Redis server for the tests of a module, emptied before each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.plugins.redis_server import RedisServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    # What it is written to disk for is not looked at here, and takes long on a busy one.
    with RedisServer(tmp_path_factory.mktemp("redis"), "--appendfsync", "no") as server:
        yield server


@pytest.fixture
def redis(server: RedisServer) -> RedisServer:
    """The server, running and empty."""
    if server.process is None or server.process.poll() is not None:
        server.start()
    server.client.flushall()
    return server
