"""The service's own resources as points, in virtual time but for the real process."""

from __future__ import annotations

import logging
import re
import sys
import time
from typing import Any

import psutil
import pytest
import trio

from lva import MonitoringPoint
from lva.errors import ConfigurationError
from lva.host.life.states import State
from lva.host.loading.load import load_plugins
from lva.plugins.resource_monitor import Lag
from tests.support import (
    ServiceProcess,
    host_settings,
    journal,
    running_host,
)
from tests.test_docs import page

NAME = "resource_monitor"
#: Keeps, in the journal, each point with the time at which it came.
SINK = """
    class Sink(BaseEventPlugin):
        eventName = "monitoring_event"

        async def handleEvent(self, points, logger):
            journal.extend((trio.current_time(), point) for point in points)
"""
SOURCES = {"sink": SINK, NAME: None}


def config(**values: Any) -> dict[str, Any]:
    return {NAME: {"config": values}}


def seen(series: str) -> list[MonitoringPoint]:
    return [point for _, point in journal if point.series == series]


# When, and what


@pytest.mark.parametrize("interval", [15, 0.1, 0.7, 60])
async def test_points_come_at_each_interval(tmp_path, autojump_clock, interval):
    tables = {} if interval == 15 else config(interval=interval)  # which is the default
    begun = trio.current_time()
    async with running_host(tmp_path, SOURCES, tables):
        await trio.sleep(3.5 * interval)
    times = [at - begun for at, point in journal if point.series == "resources"]
    assert times == pytest.approx([interval, 2 * interval, 3 * interval])


async def test_the_points_say_what_is_documented(tmp_path, autojump_clock):
    before = time.time()
    async with running_host(tmp_path, SOURCES):
        await trio.sleep(16)
    (point,) = seen("resources")
    assert point.tags == {"service": "luna-video-agent"}
    assert set(point.fields) == {
        "cpu_share", "rss_bytes", "threads", "open_files", "loop_lag_max", "loop_lag_mean",
    }  # fmt: skip
    assert before <= point.time <= time.time()
    assert point.fields["rss_bytes"] > 1e6
    assert point.fields["threads"] >= 1
    assert point.fields["open_files"] >= 3
    assert point.fields["loop_lag_max"] == point.fields["loop_lag_mean"] == 0
    tasks = {item.tags["plugin"]: item for item in seen("plugin_tasks")}
    assert [*tasks] == ["sink", NAME]
    assert tasks[NAME].tags == {"service": "luna-video-agent", "plugin": NAME}
    assert tasks[NAME].fields == {
        "trio": 1,
        "asyncio": 0,
    }  # the plugin's own task, which is in start()
    assert tasks["sink"].fields == {"trio": 1, "asyncio": 0}


async def test_the_share_is_of_the_time_between_two_measurements(
    tmp_path, autojump_clock, monkeypatch
):
    used = 1000.0

    def process_time() -> float:
        return used

    async with running_host(tmp_path, SOURCES, config(interval=10)) as host:
        monkeypatch.setattr(host.module(NAME).time, "process_time", process_time)
        host.plugin(NAME).nursery.cancel_scope.cancel()  # start again, with this clock
        await host.wait_for(NAME, State.BACKOFF)
        await host.wait_for(NAME, State.RUNNING)
        await trio.sleep(1)
        used += 2.5
        await trio.sleep(10)
        used += 15
        await trio.sleep(10)
    assert [point.fields["cpu_share"] for point in seen("resources")] == [0.25, 1.5]


async def test_the_documentation_lists_exactly_the_fields(tmp_path, autojump_clock):
    text = page("shipped").split("``resource_monitor``\n---")[1].split("Its configuration")[0]
    async with running_host(tmp_path, SOURCES):
        await trio.sleep(16)
    fields = {*seen("resources")[0].fields, *seen("plugin_tasks")[0].fields}
    assert set(re.findall(r"^``(\w+)`` ", text, re.MULTILINE)) == fields
    assert "\n``interval`` " in page("shipped")


# The loop's lag


def test_a_wait_counts_by_how_long_it_held_things_up():
    lag = Lag(0.25)
    assert lag.take() == {"loop_lag_max": 0.0, "loop_lag_mean": 0.0}
    assert lag.note(0.05) == 1
    assert lag.note(-0.01) == 1  # a clock's last digit
    assert lag.note(0.15) == 1
    assert lag.take() == pytest.approx({"loop_lag_max": 0.15, "loop_lag_mean": 0.2 / 3})
    # Held up for 1.1 s: what wanted to run after 0, 0.25, 0.5, 0.75 and 1 s waited for the rest of it.
    assert lag.note(1.1) == 5
    expected = (1.1 + 0.85 + 0.6 + 0.35 + 0.1) / 5
    assert lag.take() == pytest.approx({"loop_lag_max": 1.1, "loop_lag_mean": expected})
    assert lag.take() == {"loop_lag_max": 0.0, "loop_lag_mean": 0.0}
    # A process that was stopped for a year does not make up for it step by step.
    begun = time.thread_time()
    assert lag.note(365 * 86_400) == 4 * 365 * 86_400 + 1
    assert time.thread_time() - begun < 0.5


async def test_a_loop_that_is_held_up_shows_and_is_then_forgotten(tmp_path, autojump_clock):
    async with running_host(tmp_path, SOURCES, config(interval=2)):
        await trio.sleep(2.5)
        autojump_clock.jump(1.0)  # nobody runs for a second; the next sample was due 0.1 s from now
        await trio.sleep(5)
    lags = [point.fields["loop_lag_max"] for point in seen("resources")]
    assert lags == pytest.approx([0, 0.9, 0, 0])
    means = [point.fields["loop_lag_mean"] for point in seen("resources")]
    assert means[1] == pytest.approx((0.9 + 0.7 + 0.5 + 0.3 + 0.1) / 10)


async def test_points_go_on_at_their_times_after_a_long_wait(tmp_path, autojump_clock):
    begun = trio.current_time()
    async with running_host(tmp_path, SOURCES, config(interval=2)):
        await trio.sleep(1)
        autojump_clock.jump(6.5)
        await trio.sleep(3)
    times = [at - begun for at, point in journal if point.series == "resources"]
    assert times == pytest.approx([7.5, 8, 10])


# What cannot be read


async def test_without_proc_the_rest_is_published(tmp_path, autojump_clock, monkeypatch, caplog):
    (tmp_path / "proc").mkdir()
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path / "proc"))
    with caplog.at_level(logging.WARNING):
        async with running_host(tmp_path, SOURCES) as host:
            await trio.sleep(50)
            assert host.states(NAME) == ["loaded", "initializing", "running"]
    points = seen("resources")
    assert len(points) == 3
    assert all(
        set(point.fields) == {"cpu_share", "loop_lag_max", "loop_lag_mean"} for point in points
    )
    assert len(seen("plugin_tasks")) == 6
    warnings = [line for line in caplog.messages if "is left out" in line]
    assert [line.partition(" ")[0] for line in warnings] == ["rss_bytes", "threads", "open_files"]


@pytest.mark.parametrize("error", [psutil.AccessDenied(1), ValueError("no number")])
async def test_what_is_refused_is_left_out_alone(tmp_path, autojump_clock, monkeypatch, error):
    def refuse(_self: psutil.Process) -> int:
        raise error

    monkeypatch.setattr(psutil.Process, "num_fds", refuse)
    async with running_host(tmp_path, SOURCES):
        await trio.sleep(16)
    (point,) = seen("resources")
    assert "open_files" not in point.fields
    assert point.fields["threads"] >= 1


# Configuration and life


@pytest.mark.parametrize("interval", [0, 0.05, -1, "nan", "inf", "often", 100_000])
def test_a_wrong_interval_is_refused(tmp_path, interval):
    with pytest.raises(ConfigurationError, match=r"plugins\.resource_monitor\.config\.interval"):
        load_plugins(host_settings(tmp_path, [NAME], config(interval=interval)))


async def test_it_starts_afresh_after_a_crash(tmp_path, autojump_clock):
    async with running_host(tmp_path, SOURCES, config(interval=2)) as host:
        await trio.sleep(1)
        autojump_clock.jump(0.5)
        host.plugin(NAME).nursery.start_soon(_fail)
        await host.wait_for(NAME, State.BACKOFF)
        await host.wait_for(NAME, State.RUNNING)
        restarted = trio.current_time()
        await trio.sleep(5)
    times = [at - restarted for at, point in journal if point.series == "resources"]
    assert times == pytest.approx([2, 4])
    assert [point.fields["loop_lag_max"] for point in seen("resources")] == [0, 0]


async def _fail() -> None:
    raise RuntimeError("a test wants it")


# The real process


@pytest.mark.process
def test_it_runs_by_default_and_tells_the_process_s_own_numbers(tmp_path):
    command = ["env", "-u", "LUNA_VIDEO_AGENT_ACTIVE_PLUGINS", sys.executable, "-m", "lva", "run"]
    toml = """
        [plugins.resource_monitor.config]
        interval = 0.1

        [plugins.history]
        flush_interval = 0.05
    """
    with ServiceProcess(tmp_path, (), toml, command=command) as service:
        service.wait_for(
            r"active plugins: history \(event\+background\), resource_monitor \(background\)"
        )
        service.wait_until_ready()
        path = "/history/points?series=resources"
        service.wait_until(lambda: service.get(path).json()["points"])
        (point, *_) = service.get(path).json()["points"]
        process = psutil.Process(service.process.pid)
        assert point["fields"]["rss_bytes"] == pytest.approx(process.memory_info().rss, rel=0.3)
        assert 1 <= point["fields"]["threads"] <= process.num_threads() + 5
        assert 3 <= point["fields"]["open_files"] <= process.num_fds() + 5
        assert 0 <= point["fields"]["cpu_share"] < 64
        assert service.plugin(NAME)["state"] == "running"
        assert service.stop() == 0
