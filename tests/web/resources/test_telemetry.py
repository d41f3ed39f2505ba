"""What the console plots is what happened, and takes no more room than it should."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from lva.host.life.states import State, Transition
from lva.logs.loggers import keep_secret
from lva.web.resources.table import RESOURCES
from lva.web.resources.telemetry import (
    COLUMNS,
    SPARKS,
    STEPS,
    TIMELINE,
    Telemetry,
    bucket_of,
    percentiles,
    seconds_of,
)
from tests.support import numbered, running_host

SINK = """
    class Sink(BaseEventPlugin):
        eventName = "monitoring_event"

        async def handleEvent(self, points, logger):
            pass
"""
IDLE = """
    class Idle(BaseBackgroundPlugin):
        async def start(self):
            await trio.sleep_forever()
"""


class Seconds:
    """Wall-clock time that goes with Trio's."""

    def __init__(self, begin: float = 1_000_000.0) -> None:
        self._begin = begin - trio.current_time()

    def __call__(self) -> float:
        return self._begin + trio.current_time()


async def sampled(telemetry: Telemetry, seconds: int, each: Any = lambda: None) -> list[Any]:
    """Take a sample each second, after calling `each`; return them."""
    samples = []
    for _ in range(seconds):
        each()
        await trio.sleep(1)
        samples.append(telemetry.sample())
    return samples


def row(telemetry: Telemetry, name: str) -> dict[str, Any]:
    """Return the row of a plugin by columns."""
    (plugin,) = [plugin for plugin in telemetry.plugins() if plugin["name"] == name]
    return dict(zip(COLUMNS, plugin["row"], strict=True))


# Latencies


@given(st.floats(min_value=1e-4, max_value=86_400))
def test_a_bucket_is_within_two_percent_of_what_it_counts(seconds: float) -> None:
    assert seconds_of(bucket_of(seconds)) == pytest.approx(seconds, rel=0.02)


def test_buckets_rise_without_gaps_and_are_few() -> None:
    numbers = [bucket_of(micros / 1e6) for micros in range(10_000)]
    assert sorted(set(numbers)) == list(range(numbers[-1] + 1))
    assert numbers == sorted(numbers)
    assert bucket_of(86_400) < 1100


def test_percentiles_are_those_of_the_values() -> None:
    rng = random.Random(1)
    values = sorted(rng.lognormvariate(-5, 1) for _ in range(5000))
    buckets: dict[int, int] = {}
    for value in values:
        buckets[bucket_of(value)] = buckets.get(bucket_of(value), 0) + 1
    found = percentiles(buckets, (0.5, 0.95, 0.99, 1.0))
    exact = [values[2499], values[4749], values[4949], values[4999]]
    assert found == [pytest.approx(value, rel=0.03) for value in exact]


def test_without_values_there_are_no_percentiles() -> None:
    assert percentiles({}, (0.5, 0.99)) == [None, None]


def test_one_slow_request_of_a_hundred_shows_at_the_top_only() -> None:
    found = percentiles({bucket_of(0.001): 99, bucket_of(5.0): 1}, (0.5, 0.99, 0.995))
    assert found == [pytest.approx(v, rel=0.03) for v in (0.001, 0.001, 5.0)]


# Requests


async def test_requests_are_counted_by_second_and_kind(
    tmp_path: Path, autojump_clock: object
) -> None:
    async with running_host(tmp_path, {}) as host:
        telemetry = Telemetry(host.host, ignored=["/probe"], clock=Seconds())

        def some() -> None:
            telemetry.observe("/probe", None, 500, "internal", 10.0)
            for status, error in ((200, None), (404, "not_found"), (500, "internal")):
                telemetry.observe("/x", None, status, error, 0.010)
            telemetry.observe("/x", None, 200, "response_aborted", 0.030)
            telemetry.observe("/x", None, 200, "client_disconnected", 0.010)

        samples = await sampled(telemetry, 7, some)
    for news in samples:
        _, requests, client, server, p50, p95, p99 = news["sample"]
        assert (requests, client, server) == (5, 2, 2)
        assert (p50, p95, p99) == tuple(pytest.approx(ms, rel=0.02) for ms in (10, 30, 30))
    begins = [news["sample"][0] for news in samples]
    assert begins == [1_000_000.0] * 5 + [1_000_005.0] * 2
    series = telemetry.series()
    assert series["at"] == [1_000_000.0, 1_000_005.0]
    assert series["requests"] == [5, 5]


async def test_a_held_loop_makes_a_step_longer_and_no_rate_higher(
    tmp_path: Path, autojump_clock: object
) -> None:
    async with running_host(tmp_path, {}) as host:
        telemetry = Telemetry(host.host, clock=Seconds())
        for _ in range(40):
            telemetry.observe("/x", None, 200, None, 0.001)
        await trio.sleep(20)
        assert telemetry.sample()["sample"][1] == 2


async def test_fifteen_minutes_are_kept_and_no_more(tmp_path: Path, autojump_clock: object) -> None:
    async with running_host(tmp_path, {"idle": IDLE}) as host:
        telemetry = Telemetry(host.host, clock=Seconds())
        await sampled(telemetry, 1000)
        series = telemetry.series()
        (plugin,) = telemetry.plugins()
    assert {len(values) for values in series.values()} == {STEPS + 1}  # and the open one
    assert series["at"][0] == 1_000_000 + 1000 - 900
    assert len(plugin["spark"]) == SPARKS


# Plugins


async def test_a_row_has_the_ledger_and_the_rate(tmp_path: Path, autojump_clock: object) -> None:
    async with running_host(tmp_path, {"sink": SINK, "idle": IDLE}) as host:
        telemetry = Telemetry(host.host, log_count=lambda name: len(name))
        await sampled(telemetry, 1)
        await sampled(telemetry, 10, lambda: host.publish(numbered(30)))
        sink, idle = row(telemetry, "sink"), row(telemetry, "idle")
    assert (sink["state"], sink["restarts"], sink["log"]) == ("running", 0, 4)
    assert (sink["accepted"], sink["delivered"], sink["queued"]) == (300, 300, 0)
    assert sink["rate"] == 30
    assert [idle[key] for key in ("accepted", "queued", "fill")] == [None] * 3


async def test_a_full_buffer_is_seen(tmp_path: Path, autojump_clock: object) -> None:
    slow = SINK.replace("pass", "await trio.sleep_forever()")
    tables = {"sink": {"buffer_limit": 100, "batch_size": 10, "handle_timeout": 1000}}
    async with running_host(tmp_path, {"sink": slow}, tables) as host:
        telemetry = Telemetry(host.host)
        host.publish(numbered(10))
        await sampled(telemetry, 1)
        host.publish(numbered(80))
        assert row(telemetry, "sink")["fill"] == 0.8
        host.publish(numbered(80))
        assert row(telemetry, "sink")["fill"] == 1.0
        assert row(telemetry, "sink")["dropped"] == 60


async def test_requests_are_the_throughput_of_plugins_that_take_no_points(
    tmp_path: Path, autojump_clock: object
) -> None:
    async with running_host(tmp_path, {"idle": IDLE}) as host:
        telemetry = Telemetry(host.host)
        await sampled(telemetry, 1)
        await sampled(telemetry, 5, lambda: telemetry.observe("/x", "idle", 200, None, 0.1))
        (plugin,) = telemetry.plugins()
        assert plugin["unit"] == "requests"
        assert row(telemetry, "idle")["rate"] == 1


async def test_only_rows_that_changed_are_told(tmp_path: Path, autojump_clock: object) -> None:
    async with running_host(tmp_path, {"sink": SINK, "idle": IDLE}) as host:
        telemetry = Telemetry(host.host)
        first, second = await sampled(telemetry, 2)
        host.publish(numbered(1))
        (third,) = await sampled(telemetry, 1)
    assert set(first["rows"]) == {"sink", "idle"}
    assert second["rows"] == {}
    assert set(third["rows"]) == {"sink"}


async def test_what_the_ticks_tell_is_the_spark_line(
    tmp_path: Path, autojump_clock: object
) -> None:
    """Who applies each tick to what `plugins()` said first has what it says last."""
    rng = random.Random(7)
    async with running_host(tmp_path, {"sink": SINK}) as host:
        telemetry = Telemetry(host.host)
        await sampled(telemetry, 3, lambda: host.publish(numbered(rng.randrange(5))))
        (plugin,) = telemetry.plugins()
        told = plugin["spark"]
        for news in await sampled(
            telemetry, 100, lambda: host.publish(numbered(rng.choice((0, 0, 40))))
        ):
            if news["new_spark"]:
                told.append(0)
            told[-1] = news["sparks"].get("sink", told[-1])
        (plugin,) = telemetry.plugins()
    assert told == plugin["spark"]
    assert len(told) == 7
    assert len(set(told)) > 3


async def test_the_timeline_is_bounded_and_without_secrets(
    tmp_path: Path, autojump_clock: object
) -> None:
    keep_secret({"password": "open-sesame-1"})
    async with running_host(tmp_path, {}) as host:
        telemetry = Telemetry(host.host)
        for number in range(TIMELINE + 5):
            step = Transition(State.BACKOFF, float(number), "refused: open-sesame-1")
            telemetry.note("x", "running", step)
    assert len(telemetry.timeline) == TIMELINE
    assert telemetry.timeline[-1]["reason"] == "refused: ***"


async def test_what_a_plugin_drops_and_when_it_is_probed_are_told(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    """Kind: a running plugin that needs somebody: its row says so, and for how long."""
    full = SINK.replace("pass", 'raise RetryLaterError("full")')
    table = {"buffer_limit": 2, "batch_size": 1, "circuit_failures": 1, "circuit_pause": 600.0}
    async with running_host(tmp_path, {"sink": full}, {"sink": table}) as host:
        telemetry = Telemetry(host.host, clock=Seconds())
        await sampled(telemetry, 1)
        before = row(telemetry, "sink")
        assert (before["dropping"], before["probe_at"]) == (0, None)
        host.publish(numbered(10))
        await sampled(telemetry, 2)
        now = row(telemetry, "sink")
        assert now["dropping"] == now["dropped"] > 0
        assert 1_000_000 < now["probe_at"] < 1_000_000 + 700
        await sampled(telemetry, 61)
        later = row(telemetry, "sink")
        assert (later["dropping"], later["dropped"]) == (0, now["dropped"])


async def test_a_readiness_probe_that_says_no_is_no_failed_request(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    """Kind: an answer of the service about itself, counted as a failure of its own."""
    async with running_host(tmp_path, {}) as host:
        telemetry = Telemetry(
            host.host, (item.path for item in RESOURCES if not item.plotted), clock=Seconds()
        )
        telemetry.observe("/readyz", None, 503, "not_ready", 0.001)
        telemetry.observe("/x", "cam", 500, "internal_server_error", 0.001)
        series = telemetry.series()
        assert series["requests"][-1] == series["server_errors"][-1] > 0  # the probe is in neither
        assert series["client_errors"][-1] == 0
        assert [item["route"] for item in telemetry.failing()] == ["/x"]
