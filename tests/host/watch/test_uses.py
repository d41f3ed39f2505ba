"""Shares of the event loop's time: put together from blocks and from samples, over a minute."""

from __future__ import annotations

from typing import Any

import pytest

from lva.host.watch.uses import Block, LoopUses


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def make() -> tuple[Clock, LoopUses]:
    clock = Clock()
    return clock, LoopUses(clock)


def block(seconds: float, **more: Any) -> Block:
    return Block(0.0, seconds, "a.py:1 in f", ["a.py:1 in f"], **more)


def test_windows_are_a_sample():
    clock, uses = make()
    clock.now += 30
    uses.note_window(0.01, {"a": 0.005, "b": 0.001})
    uses.note_window(0.03, {"a": 0.005})
    assert uses.share("a") == pytest.approx(0.25)
    assert uses.share("b") == pytest.approx(0.025)
    assert uses.share("c") == 0


def test_blocks_count_in_full_and_leave_less_for_the_rest():
    clock, uses = make()
    clock.now += 60
    uses.note_window(0.1, {"b": 0.05})
    going_on = block(6.0, over=False)
    uses.note_block("a", going_on)
    assert uses.longest_open("a") is going_on
    uses.prolong("a", going_on, 15.0, over=True)
    assert uses.longest_open("a") is None
    assert uses.share("a") == pytest.approx(0.25)
    assert uses.share("b") == pytest.approx(0.375)
    assert (uses.of("a").blocks, uses.of("a").last_block) == (1, block(15.0))
    assert (uses.of("b").blocks, uses.of("b").last_block) == (0, None)


def test_only_blocks_of_the_service_s_event_loop_are_in_the_share():
    clock, uses = make()
    clock.now += 60
    uses.note_block("a", block(6.0, of="plugin"))
    uses.note_block("a", block(6.0, of="thread", over=False))
    assert uses.share("a") == 0
    assert uses.of("a").blocks == 2
    assert str(uses.longest_open("a")) == "a worker thread of a request for 6.00 s at a.py:1 in f"


def test_what_was_read_of_a_plugin_stays_as_it_was():
    """Another thread notes blocks: the number and the newest belong together."""
    _, uses = make()
    uses.note_block("a", block(1.0))
    before = uses.of("a")
    uses.note_block("a", block(2.0))
    assert (before.blocks, before.last_block) == (1, block(1.0))
    assert (uses.of("a").blocks, uses.of("a").last_block) == (2, block(2.0))


def test_before_a_minute_is_over_shares_are_of_the_time_so_far():
    clock, uses = make()
    clock.now += 4
    uses.note_block("a", block(1.0))
    assert uses.share("a") == pytest.approx(0.25)


def test_what_is_older_than_a_minute_is_forgotten():
    clock, uses = make()
    uses.note_block("a", block(6.0))
    uses.note_window(0.1, {"b": 0.1})
    clock.now += 59
    assert uses.share("a") > 0.1
    assert uses.share("b") > 0.8
    clock.now += 5
    assert uses.share("a") == uses.share("b") == 0
    assert uses.of("a").blocks == 1


def test_what_is_kept_is_bounded():
    clock, uses = make()
    for _ in range(10_000):
        uses.note_window(0.01, {"a": 0.001})
        uses.note_processor({"a": (1, clock.now)})
        clock.now += 0.2
    assert len(uses._slices) <= 62
    assert len(uses._processor["a"]) <= 61


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
