"""Events of streams that are kept: within bounds of number and bytes; pictures go first, and are counted."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lva import StreamAnalyticsEvent
from lva.video.supervision import kept
from lva.video.supervision.kept import KeptEvents, KeptPictures


def event(number: int, picture: int = 0, data: int = 0) -> StreamAnalyticsEvent:
    return StreamAnalyticsEvent(
        "7", "door", "eye", "seen", number, 1.0, {"x": "x" * data}, bytes(picture), number=number
    )


def test_the_oldest_events_go_with_their_pictures() -> None:
    pictures = KeptPictures()
    events = KeptEvents(pictures)
    for number in range(1, kept.MOST_EVENTS + 11):
        events.add(event(number, picture=100))
    assert [each.number for each in events] == [*range(11, kept.MOST_EVENTS + 11)]
    assert (events.picture(10), len(events.picture(11) or b"")) == (None, 100)
    assert pictures.bytes == events.picture_bytes == 100 * kept.MOST_EVENTS
    assert events.pictures_dropped == 0
    assert not any(each.image for each in events)
    assert events[-1].as_dict()["image"]["size"] == 100
    events.clear()
    assert (pictures.bytes, len(events)) == (0, 0)


def test_events_are_bounded_in_bytes_without_their_pictures() -> None:
    events = KeptEvents(KeptPictures())
    for number in range(1, 21):
        events.add(event(number, data=500_000))
    assert sum(each.size for each in events) <= kept.MOST_BYTES
    assert [each.number for each in events][-1] == 20
    assert len(events) == 8


def test_the_oldest_picture_of_all_streams_goes_and_its_event_stays() -> None:
    """Kind: many streams together have no more memory than one bound says."""
    pictures = KeptPictures(most=1000, most_of_one=500)
    one, other = KeptEvents(pictures), KeptEvents(pictures)
    for number in range(1, 7):
        one.add(event(number, picture=100))
    assert (one.pictures_dropped, one.picture(1), len(one)) == (1, None, 6)
    for number in range(1, 7):
        other.add(event(number, picture=100))
    assert (one.pictures_dropped, other.pictures_dropped) == (1, 1)
    other.add(event(7, picture=501))  # more than one stream may have
    assert (other.pictures_dropped, other.picture_bytes, len(other)) == (2, 500, 7)
    one.add(event(7, picture=200))
    assert (one.pictures_dropped, one.picture_bytes, pictures.bytes) == (3, 500, 1000)
    third = KeptEvents(pictures)
    third.add(event(1, picture=300))
    assert (one.pictures_dropped, other.pictures_dropped) == (6, 2)
    assert (pictures.bytes, third.picture_bytes, one.picture_bytes) == (1000, 300, 200)
    other.clear()
    assert pictures.bytes == 500


@pytest.mark.slow("random examples")
@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 120)), min_size=20, max_size=100))
def test_the_bytes_are_those_of_the_pictures_that_can_be_had(steps: list[tuple[int, int]]) -> None:
    pictures = KeptPictures(most=600, most_of_one=300)
    streams: list[Any] = [KeptEvents(pictures) for _ in range(3)]
    for number, (which, size) in enumerate(steps, 1):
        streams[which].add(event(number, picture=size))
        had = [sum(len(one.picture(each.number) or b"") for each in one) for one in streams]
        assert had == [one.picture_bytes for one in streams]
        assert sum(had) == pictures.bytes <= 600
        assert max(had) <= 300
