"""Waits that one timer ends."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from lva.web.handling.short_waits import LONGEST, ShortWaits


async def test_each_wait_ends_with_its_event_or_in_time_however_many_there_are(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    waits = ShortWaits(nursery)
    for pause in (0.0, LONGEST / 3, 10.0):  # while the timer runs, and after it has ended
        await trio.sleep(pause)
        begun, soon, never = trio.current_time(), trio.Event(), trio.Event()
        nursery.start_soon(waits.wait, never)
        nursery.start_soon(_set_after, soon, LONGEST / 4)
        await waits.wait(soon)
        assert trio.current_time() - begun == pytest.approx(LONGEST / 4)
        await never.wait()
        assert 0.49 * LONGEST < trio.current_time() - begun < 1.01 * LONGEST


async def test_a_wait_that_is_cancelled_leaves_its_event(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    waits, event = ShortWaits(nursery), trio.Event()
    with trio.move_on_after(LONGEST / 4):
        await waits.wait(event)
    await trio.sleep(2 * LONGEST)
    assert not event.is_set()


async def _set_after(event: trio.Event, seconds: float) -> None:
    await trio.sleep(seconds)
    event.set()
