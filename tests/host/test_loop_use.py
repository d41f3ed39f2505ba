"""Shares of the event loop's time: put together from holds and from samples, over a minute."""

from __future__ import annotations

import pytest

from lva.host.loop_use import Hold, LoopUses


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def make() -> tuple[Clock, LoopUses]:
    clock = Clock()
    return clock, LoopUses(clock)


def hold(seconds: float) -> Hold:
    return Hold(0.0, seconds, "a.py:1 in f", ["a.py:1 in f"])


def test_windows_are_a_sample():
    clock, uses = make()
    clock.now += 30
    uses.note_window(0.01, {"a": 0.005, "b": 0.001, None: 0.004})
    uses.note_window(0.03, {"a": 0.005})
    assert uses.share("a") == pytest.approx(0.25)
    assert uses.share("b") == pytest.approx(0.025)
    assert uses.share("c") == 0


def test_holds_count_in_full_and_leave_less_for_the_rest():
    clock, uses = make()
    clock.now += 60
    uses.note_window(0.1, {"b": 0.05})
    uses.note_hold("a", hold(6.0))
    uses.prolong_hold("a", 9.0)
    assert uses.share("a") == pytest.approx(0.25)
    assert uses.share("b") == pytest.approx(0.375)
    assert (uses.of("a").holds, uses.of("a").last_hold) == (1, hold(15.0))
    assert (uses.of("b").holds, uses.of("b").last_hold) == (0, None)


def test_before_a_minute_is_over_shares_are_of_the_time_so_far():
    clock, uses = make()
    clock.now += 4
    uses.note_hold("a", hold(1.0))
    assert uses.share("a") == pytest.approx(0.25)


def test_what_is_older_than_a_minute_is_forgotten():
    clock, uses = make()
    uses.note_hold("a", hold(6.0))
    uses.note_window(0.1, {"b": 0.1})
    clock.now += 59
    assert uses.share("a") > 0.1
    assert uses.share("b") > 0.8
    clock.now += 5
    assert uses.share("a") == uses.share("b") == 0
    assert uses.of("a").holds == 1


def test_what_is_kept_is_bounded():
    clock, uses = make()
    for _ in range(10_000):
        uses.note_window(0.01, {"a": 0.001})
        uses.note_processor({"a": (1, clock.now)})
        clock.now += 0.2
    assert len(uses._slices) <= 62
    assert len(uses._processor["a"].seen) <= 61


def test_processor_time_is_that_of_the_present_thread():
    clock, uses = make()
    assert uses.processor_share("a") is None
    uses.note_processor({"a": (1, 10.0)})
    assert uses.processor_share("a") is None
    clock.now += 2
    uses.note_processor({"a": (1, 11.0)})
    assert uses.processor_share("a") == pytest.approx(0.5)
    uses.note_processor({"a": (2, 0.0)})  # restarted
    assert uses.processor_share("a") is None
    clock.now += 1
    uses.note_processor({"a": (2, 0.25)})
    assert uses.processor_share("a") == pytest.approx(0.25)
    uses.note_processor({})
    assert uses.processor_share("a") is None
