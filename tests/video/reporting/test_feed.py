"""What readers of streams are told: all of it first, then what is new, and never more than they can take."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest
import trio

from lva.events.streams import StreamAnalyticsEvent
from lva.video.codes import StreamState
from lva.video.definition import StreamDefinition
from lva.video.reporting.feed import (
    BACKLOG,
    EVENTS,
    LOOK,
    READERS,
    TYPES,
    Feed,
    TooManyReadersError,
)
from lva.video.source import parse_source
from lva.video.supervision.stream import Stream, StreamServices


class World:
    """Streams whose changes and events a feed tells."""

    def __init__(self) -> None:
        self.streams: list[Stream] = []
        self.readers: list[AsyncGenerator[bytes, None]] = []
        self.feed = Feed(lambda: self.streams)
        logger = logging.getLogger("feed")
        self._services = StreamServices(lambda _: [], self.feed, logger, trio.lowlevel.checkpoint)

    def add(self, name: str, source: str = "test:") -> Stream:
        definition = StreamDefinition.model_validate({"name": name, "source": source})
        stream = Stream(f"id-{name}", definition, parse_source(source), self._services)
        self.streams.append(stream)
        stream.move(StreamState.PENDING, "created")
        return stream

    def open(self, stream_id: str | None = None) -> AsyncGenerator[bytes, None]:
        self.readers.append(self.feed.open(stream_id))
        return self.readers[-1]

    async def close(self) -> None:
        for reader in self.readers:
            await reader.aclose()

    def see(self, stream: Stream, number: int = 1, event_type: str = "motion") -> None:
        event = StreamAnalyticsEvent(
            stream.id, "door", "eye", event_type, 7, 1.0, {"area": 0.5}, number=number
        )
        stream.events.add(event)
        self.feed.seen(event)


@pytest.fixture
async def world(nursery: trio.Nursery) -> AsyncIterator[World]:
    world = World()
    nursery.start_soon(world.feed.run)
    yield world
    await world.close()


async def following(reader: AsyncIterator[bytes]) -> tuple[str, dict[str, Any]]:
    head, data = (await anext(reader)).decode().strip().split("\n")
    return head.removeprefix("event: "), json.loads(data.removeprefix("data: "))


async def news(reader: AsyncIterator[bytes], key: str) -> Any:
    """Wait for an update that has something under a key."""
    while True:
        name, data = await following(reader)
        if name == "update" and data[key]:
            return data[key]


async def test_a_reader_is_told_all_and_then_what_is_new(world: World, autojump_clock: Any) -> None:
    door = world.add("door", "rtsp://admin:secret@camera/1")
    reader = world.open()
    name, hello = await following(reader)
    assert name == "hello"
    (told,) = hello["streams"]
    assert (told["name"], told["status"]) == ("door", "pending")
    assert [change["reason"] for change in told["changes"]] == ["created"]
    assert "secret" not in json.dumps(hello)
    assert (await news(reader, "streams"))["id-door"]["name"] == "door"
    door.move(StreamState.RESTART, "refused", "auth_failed")
    _, update = await following(reader)
    assert update["streams"]["id-door"]["code"] == "auth_failed"
    assert update["changes"][0]["stream"] == "door"
    door.move(StreamState.PENDING, "connecting")
    world.see(door)
    _, update = await following(reader)
    assert update["streams"]["id-door"]["code"] is None  # what is no more, is told as well
    assert update["events"][0]["event_type"] == "motion"
    _, update = await following(reader)
    assert (update["streams"], update["changes"], update["events"]) == ({}, [], [])
    world.add("gate")
    name, hello = await following(reader)
    assert (name, [stream["name"] for stream in hello["streams"]]) == ("hello", ["door", "gate"])


async def test_what_was_taken_back_since_is_told_again(world: World, autojump_clock: Any) -> None:
    """The kind is what a reader was told at first, and is again what others had been told before."""
    door = world.add("door")
    before = world.open()
    await news(before, "streams")
    await before.aclose()
    door.move(StreamState.RESTART, "refused", "auth_failed")
    after = world.open()
    _, hello = await following(after)
    assert hello["streams"][0]["status"] == "restart"
    door.move(StreamState.PENDING, "connecting")
    assert (await news(after, "streams"))["id-door"]["status"] == "pending"


async def test_a_reader_of_one_stream_is_told_of_no_other(
    world: World, autojump_clock: Any
) -> None:
    door, gate = world.add("door"), world.add("gate")
    world.see(door)
    reader = world.open("id-door")
    _, hello = await following(reader)
    (told,) = hello["streams"]
    assert [event["number"] for event in told["newest"]] == [1]
    world.see(gate, 5)
    gate.move(StreamState.STOP, "stopped by a user")
    world.see(door, 2)
    assert [event["number"] for event in await news(reader, "events")] == [2]
    world.streams.remove(door)
    while (await following(reader))[1].get("streams") != []:
        pass


async def test_a_reader_of_all_is_told_in_short_what_was_seen(
    world: World, autojump_clock: Any
) -> None:
    """The kind: a page that is opened knows of what was seen before, and no stream's data cost it much."""
    door = world.add("door")
    for number in range(1, 4):
        world.see(door, number)
    _, hello = await following(world.open())
    assert hello["streams"][0]["newest"] == [{"event_type": "motion", "time": 1.0}]
    for number in range(2 * TYPES):
        world.see(door, number, f"type {number}")
    _, hello = await following(world.open())
    newest = [event["event_type"] for event in hello["streams"][0]["newest"]]
    assert newest == [f"type {number}" for number in range(TYPES, 2 * TYPES)]


async def test_an_event_has_the_address_of_its_picture_while_that_is_kept(
    world: World, autojump_clock: Any
) -> None:
    door = world.add("door")
    for number in (1, 2):
        url = f"/streams/id-door/events/{number}.jpg"
        image = StreamAnalyticsEvent(
            "id-door", "door", "e", "e", 7, 1.0, {}, b"jpeg", url, number=number
        )
        door.events.add(image)
    door.events.drop_picture(1)
    _, hello = await following(world.open("id-door"))
    images = [event["image"] for event in hello["streams"][0]["newest"]]
    assert [image["url"] for image in images] == [None, "/streams/id-door/events/2.jpg"]
    assert images[0]["size"] == 4


async def test_a_storm_of_events_costs_a_reader_little(world: World, autojump_clock: Any) -> None:
    door = world.add("door")
    reader = world.open()
    await following(reader)
    for number in range(EVENTS + 50):
        world.see(door, number)
    while True:
        _, update = await following(reader)
        if update["events"]:
            break
    assert [event["number"] for event in update["events"]] == list(range(50, EVENTS + 50))
    assert update["left_out"] == 50


async def test_who_does_not_read_is_cut_off_and_others_go_on(
    world: World, autojump_clock: Any
) -> None:
    world.add("door")
    slow, quick = world.open(), world.open()
    await following(slow)
    for _ in range(3 * BACKLOG):
        await following(quick)
    with pytest.raises(StopAsyncIteration):
        for _ in range(2 * BACKLOG):
            await following(slow)
    await following(quick)


async def test_readers_are_bounded_and_leave(world: World, autojump_clock: Any) -> None:
    readers = [world.open() for _ in range(READERS)]
    for reader in readers:
        await following(reader)
    with pytest.raises(TooManyReadersError):
        world.feed.open()
    await world.close()
    await trio.sleep(2 * LOOK)
    assert (await following(world.open()))[0] == "hello"


async def test_at_the_plugins_end_readers_are_at_the_end(autojump_clock: Any) -> None:
    world = World()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.feed.run)
        reader = world.open()
        await following(reader)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    with pytest.raises(StopAsyncIteration):
        while True:
            await following(reader)
    await world.close()
