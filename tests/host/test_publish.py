"""A point is checked whole when it is published, whatever its class; all of a list is taken, or none."""

from __future__ import annotations

import dataclasses
import datetime as dt
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lva import MonitoringPoint
from tests.support import numbered, running_host

SINK = """
class Sink(BaseEventPlugin):
    eventName = "monitoring_event"
    seen = []

    async def handleEvent(self, points, logger):
        self.seen += points
"""


class Unchecked(MonitoringPoint):
    """A derived class that leaves out the checks of its base."""

    def __post_init__(self) -> None:
        pass


@dataclasses.dataclass(frozen=True)
class Labelled(MonitoringPoint):
    """A derived class as it should be."""

    label: str = ""


class Changed(MonitoringPoint):
    """A derived class that checks itself, and then changes its mind."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "fields", {"at": dt.datetime.now(dt.UTC)})


class Smaller(MonitoringPoint):
    """A derived class that is wrong about its size."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "size", -(10**9))


def unchecked(**fields: Any) -> Callable[[], MonitoringPoint]:
    return lambda: Unchecked("odd", 1.0, {}, fields)


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (unchecked(at=dt.datetime(2026, 1, 1, tzinfo=dt.UTC)), TypeError, "'odd'.*'at'.*datetime"),
        (unchecked(x=math.nan), ValueError, "'odd'.*'x'.*not finite"),
        (unchecked(x=math.inf), ValueError, "'odd'.*'x'.*not finite"),
        (unchecked(x=2**64), ValueError, "'odd'.*'x'.*64 bits"),
        (unchecked(x="\ud800"), ValueError, "'odd'.*'x'.*Unicode"),
        (unchecked(x=[1]), TypeError, "'odd'.*'x'.*list"),
        (lambda: Unchecked("odd", 1.0, {"t": None}, {}), TypeError, "'odd'.*'t'.*NoneType"),
        (lambda: Unchecked("odd", math.nan, {}, {}), ValueError, "'odd'.*time"),
        (lambda: Unchecked("odd", 1.0, None, {}), TypeError, "'odd'.*NoneType"),
        (lambda: Unchecked(None, 1.0, {}, {}), TypeError, "series"),
        (lambda: Changed("odd", 1.0, {}, {}), TypeError, "'odd'.*'at'.*datetime"),
        (lambda: MonitoringPoint.__new__(MonitoringPoint), TypeError, "MonitoringPoint.*series"),
        (lambda: Unchecked.__new__(Unchecked), TypeError, "Unchecked.*series"),
        (lambda: {"series": "odd"}, TypeError, "takes MonitoringPoint objects, not dict"),
    ],
)
@pytest.mark.parametrize("spool", ["memory", "disk"])
async def test_a_wrong_point_is_refused_with_all_that_came_with_it(
    tmp_path: Path, spool: str, make: Callable[[], Any], error: Any, says: str
) -> None:
    """Kind: a point is checked whole when it is published, whatever checks its class leaves out."""
    async with running_host(tmp_path, {"sink": SINK}, {"sink": {"spool": spool}}) as host:
        with pytest.raises(error, match=f"(?s){says}"):
            host.publish([*numbered(2), make(), *numbered(2, 2)])
        host.publish(numbered(1, 4))
        part = await host.receipt_of("sink")
    assert part.points["accepted"] == part.points["delivered"] == 1


def test_a_value_is_refused_with_series_and_key_where_a_point_is_made() -> None:
    with pytest.raises(ValueError, match=r"series 'odd': fields\['x'\] is not finite"):
        MonitoringPoint("odd", 1.0, {}, {"x": math.nan})


async def test_a_sound_point_of_a_derived_class_is_delivered_as_it_is(
    tmp_path: Path, autojump_clock: Any
) -> None:
    points = [
        Labelled("l", 1.0, {}, {"n": 0}, "mine"),
        Unchecked("u", 2.0, {"t": "v"}, {"n": 1}),
        Smaller("s", 3.0, {}, {"n": 2}),
    ]
    async with running_host(tmp_path, {"sink": SINK}) as host:
        host.publish(points)
        await host.receipt_of("sink")
        seen = host.plugin("sink").seen
    assert seen[0] is points[0]
    assert seen[1:] == [
        MonitoringPoint("u", 2.0, {"t": "v"}, {"n": 1}),
        MonitoringPoint("s", 3.0, {}, {"n": 2}),
    ]
    assert all(point.size > 0 for point in seen)
    with pytest.raises(TypeError, match="shared by all plugins"):
        seen[1].fields["n"] = 5
