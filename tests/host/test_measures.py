"""What plugins measure: read while they run; one that fails costs no other anything."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from lva import Metric
from tests.support import running_host

METER = """
    from lva import Metric

    class Meter(BaseBackgroundPlugin):
        async def initialize(self):
            self.mode = "well"
            self.app.addMetrics(self.read)

        def read(self):
            if self.mode == "raise":
                raise ValueError("no reading")
            if self.mode == "wrong":
                return [1]
            return [Metric("meter_level", "gauge", "How high.", ["tank"], [(("a",), 5)])]
"""
OTHER = METER.replace("class Meter", "class Other").replace("meter_level", "other_level")


async def test_metrics_are_there_while_the_plugin_runs(tmp_path: Any, autojump_clock: Any) -> None:
    async with running_host(tmp_path, {"meter": METER, "other": OTHER}) as host:
        await host.wait_until_running()
        metrics = host.host.metrics()
        assert {name: [metric.name for metric in found] for name, found in metrics.items()} == {
            "meter": ["meter_level"],
            "other": ["other_level"],
        }
        await host.host.changes.stop("meter")
        assert [*host.host.metrics()] == ["other"]
        await host.host.changes.start("meter")
        await host.wait_until_running()
        assert [len(found) for found in host.host.metrics().values()] == [1, 1]


@pytest.mark.parametrize(
    ("mode", "said"), [("raise", "ValueError: no reading"), ("wrong", "returned int, not Metric")]
)
async def test_one_that_fails_is_named_once_and_costs_no_other_anything(
    tmp_path: Any, autojump_clock: Any, caplog: pytest.LogCaptureFixture, mode: str, said: str
) -> None:
    async with running_host(tmp_path, {"meter": METER, "other": OTHER}) as host:
        await host.wait_until_running()
        host.plugin("meter").mode = mode
        for _ in range(3):
            metrics = host.host.metrics()
            assert (metrics["meter"], len(metrics["other"])) == ([], 1)
        (record,) = [item for item in caplog.records if "metrics are left out" in item.message]
        assert said in record.message
        assert record.levelno == logging.ERROR
        host.plugin("meter").mode = "well"
        assert len(host.host.metrics()["meter"]) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("a b", "gauge", "x"),
        ("a", "histogram", "x"),
        ("a_total", "gauge", "x"),
        ("a", "counter", "x"),
        ("a", "gauge", "x", ["__b"]),
        ("a", "gauge", "x", ["b"], [((), 1)]),
        ("a", "gauge", "x", ["b"], [("b", 1)]),
        ("a", "gauge", "x", ["b"], [(("b",), "1")]),
        ("a", "gauge", "x", ["b"], [((1,), 1)]),
    ],
)
def test_a_metric_is_checked_where_it_is_made(arguments: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        Metric(*arguments)
