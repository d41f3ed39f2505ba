"""Which points a class gets: those that its filter lets pass, and none that it publishes while handling."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest
import trio

from lva import MonitoringPoint
from lva.host.delivery.intake import filter_of
from lva.settings import PluginSettings
from tests.support import running_host, until

SINK = """
class Sink(BaseEventPlugin):
    eventName = "monitoring_event"
    seen = []

    async def handleEvent(self, points, logger):
        self.seen += [point.series for point in points]
"""
ECHO = """
import asyncio

class Echo(BaseEventPlugin):
    eventName = "monitoring_event"
    {runtime}
    seen = []
    begun = False

    async def later(self):
        await {library}.sleep(5)
        self.app.publish("monitoring_event", [MonitoringPoint("later", 1.0, {{}}, {{}})])

    async def handleEvent(self, points, logger):
        self.seen += [point.series for point in points]
        if not self.begun:
            self.begun = True
            {spawn}
        for point in points:
            {publish}
"""
PUBLISH = 'self.app.publish("monitoring_event", [MonitoringPoint("echo", 1.0, {}, {})])'
TRIO = {
    "runtime": "",
    "library": "trio",
    "spawn": "self.nursery.start_soon(self.later)",
    "publish": PUBLISH,
}
THREAD = {**TRIO, "publish": f"await trio.to_thread.run_sync(lambda: {PUBLISH})"}
ASYNCIO = {
    "runtime": 'runtime = "asyncio"',
    "library": "asyncio",
    "spawn": "self.task = asyncio.create_task(self.later())",
    "publish": PUBLISH,
}


def point(series: str = "requests", **tags: Any) -> MonitoringPoint:
    return MonitoringPoint(series, 1.0, tags, {})


@pytest.mark.parametrize(
    ("table", "wanted", "unwanted"),
    [
        (
            {"series": ["requests"]},
            [point()],
            [point("errors"), point("requests2"), point("Requests")],
        ),
        ({"series": ["re*", "err?rs"]}, [point(), point("errors")], [point("disk")]),
        ({"exclude_series": ["disk*"]}, [point()], [point("disk"), point("disk_space")]),
        ({"series": ["d*"], "exclude_series": ["disk"]}, [point("dot")], [point("disk"), point()]),
        (
            {"tags": {"status_code": ["5*", "404"]}},
            [point(status_code=503), point(status_code="404")],
            [point(status_code=200), point()],
        ),
        (
            {"tags": {"status_code": ["5*"], "route": ["GET:*"]}},
            [point(status_code=500, route="GET:/a")],
            [point(status_code=500), point(status_code=500, route="POST:/a")],
        ),
        (
            {"exclude_tags": {"route": ["*/readyz"], "probe": ["*"]}},
            [point(), point(route="GET:/a")],
            [point(route="GET:/readyz"), point(probe=1, route="GET:/a"), point(probe="")],
        ),
    ],
)
def test_a_filter_lets_pass_by_series_and_tags(
    table: dict[str, Any], wanted: list[MonitoringPoint], unwanted: list[MonitoringPoint]
) -> None:
    chosen = filter_of(PluginSettings(**table))
    assert chosen is not None
    for _ in range(2):  # what is remembered is the same
        assert all(map(chosen, wanted))
        assert not any(map(chosen, unwanted))


def test_without_patterns_there_is_no_filter() -> None:
    assert filter_of(PluginSettings()) is None


@pytest.mark.parametrize("thread", [False, True], ids=["loop", "thread"])
async def test_what_is_filtered_is_counted_and_costs_the_others_nothing(
    tmp_path: Path, thread: bool
) -> None:
    tables = {"some": {"series": ["a"], "buffer_limit": 2, "flush_interval": 1000}}
    async with running_host(tmp_path, {"some": SINK, "all": SINK}, tables) as host:
        points = [point("a"), *[point("b")] * 50, point("a")]
        if thread:
            await trio.to_thread.run_sync(host.publish, points)
        else:
            host.publish(points)
            host.publish([point("b")])
            host.publish([point("b", derived=1)])
        receipt = await host.stop()
    some, every = (part.points for part in receipt.plugins)
    unwanted = 50 if thread else 52
    assert (some["accepted"], some["delivered"], some["filtered"]) == (2, 2, unwanted)
    assert not some["dropped"], "what is not wanted takes no room"
    assert (every["accepted"], every["filtered"]) == (2 + unwanted, 0)


@pytest.mark.slow("points are counted for a while of real time")
@pytest.mark.parametrize("how", [TRIO, THREAD, ASYNCIO], ids=["trio", "thread", "asyncio"])
async def test_a_class_does_not_get_back_what_it_publishes_while_it_handles(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    how: dict[str, str],
) -> None:
    """Kind: a class that feeds itself, on any loop or in a thread."""
    monkeypatch.setattr("lva.host.delivery.intake.COUNTED_FOR", 0.2)
    # The call that began the task is over once there is another one.
    waits = f"while 'two' not in self.seen: await {how['library']}.sleep(0.01)"
    source = ECHO.format(**how).replace(f"await {how['library']}.sleep(5)", waits)
    async with running_host(tmp_path, {"echo": source, "sink": SINK}) as host:
        for series in ("one", "two"):
            host.publish([point(series)])
            await until(lambda: series in host.plugin("sink").seen)  # noqa: B023 - called here
        seen = host.plugin("echo").seen
        await until(lambda: "later" in seen and "a second" in caplog.text)
        receipt = await host.stop()
        assert sorted(host.plugin("sink").seen) == ["echo", "echo", "echo", "later", "one", "two"]
    assert seen == ["one", "two", "later"], "a task that the call began publishes for itself"
    assert receipt.plugins[0].points["filtered"] == 3
    (line,) = [text for text in caplog.messages if "a second" in text]
    assert line.startswith("echo.Echo.handleEvent publishes points while it handles some: ")
    assert "it does not get these itself" in line


@pytest.mark.slow("a minute of virtual time, with ten calls a second")
async def test_a_class_may_ask_for_its_own_points_and_is_warned_once(
    tmp_path: Path, autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    source = ECHO.format(**TRIO).replace(
        "for point in points:", "await trio.sleep(0.1)\n        if True:"
    )
    async with running_host(tmp_path, {"echo": source}, {"echo": {"own_points": True}}) as host:
        host.publish([point()])
        await trio.sleep(60)
        assert len(host.plugin("echo").seen) > 500
    (line,) = [text for text in caplog.messages if "a second" in text]
    assert re.search("while it handles some: 1[01] a second; it gets them back", line)
