"""The documented examples do what their documentation says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from lva import MonitoringPoint
from lva.host.life.states import State
from lva.host.routing import Gate
from tests.plugins.sinks import running_sink
from tests.support import HttpHandler, RunningHost, running_host, serving_http

TEAPOT = "background_plugin_example"
MONITORING = "request_monitoring_plugin_example"


# The teapot


async def test_the_teapot_s_routes(tmp_path, autojump_clock):
    async with running_host(tmp_path, {TEAPOT: None}) as host:
        match = host.host.routes.match
        teapot, version = match("/teapot").route, match("/teapot/version").route
        assert teapot.allowed == version.allowed == ["GET", "OPTIONS", "HEAD"]
        assert teapot.owner.gate is Gate.OPEN
        answer = await teapot.verbs["GET"](None)
        assert (answer.statusCode, answer.body) == (418, "I am teapot")
        assert answer.headers == {"Content-Type": "text/plain"}
        answer = version.verbs["GET"](None)
        assert (answer.statusCode, answer.body) == (200, "T800")
        assert answer.headers == {"Content-Type": "text/plain"}
        await host.stop()
        assert match("/teapot") is None
        assert match("/teapot/version") is None


async def test_the_teapot_warms_up_a_degree_a_second_and_then_boils(
    tmp_path, autojump_clock, caplog
):
    caplog.set_level("INFO")
    async with running_host(tmp_path, {TEAPOT: None}) as host:
        plugin = host.plugin(TEAPOT)
        assert plugin.temperature == 0
        await trio.sleep(10.5)
        assert plugin.temperature == 10
        await trio.sleep(200)
        assert plugin.temperature == 100
        assert "the teapot boils" in caplog.text
        assert host.states(TEAPOT)[-1] == "running"
        assert (await host.stop()).exit_code == 0


async def test_the_teapot_is_put_away_while_it_warms_up(tmp_path, autojump_clock):
    async with running_host(tmp_path, {TEAPOT: None}) as host:
        await trio.sleep(3.5)
        part = await host.receipt_of(TEAPOT)
        assert part.state == "stopped"
        assert part.stop_seconds == 0
        assert host.plugin(TEAPOT).temperature == 3


# The monitoring example


class Collector:
    """What a collector was sent, and what it answers: statuses, or what returns one in its own time."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, Any]] = []
        self.statuses: list[int | Callable[[], int]] = []
        self.url = ""


@contextmanager
def collecting() -> Iterator[Collector]:
    """Serve a collector on the loopback interface."""
    collector = Collector()

    class Handler(HttpHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            collector.requests.append(("POST", self.path, json.loads(body) if body else None))
            status = collector.statuses.pop(0) if collector.statuses else 201
            self.send_response(status() if callable(status) else status)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with serving_http(Handler) as server:
        collector.url = f"http://127.0.0.1:{server.server_address[1]}/1/buckets"
        yield collector


@pytest.fixture
def collector():
    with collecting() as it:
        yield it


def monitoring(
    tmp_path: Path, collector: Collector, wait: bool = True
) -> AbstractAsyncContextManager[RunningHost]:
    return running_sink(tmp_path, MONITORING, {"url": collector.url, "bucket": "b"}, wait)


def points(count: int) -> list[MonitoringPoint]:
    return [
        MonitoringPoint("requests", 1.0, {"route": "GET:/teapot", "status_code": 418}, {"n": n})
        for n in range(count)
    ]


def sent(n: int) -> tuple[str, str, Any]:
    body = {"tags": {"route": "GET:/teapot", "status_code": 418}, "fields": {"n": n}}
    return ("POST", "/1/buckets/b/objects", body)


async def test_each_point_is_posted_in_order_to_the_bucket(tmp_path, collector):
    async with monitoring(tmp_path, collector) as host:
        assert collector.requests == [("POST", "/1/buckets?bucket=b", None)]
        host.publish(points(5))
        receipt = await host.stop()
        assert collector.requests[1:] == [sent(n) for n in range(5)]
        assert receipt.exit_code == 0
        assert host.plugin(MONITORING).session is None


async def test_a_bucket_that_exists_is_fine(tmp_path, collector):
    collector.statuses = [409]
    async with monitoring(tmp_path, collector) as host:
        assert host.life(MONITORING).record.restarts == 0


async def test_a_collector_that_is_not_there_yet_is_asked_again(tmp_path, collector):
    collector.statuses = [503, 500]
    async with monitoring(tmp_path, collector, wait=False) as host:
        host.publish(points(2))
        await host.wait_for(MONITORING, State.RUNNING, within=20)
        assert host.life(MONITORING).record.restarts == 2
        assert (await host.stop()).exit_code == 0
    assert collector.requests[:3] == [("POST", "/1/buckets?bucket=b", None)] * 3
    assert collector.requests[3:] == [sent(0), sent(1)]


async def test_points_that_arrived_are_not_posted_again(tmp_path, collector):
    collector.statuses = [201, 201, 500, 201]
    async with monitoring(tmp_path, collector) as host:
        host.publish(points(3))
        receipt = await host.stop()
        assert collector.requests[1:] == [sent(0), sent(1), sent(1), sent(2)]
        assert receipt.plugins[0].points["delivered"] == 3
        assert receipt.plugins[0].points["retries"] == 1
