"""The plugins that ship keep the contracts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import lva
from lva.testing import Answer, HttpWorld, check_event_contract, check_plugin
from tests.plugins.redis_server import RedisServer

#: What those that send points over HTTP are told, and what their server answers.
HTTP = {
    "request_monitoring_plugin_example": (lambda world: {"url": world.url}, Answer()),
    "batching_example": (lambda world: {"url": world.url}, Answer()),
    "influx": (
        lambda world: {"url": world.url, "bucket": "b", "org": "o", "token": "hunter2-hunter2"},
        Answer(204),
    ),
    "otlp": (
        lambda world: {"url": world.url, "headers": {"Authorization": "hunter2-hunter2"}},
        Answer(body=b"", headers={"Content-Type": "application/x-protobuf"}),
    ),
    "webhook": (lambda world: {"url": f"{world.url}/hunter2-hunter2"}, Answer()),
}
#: Those that talk to nobody.
ALONE = ("background_plugin_example", "file", "history", "prometheus", "resource_monitor")
#: Those for which a test starts a real server; that of `rabbitmq` is in its own tests, which have one.
SERVED = ("rabbitmq", "redis_stream")


def test_every_shipped_plugin_is_checked():
    shipped = {path.stem for path in (Path(lva.__file__).parent / "plugins").glob("*.py")}
    assert shipped == {*HTTP, *ALONE, *SERVED}


@pytest.mark.parametrize("name", ALONE)
def test_a_plugin_of_its_own_lives_well(name: str):
    check_plugin(name)


@pytest.mark.parametrize("name", ["file", "history"])
def test_a_plugin_of_its_own_accounts_for_points(name: str):
    check_event_contract(name)


def world_of(name: str) -> tuple[Any, Any]:
    """Return what an HTTP sink is told, and what makes its world."""
    config, answer = HTTP[name]
    return config, lambda: HttpWorld(lambda _request: answer)


@pytest.mark.parametrize("name", HTTP)
def test_an_http_sink_lives_well(name: str):
    config, world = world_of(name)
    check_plugin(name, config, world=world)


@pytest.mark.parametrize("name", HTTP)
def test_an_http_sink_accounts_for_points(name: str):
    config, world = world_of(name)
    check_event_contract(name, config=config, world=world)


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


def test_redis_stream_lives_well(redis: RedisServer):
    check_plugin("redis_stream", {"url": redis.url, "stream": "points"})
