"""Frames a second, and the age of the newest: measured, and never of a time that is over."""

from __future__ import annotations

from lva.video.supervision.freshness import Freshness

SECOND = 1_000_000_000


class Clock:
    def __init__(self) -> None:
        self.now = 100 * SECOND

    def __call__(self) -> int:
        return self.now


def test_fps_and_age_are_of_now() -> None:
    """The kind: a number that goes on saying what was once measured."""
    clock = Clock()
    fresh = Freshness(clock)
    assert (fresh.fps, fresh.age) == (0.0, None)
    for look in range(41):  # four a second, for ten seconds, at 25 frames a second
        fresh.note(look * 25 // 4, clock.now)
        clock.now += SECOND // 4
    assert 24 <= fresh.fps <= 26
    assert fresh.age == 0.25
    clock.now += 4 * SECOND
    fresh.note(250, 0)  # a new worker, which has no frame yet: the newest is the old one's
    assert 0 <= fresh.fps < 15
    assert fresh.age == 4.25
    for _ in range(20):
        clock.now += SECOND
        fresh.note(250, 0)
    assert fresh.fps == 0.0
    assert fresh.age == 24.25


def test_without_looks_nothing_is_measured() -> None:
    clock = Clock()
    fresh = Freshness(clock)
    fresh.note(0, clock.now)
    clock.now += SECOND
    fresh.note(25, clock.now)
    assert fresh.fps == 25.0
    clock.now += 11 * SECOND
    assert (fresh.fps, fresh.age) == (0.0, 11.0)


def test_at_rest_there_are_no_frames_and_the_age_goes_on() -> None:
    clock = Clock()
    fresh = Freshness(clock)
    for second in range(3):
        fresh.note(25 * second, clock.now)
        clock.now += SECOND
    fresh.pause()
    assert (fresh.fps, fresh.age) == (0.0, 1.0)
    fresh.note(60, 0)
    assert (fresh.fps, fresh.age) == (0.0, 1.0)
