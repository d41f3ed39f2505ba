"""Events of streams go the way of points: what holds for the delivery of points holds for them."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lva import StreamAnalyticsEvent, StreamEvent
from lva.errors import ConfigurationError
from lva.events.types import EVENT_TYPES, decode, encode
from lva.host.delivery.publisher import Publisher
from lva.host.delivery.tap import DELIVERED, PUBLISHED
from lva.host.loading.load import load_plugins
from tests.event_samples import CHANGE, ITEMS, JPEG, POINT, SEEN
from tests.support import host_settings, running_host, write_plugin

SINK = """
class Sink(BaseEventPlugin):
    eventName = "monitoring_event"
    otherEvents = ("stream_event", "analytics_event")
    seen, fails = [], 0

    async def handleEvent(self, points, logger):
        if self.fails:
            Sink.fails -= 1
            raise RetryLaterError("not yet")
        self.seen += points
"""
REJECTS = """
class Sink(BaseEventPlugin):
    eventName = "analytics_event"

    async def handleEvent(self, events, logger):
        raise PermanentDeliveryError("wrong for ever")
"""


def test_every_event_type_has_an_item_here() -> None:
    assert ITEMS.keys() == EVENT_TYPES.keys()


@pytest.mark.parametrize(
    "item", [*ITEMS.values(), SEEN.without_picture()], ids=[*ITEMS, "no picture"]
)
def test_an_item_is_the_same_after_the_spool_a_pickle_and_a_copy(item: Any) -> None:
    """Kind: what outlives the process comes back as it was, and knows its size."""
    for again in (
        decode(json.loads(json.dumps(encode(item)))),
        pickle.loads(pickle.dumps(item)),
        copy.deepcopy(item),
    ):
        assert (again, again.size) == (item, item.size)
    assert json.loads(json.dumps(item.as_dict()))


def test_the_document_of_an_event_has_what_receivers_know_it_by() -> None:
    document = SEEN.as_dict()
    assert {
        key: document[key] for key in ("event_name", "event_type", "account_id", "stream_id")
    } == {
        "event_name": "analytics_event",
        "event_type": "motion_start",
        "account_id": "acme",
        "stream_id": "7a",
    }
    assert CHANGE.as_dict()["event_create_time"] == "2027-01-15T08:00:00.250Z"
    assert CHANGE.as_dict()["event_type"] == "stream_failure"
    assert CHANGE.event_id != StreamEvent("7a", "door", "done", "").event_id
    picture = SEEN.without_picture().as_dict()["image"]
    assert picture == {"type": "image/jpeg", "size": len(JPEG), "url": "/streams/7a/events/1.jpg"}


@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        ({"data": {"a": [{"b": float("nan")}]}}, ValueError, r"data\.a\.0\.b is not finite"),
        ({"data": {"a": 2**70}}, ValueError, r"data\.a does not fit into 64 bits"),
        ({"data": {"a": object()}}, TypeError, r"data\.a is a object, which JSON cannot say"),
        ({"data": {1: 2}}, TypeError, "data has a key that is a int"),
        ({"data": {"a": "\ud800"}}, ValueError, r"data\.a: not valid Unicode"),
        ({"data": {"a": "x" * 2**20}}, ValueError, "data is too large"),
        ({"data": [1]}, TypeError, "data is a mapping, not list"),
        ({"image": "text"}, TypeError, "image is a JPEG as bytes, not str"),
        ({"frame": "3"}, TypeError, "frame is an int, not str"),
        ({"time": float("inf")}, ValueError, "time is a finite number"),
        ({"created": -1.0}, ValueError, "created is no time"),
        ({"event_type": ""}, ValueError, "event_type is empty"),
        ({"stream": None}, TypeError, "stream is a str, not NoneType"),
    ],
)  # fmt: skip
def test_a_wrong_event_is_refused_where_it_is_made(
    fields: dict[str, Any], error: type[Exception], says: str
) -> None:
    right = {
        "stream_id": "7",
        "stream": "d",
        "analytics": "m",
        "event_type": "e",
        "frame": 1,
        "time": 1.0,
    }
    with pytest.raises(error, match=says):
        StreamAnalyticsEvent(**{**right, **fields})


def test_nothing_of_an_event_can_be_changed() -> None:
    for change in (lambda: SEEN.data.update(x=1), lambda: SEEN.data["boxes"][0].clear()):
        with pytest.raises(TypeError, match="shared by all plugins"):
            change()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("spool", ["memory", "disk"])
async def test_a_class_gets_the_event_types_that_the_setting_names_in_one_order(
    tmp_path: Path, spool: str
) -> None:
    """Kind: one mailbox, account and spool for all; who does not ask gets points alone."""
    tables = {"sink": {"spool": spool, "events": [*EVENT_TYPES], "flush_interval": 0.05}}
    async with running_host(tmp_path, {"sink": SINK, "plain": SINK}, tables) as host:
        host.plugin("sink").seen, host.plugin("plain").seen = [], []
        with (
            host.host.publisher.taps.tapped(None) as published,
            host.host.publisher.taps.tapped("sink") as own,
        ):
            for name, item in ITEMS.items():
                assert host.host.publisher.publish(name, [item])
            with pytest.raises(TypeError, match="stream_event takes StreamEvent objects, not Mon"):
                host.host.publisher.publish("stream_event", [POINT])
            part = await host.receipt_of("sink")
        seen, plain = host.plugin("sink").seen, host.plugin("plain").seen
        steps = [passage.step for passage in own.take()[0]]
    assert seen == [*ITEMS.values()]
    assert plain == [POINT]
    assert part.points["accepted"] == part.points["delivered"] == 3
    assert [passage.step for passage in published.take()[0]] == [PUBLISHED] * 3
    assert steps == [DELIVERED]


def test_who_gets_several_event_types_is_new_once() -> None:
    """Kind: what is begun for a new mailbox, such as its writer to the disk, is begun once."""
    delivery: Any = SimpleNamespace(mailbox=object(), intake=object())
    publisher = Publisher(lambda: False)
    for found in ([delivery], []):
        assert publisher.connect([(name, delivery) for name in EVENT_TYPES]) == found


@pytest.mark.slow("a spool on the disk, twice")
async def test_events_in_a_spool_come_after_a_restart(tmp_path: Path) -> None:
    """Kind: what a receiver did not take before the stop, pictures too, is in the next run."""
    tables = {"sink": {"spool": "disk", "events": [*EVENT_TYPES]}}
    async with running_host(tmp_path, {"sink": SINK}, tables) as host:
        type(host.plugin("sink")).fails = 1000
        for name, item in ITEMS.items():
            host.host.publisher.publish(name, [item])
        part = await host.receipt_of("sink")
        assert part.points["kept"] == 3
    async with running_host(tmp_path, {"sink": SINK}, tables) as host:
        part = await host.receipt_of("sink")
        assert host.plugin("sink").seen == [*ITEMS.values()]
    assert (part.points["recovered"], part.points["delivered"]) == (3, 3)


async def test_a_picture_counts_into_the_bytes_of_the_buffer(
    tmp_path: Path, autojump_clock: Any
) -> None:
    """Kind: what waits in memory is bounded in bytes, pictures included."""
    tables = {"sink": {"events": ["analytics_event"], "buffer_bytes": 5000, "flush_interval": 5.0}}
    async with running_host(tmp_path, {"sink": SINK}, tables) as host:
        host.host.publisher.publish("analytics_event", [SEEN] * 10)
        part = await host.receipt_of("sink")
    assert part.points["dropped"] == {"overflow": 10 - 5000 // SEEN.size}


async def test_a_dead_letter_is_the_document_and_a_filter_knows_the_tags(tmp_path: Path) -> None:
    other = StreamAnalyticsEvent("8", "gate", "motion", "motion_start", 1, 1.0)
    keys = {"dead_letters": True, "dead_letters_bytes": 8192, "tags": {"stream": ["door"]}}
    large = dataclasses.replace(SEEN, image=bytes(5000))  # a letter may have half of the bytes
    async with running_host(tmp_path, {"sink": REJECTS}, {"sink": keys}) as host:
        host.host.publisher.publish("analytics_event", [SEEN, other, large])
        part = await host.receipt_of("sink")
    (letter,) = (tmp_path / "state" / "dead_letters").iterdir()
    line, bare = letter.read_text().splitlines()
    assert json.loads(bare)["image"] == large.without_picture().as_dict()["image"]
    document = json.loads(json.dumps(SEEN.as_dict()))
    assert {**json.loads(line), "at": 0} == {**document, "reason": "rejected", "at": 0}
    assert (part.points["rejected"], part.points["filtered"]) == (2, 1)


@pytest.mark.parametrize(
    ("body", "events", "says"),
    [
        ("", ["streem_event"], "no event type 'streem_event'; did you mean 'stream_event'"),
        ("", ["alarm"], "available: analytics_event, monitoring_event, stream_event"),
        ("", [], "at least 1 item"),
        ("", ["stream_event"], "events: 'stream_event': the plugin does not take that; it takes: mon"),
        ("Config = 5", ["stream_event"], r"(?s)Config must be.*takes: monitoring_event"),
        ('otherEvents = ("alarm",)', None, r"unknown event type 'alarm' in otherEvents; available: a"),
        ('otherEvents = "stream_event"', None, "otherEvents that are no tuple of names"),
    ],
)  # fmt: skip
def test_a_wrong_event_type_is_refused_with_the_right_ones(
    tmp_path: Path, body: str, events: list[str] | None, says: str
) -> None:
    source = f"""
class Sink(BaseEventPlugin):
    eventName = "monitoring_event"
    {body}

    async def handleEvent(self, points, logger): ...
"""
    write_plugin(tmp_path / "plugins", "sink", source)
    table = {} if events is None else {"events": events}
    with pytest.raises((ConfigurationError, ValueError), match=says):
        load_plugins(host_settings(tmp_path, ["sink"], {"sink": table}))
