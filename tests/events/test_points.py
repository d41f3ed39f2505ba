"""Monitoring points: what they accept, and that nobody can change a shared one."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import pickle
from collections.abc import Callable
from contextvars import copy_context

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from lva import MonitoringPoint, add_point_fields, add_point_tags
from lva.events.points import MAX_SIZE, RESERVED, PointAdditions, ReadOnlyDict, collect_additions


def collected(work: Callable[[], object]) -> PointAdditions:
    """Return what the work adds, done in a context of its own as a request is."""

    def run() -> PointAdditions:
        additions = collect_additions()
        work()
        return additions

    return copy_context().run(run)


finite = st.floats(allow_nan=False, allow_infinity=False)
values = st.dictionaries(st.text(min_size=1), st.text() | st.integers(-(2**63), 2**63 - 1) | finite)


@pytest.mark.slow("random examples")
@given(st.text(min_size=1), finite, values, values)
def test_a_point_keeps_what_it_was_made_of(series, time, tags, fields):
    point = MonitoringPoint(series, time, tags, fields)
    assert (point.series, point.time, point.tags, point.fields) == (series, time, tags, fields)
    assert json.loads(json.dumps({**point.tags})) == json.loads(json.dumps(tags))
    assert point == MonitoringPoint(series=series, time=time, tags=tags, fields=fields)
    assert dataclasses.replace(point, series="other").tags == tags


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((1, 1.0, {}, {}), TypeError),
        ((None, 1.0, {}, {}), TypeError),
        ((b"s", 1.0, {}, {}), TypeError),
        (("", 1.0, {}, {}), ValueError),
        (("s", "now", {}, {}), TypeError),
        (("s", None, {}, {}), TypeError),
        (("s", math.nan, {}, {}), ValueError),
        (("s", -math.inf, {}, {}), ValueError),
        (("s", 10**400, {}, {}), ValueError),
        (("s", 1.0, None, {}), TypeError),
        (("s", 1.0, {}, 5), TypeError),
        (("s", 1.0, {"a": None}, {}), TypeError),
        (("s", 1.0, {"a": object()}, {}), TypeError),
        (("s", 1.0, {}, {"a": [1]}), TypeError),
        (("s", 1.0, {}, {1: "a"}), TypeError),
        (("s", 1.0, {"": 1}, {}), ValueError),
        (("s", 1.0, {}, {"": 1}), ValueError),
        (("s", 1.0, {}, {"a": math.nan}), ValueError),
        (("s", 1.0, {"a": -math.inf}, {}), ValueError),
        (("\ud800", 1.0, {}, {}), ValueError),
        (("s", 1.0, {"\ud800": 1}, {}), ValueError),
        (("s", 1.0, {}, {"a": "\udfff"}), ValueError),
        (("s", 1.0, {}, {"a": "x" * MAX_SIZE}), ValueError),
        (("s", 1.0, {}, {"a": 2**63}), ValueError),
        (("s", 1.0, {"a": -(2**63) - 1}, {}), ValueError),
    ],
)
def test_a_malformed_point_is_refused_where_it_is_made(arguments, error):
    with pytest.raises(error):
        MonitoringPoint(*arguments)


def test_the_size_of_a_point_is_that_of_its_names_and_values():
    point = MonitoringPoint("série", 1.0, {"a": "bc"}, {"n": 1, "x": 2.5})
    assert point.size == 6 + 8 + 3 + 9 + 9
    for twin in (copy.copy(point), copy.deepcopy(point), pickle.loads(pickle.dumps(point))):
        assert twin == point
        assert twin.size == point.size


def test_a_point_is_immutable():
    tags = {"a": 1}
    point = MonitoringPoint("s", 1.0, tags, {"b": 2})
    tags["a"] = 5
    assert point.tags == {"a": 1}
    with pytest.raises(AttributeError):
        point.series = "t"  # type: ignore[misc]
    changes = [
        lambda d: d.__setitem__("a", 2),
        lambda d: d.__delitem__("a"),
        lambda d: d.update(a=2),
        lambda d: d.pop("a"),
        lambda d: d.popitem(),
        lambda d: d.setdefault("z", 2),
        lambda d: d.clear(),
        lambda d: d.__ior__({"z": 1}),
    ]
    for held in (point.tags, point.fields):
        before = dict(held)
        for change in changes:
            with pytest.raises(TypeError, match="shared by all plugins"):
                change(held)
        assert held == before
    mine = point.tags.copy()
    mine["a"] = 9
    assert point.tags == {"a": 1}


def test_additions_go_to_the_request_being_handled():
    with pytest.raises(RuntimeError, match="no request is being handled"):
        add_point_tags(camera=1)

    def request():
        add_point_tags(camera=1)
        inner = collected(lambda: add_point_fields(frames=2.5))
        assert (inner.tags, inner.fields) == ({}, {"frames": 2.5})
        add_point_tags(camera=2, place="door")

    outer = collected(request)
    assert (outer.tags, outer.fields) == ({"camera": 2, "place": "door"}, {})
    with pytest.raises(RuntimeError):
        add_point_fields(frames=1)


@pytest.mark.parametrize("name", sorted(RESERVED))
@pytest.mark.parametrize("add", [add_point_tags, add_point_fields])
def test_what_the_service_sets_is_refused(add, name):
    def request():
        with pytest.raises(ValueError, match=name):
            add(**{"good": 1, name: 1})

    additions = collected(request)
    assert not additions.tags
    assert not additions.fields


@pytest.mark.parametrize("value", [None, [], {}, object(), b"x"])
def test_additions_of_a_wrong_type_are_refused(value):
    def request():
        with pytest.raises(TypeError, match="must be a str, int or float"):
            add_point_fields(good=1, bad=value)

    assert not collected(request).fields


async def test_additions_reach_the_point_from_child_tasks_and_threads():
    async def child():
        add_point_tags(child=1)

    async def request():
        additions = collect_additions()
        async with trio.open_nursery() as inner:
            inner.start_soon(child)
        await trio.to_thread.run_sync(lambda: add_point_fields(thread=2))
        seen.append((additions.tags, additions.fields))

    seen = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(request)
    assert seen == [({"child": 1}, {"thread": 2})]


async def test_two_requests_at_once_do_not_mix():
    async def request(n):
        additions = collect_additions()
        add_point_tags(n=n)
        await trio.lowlevel.checkpoint()
        add_point_fields(n=n)
        seen.append((additions.tags["n"], additions.fields["n"]))

    seen = []
    async with trio.open_nursery() as nursery:
        for n in range(10):
            nursery.start_soon(request, n)
    assert sorted(seen) == [(n, n) for n in range(10)]


def test_points_made_of_checked_tags_share_them_and_know_their_size() -> None:
    first = MonitoringPoint("a", 1.0, {"tag": "x" * 10}, {"field": 1})
    second = MonitoringPoint("b", 2.0, first.tags, {"field": 2})
    assert second.tags is first.tags
    assert second.size == first.size


def test_read_only_tags_that_nobody_has_checked_are_checked() -> None:
    with pytest.raises(ValueError, match="empty name"):
        MonitoringPoint("a", 1.0, ReadOnlyDict({"": 1}), {})
