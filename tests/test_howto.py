"""The plugins of the how-tos do what the page says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import trio

from lva import MonitoringPoint
from lva.host.loading.load import load_plugins
from lva.testing import look_at
from tests.event_samples import CHANGE, JPEG, SEEN
from tests.plugins.redis_server import RedisServer
from tests.support import (
    RunningHost,
    ServiceProcess,
    copy_examples,
    host_settings,
    numbered,
    running,
)


def example(tmp_path: Path, name: str, **config: Any) -> Any:
    """Run one of the examples."""
    copy_examples(tmp_path, name)
    table = {"config": config, "flush_interval": 0.05, "retry_initial": 0.05}
    settings = host_settings(tmp_path, [name], {name: table}, shutdown_timeout=2.0)
    return running(load_plugins(settings), settings)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """Those that need no other service, in one process."""
    tmp_path = tmp_path_factory.mktemp("howto")
    names = ("switches", "thermal", "slowest_trio")
    copy_examples(tmp_path, *names)
    toml = "[plugins.history]\nflush_interval = 0.05\n[plugins.thermal.config]\ninterval = 0.01\n"
    with ServiceProcess(tmp_path, ["history", *names], toml) as process:
        process.wait_until_ready()
        yield process
        assert process.stop() == 0


@pytest.mark.process
def test_switches_are_set_found_and_removed(service: ServiceProcess) -> None:
    missing = service.get("/switches/gate")
    assert (missing.status_code, missing.json()["detail"]) == (404, "There is no switch 'gate'.")
    for body in ("", "[]", '{"on": 5.5}'):
        assert service.request("PUT", "/switches/gate", content=body).status_code == 400
    assert service.request("PUT", "/switches/gate", json={"on": True}).status_code == 204
    assert service.get("/switches/gate").json() == {"on": True}
    assert service.get("/switches").json() == {"gate": True}
    assert service.request("DELETE", "/switches/gate").status_code == 204
    assert service.get("/switches").json() == {}


@pytest.mark.process
def test_thermal_reads_its_device(service: ServiceProcess) -> None:
    service.wait_until(lambda: service.get("/thermal").json() == {"celsius": 36.6})
    service.wait_until(lambda: service.get("/history/points?series=thermal").json()["points"])


@pytest.mark.process
def test_the_ported_plugin_does_what_the_original_did(service: ServiceProcess) -> None:
    service.get("/livez")
    service.wait_until(lambda: service.get("/slowest_trio").json().get("GET:/livez"))
    service.wait_for(r"slowest requests so far: ")
    assert service.plugin("slowest_trio")["runtime"] == "trio"


@pytest.mark.slow("talks to servers in real time")
@pytest.mark.parametrize(
    ("answers", "ledger"),
    [
        ([200], {"delivered": 3, "rejected": 0, "retries": 0}),
        ([400], {"delivered": 0, "rejected": 3, "retries": 0}),
        ([500, 200], {"delivered": 3, "rejected": 0, "retries": 1}),
        # The sink is away for longer than max_attempts calls, and nothing is lost.
        ([None] * 20 + [200], {"delivered": 3, "rejected": 0}),
    ],
    ids=["taken", "refused", "failing", "away"],
)
async def test_http_sink_says_what_became_of_a_batch(
    answers: list[int | None], ledger: dict[str, int], tmp_path: Path, autojump_clock: Any
) -> None:
    left = list(answers)

    def answer(request: httpx.Request) -> httpx.Response:
        status = left.pop(0)
        if status is None:
            raise httpx.ConnectError("refused")
        return httpx.Response(status)

    async with example(tmp_path, "http_sink", url="http://sink") as host:
        await host.wait_until_running()
        await host.plugin("http_sink").client.aclose()
        transport = httpx.MockTransport(answer)
        host.plugin("http_sink").client = httpx.AsyncClient(transport=transport)
        host.publish(numbered(3))
        await settled(host)
        part = await host.receipt_of("http_sink")
    assert {key: part.points[key] for key in ledger} == ledger
    assert left == []
    assert part.lost == 0


async def settled(host: RunningHost) -> None:
    """Wait until nothing is queued or in flight."""
    with trio.fail_after(10_000):
        while True:
            (ledger,) = [item["ledger"] for item in host.host.describe()]
            if not ledger["queued"] + ledger["in_flight"]:
                return
            await trio.sleep(0.1)


async def test_heartbeat_measures_what_answers_and_what_does_not(tmp_path: Path) -> None:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    copy_examples(tmp_path, "heartbeat")
    (tmp_path / "plugins" / "keeps.py").write_text(
        "from lva import *\nkept = []\nclass Keeps(BaseEventPlugin):\n"
        "    eventName = 'monitoring_event'\n"
        "    async def handleEvent(self, points, logger): kept.extend(points)\n"
    )
    (tmp_path / "plugins" / "keeps.py").chmod(0o644)
    tables = {"heartbeat": {"config": {"port": port, "interval": 0.01}}}
    settings = host_settings(tmp_path, ["keeps", "heartbeat"], tables)
    async with running(load_plugins(settings), settings) as host:
        kept: list[MonitoringPoint] = host.module("keeps").kept
        with trio.fail_after(20):
            while not any(point.fields["up"] == 1 for point in kept):
                await trio.sleep(0.01)
            await listeners[0].aclose()
            while kept[-1].fields["up"] == 1:
                await trio.sleep(0.01)
        assert host.states("heartbeat")[-1] == "running"
        assert (await host.receipt_of("heartbeat")).problems == []


@pytest.mark.slow("talks to servers in real time")
async def test_redis_counter_counts_in_redis_and_waits_for_it(tmp_path: Path) -> None:
    point = MonitoringPoint("requests", 1.0, {"route": "GET:/x"}, {})
    with RedisServer(tmp_path) as server:
        async with example(tmp_path, "redis_counter", url=server.url) as host:
            await host.wait_until_running()
            host.publish([point, point, MonitoringPoint("other", 1.0, {}, {})])
            await settled(host)
            assert server.client.hgetall("requests") == {b"GET:/x": b"2"}
            server.kill()
            host.publish([point])
            with trio.fail_after(20):
                while host.host.describe()[0]["ledger"]["retries"] == 0:
                    await trio.sleep(0.01)
            server.start()
            await settled(host)
            assert (await host.receipt_of("redis_counter")).points["delivered"] == 4
        assert server.client.hgetall("requests") == {b"GET:/x": b"3"}


async def test_partners_write_every_point_once_and_in_order(tmp_path: Path) -> None:
    path = tmp_path / "points"
    async with example(tmp_path, "partners", path=str(path)) as host:
        await host.wait_until_running()
        for start in range(0, 2500, 250):
            host.publish(numbered(250, start))
        part = await host.receipt_of("partners")
    assert (part.points["delivered"], part.lost, part.problems) == (2500, 0, [])
    assert path.read_text().splitlines() == [f"numbers {{'n': {n}}}" for n in range(2500)]


@pytest.mark.slow("talks to servers in real time")
async def test_partners_have_a_batch_again_that_could_not_be_written(tmp_path: Path) -> None:
    async with example(tmp_path, "partners", path="/dev/full") as host:
        await host.wait_until_running()
        host.publish(numbered(3))
        with trio.fail_after(20):
            while host.host.describe()[0]["ledger"]["retries"] == 0:
                await trio.sleep(0.01)
        (ledger,) = [item["ledger"] for item in host.host.describe()]
        assert ledger["delivered"] == 0


def test_darkness_is_an_event_with_a_picture(tmp_path: Path) -> None:
    copy_examples(tmp_path, "darkness")
    pictures = [np.full((48, 64), brightness, np.uint8) for brightness in (90, 10, 90)]
    (event,) = look_at(tmp_path / "plugins" / "darkness.py", pictures)
    assert (event.event_type, event.data) == ("dark", {"brightness": 10.0})
    assert event.image.startswith(b"\xff\xd8")


async def test_the_album_keeps_pictures_and_tells_of_failures(tmp_path: Path, caplog: Any) -> None:
    directory = tmp_path / "pictures" / "all"
    async with example(tmp_path, "album", directory=str(directory)) as host:
        await host.wait_until_running()
        for item in (SEEN, CHANGE):
            host.host.publisher.publish(item.series, [item])
        part = await host.receipt_of("album")
    assert [path.read_bytes() for path in directory.iterdir()] == [JPEG]
    assert "stream door has failed: no answer" in caplog.text
    assert part.points["delivered"] == 2
