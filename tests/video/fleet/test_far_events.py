"""Who looks at a stream of another agent is told its events."""

from __future__ import annotations

import json

import pytest
import trio

from lva.video.fleet.far_events import LOOK, PACE, FarEvents, page_of


async def test_what_is_new_is_told_as_long_as_somebody_looks(autojump_clock, nursery):
    pages, looked_at, asked, told = {"s": [1]}, set(), [], []

    async def ask(stream_id):
        asked.append(stream_id)
        page = pages[stream_id]
        return None if page is None else [{"event_id": number} for number in reversed(page)]

    def tell(stream_id, events):
        told.extend((stream_id, event["event_id"]) for event in events)

    nursery.start_soon(FarEvents(lambda: looked_at, ask, tell).run)
    await trio.sleep(10 * PACE)
    assert asked == []
    looked_at.add("s")
    await trio.sleep(2 * LOOK)
    assert (asked, told) == (["s"], [])
    pages["s"] = [1, 2, 3]
    await trio.sleep(PACE)
    assert told == [("s", 2), ("s", 3)]
    pages["s"] = None  # its agent is unreachable
    await trio.sleep(PACE)
    pages["s"] = [3, 4]
    await trio.sleep(PACE)
    pages["s"] = [11, 12]  # of the next one
    await trio.sleep(PACE)
    assert told[2:] == [("s", 4), ("s", 11), ("s", 12)]
    looked_at.clear()
    await trio.sleep(2 * PACE)
    asked.clear()
    await trio.sleep(10 * PACE)
    assert asked == []
    looked_at.add("s")
    await trio.sleep(2 * LOOK)
    assert asked == ["s"]
    assert len(told) == 5


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"events": 1}', b'{"events": [1]}', b"[" * 100_000]
)
def test_a_response_that_is_not_understood_is_none(body):
    assert page_of(body) is None


def test_events_are_taken_as_they_are():
    events = [{"event_id": "a", "time": 1.0, "data": {}}, {"event_id": "b", "time": 0.5}]
    assert page_of(json.dumps({"events": events, "next": None}).encode()) == events
