"""The time of each step goes to the plugin whose code ran in it; what lasts too long is kept whole."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import pytest
import trio

from lva.host.watch import clock as clock_module
from lva.host.watch.clock import StepClock, Stretch, enter_plugin, install, leave_plugin, remove
from lva.host.watch.readings import Reading, own_reader
from lva.logs.loggers import current_plugin

LIMIT = 0.05


def work(seconds: float) -> None:
    """Compute for so much processor time."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


@pytest.fixture
def clock() -> StepClock:
    return StepClock(LIMIT, own_reader().read, lambda: None)


async def stamp(clock: StepClock, *tasks: Callable[[], Awaitable[None]]) -> None:
    """Run tasks under a clock with an open window."""
    install(clock)
    clock._window, clock._due = {}, 0.0
    async with trio.open_nursery() as nursery:
        for task in tasks:
            nursery.start_soon(task)
    remove(clock)


def blocks(clock: StepClock) -> list[Stretch]:
    return [stretch for stretch in clock.ended if not stretch.waits]


async def test_a_task_of_a_plugin_and_one_of_the_service():
    async def plugin():
        enter_plugin("a")
        work(0.01)
        await trio.lowlevel.checkpoint()
        work(0.01)

    async def service():
        work(0.01)

    clock = StepClock(10.0, own_reader().read, lambda: None)  # whatever else the machine does
    await stamp(clock, plugin, service)
    assert set(clock._window) == {"a"}
    assert clock._window["a"] >= 0.02


@pytest.mark.slow("works for longer than the limit")
async def test_a_step_that_is_in_a_handler_for_a_part_of_it(clock):
    async def request():
        work(LIMIT)
        token = enter_plugin("a")
        work(LIMIT)
        leave_plugin(token)
        assert current_plugin.get() is None
        work(LIMIT)

    await stamp(clock, request)
    assert [stretch.plugin for stretch in blocks(clock)] == [None, "a", None]
    before, plugin, after = blocks(clock)
    assert before.ended <= plugin.begun < plugin.ended <= after.begun


async def test_a_handler_that_waits_is_still_the_plugin_s_afterwards(clock):
    async def request():
        token = enter_plugin("a")
        await trio.lowlevel.checkpoint()
        work(LIMIT)
        leave_plugin(token)

    await stamp(clock, request)
    assert [stretch.plugin for stretch in blocks(clock)] == ["a"]


@pytest.mark.slow("works for longer than the limit")
async def test_long_stretches_are_kept_apart_and_known_from_just_before_they_began(clock):
    async def plugin():
        enter_plugin("a")
        work(LIMIT)
        await trio.lowlevel.checkpoint()

    await stamp(clock, plugin)
    (block,) = blocks(clock)
    assert clock._left_out >= LIMIT
    assert clock._window.get("a", 0.0) < LIMIT
    assert block.ended - block.begun >= LIMIT
    assert block.before.at <= block.begun < block.ended <= block.after.at
    assert block.after.used - block.before.used >= LIMIT


async def test_short_steps_one_after_the_other_are_no_long_one(monkeypatch):
    now = 1.0
    monkeypatch.setattr(clock_module, "perf_counter", lambda: now)
    clock = StepClock(LIMIT, lambda: Reading(now, 0.0, 0.0, 0, 0.0), lambda: None)
    for _ in range(10):
        clock.before_task_step(trio.lowlevel.current_task())
        now += LIMIT / 2
    assert not clock.ended


def test_what_the_thread_waits_for_while_it_is_read_is_taken_off_no_step(monkeypatch):
    """The kind is a thread that loses its processor just after the reading: it would count twice."""
    now, queued = [1.0], [0.0]

    def read() -> Reading:
        return Reading(now[0], 0.0, queued[0], 0, 0.0)

    def kept_from_running() -> None:
        now[0] += 0.5
        queued[0] += 0.5

    monkeypatch.setattr(clock_module, "perf_counter", lambda: now[0])
    clock = StepClock(LIMIT, read, kept_from_running)
    clock.split()
    begun = now[0]
    now[0] += 2 * LIMIT
    clock.split()
    (stretch,) = [stretch for stretch in clock.ended if stretch.begun == begun]
    assert (stretch.before.at, stretch.before.queued) == (begun, 0.5)
    assert stretch.after.own_since(stretch.before) == pytest.approx(2 * LIMIT)


async def test_the_last_step_before_a_wait_is_not_taken_for_the_wait(clock):
    async def plugin():
        enter_plugin("a")
        work(LIMIT)
        await trio.sleep(2 * LIMIT)

    await stamp(clock, plugin)
    (block,) = [stretch for stretch in blocks(clock) if stretch.plugin == "a"]
    assert any(stretch.waits and stretch.begun >= block.ended for stretch in clock.ended)


async def test_nothing_is_stamped_outside(clock):
    install(clock)
    remove(clock)
    running = clock.running
    token = enter_plugin("a")
    await trio.lowlevel.checkpoint()
    leave_plugin(token)
    assert clock.running is running
