"""The time of each step goes to the plugin whose code ran in it."""

from __future__ import annotations

import time

import trio
from trio.testing import wait_all_tasks_blocked

from lva.host.steps import enter_plugin, leave_plugin, measured_steps
from lva.logs import current_plugin


def work(seconds: float) -> None:
    """Compute for so much processor time."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


async def measured(longest, *tasks):
    """Run tasks in a measurement; return what was measured."""
    async with trio.open_nursery() as nursery:
        with measured_steps(longest) as clock:
            for task in tasks:
                nursery.start_soon(task)
            await wait_all_tasks_blocked()
    return clock


async def test_a_task_of_a_plugin_and_one_of_the_service():
    async def plugin():
        enter_plugin("a")
        work(0.01)
        await trio.lowlevel.checkpoint()
        work(0.01)

    async def service():
        work(0.01)

    clock = await measured(10.0, plugin, service)
    assert set(clock.seconds) == {"a", None}
    assert clock.seconds["a"] >= 0.02
    assert clock.seconds[None] >= 0.01


async def test_a_step_that_is_in_a_handler_for_a_part_of_it():
    async def request():
        work(0.005)
        token = enter_plugin("a")
        work(0.01)
        leave_plugin(token)
        work(0.005)
        assert current_plugin.get() is None

    clock = await measured(10.0, request)
    assert clock.seconds["a"] >= 0.01
    assert clock.seconds[None] >= 0.01
    assert clock.left_out == 0


async def test_a_handler_that_waits_is_still_the_plugin_s_afterwards():
    async def request():
        token = enter_plugin("a")
        await trio.lowlevel.checkpoint()
        work(0.01)
        leave_plugin(token)

    clock = await measured(10.0, request)
    assert clock.seconds["a"] >= 0.01


async def test_long_steps_are_left_out():
    async def plugin():
        enter_plugin("a")
        work(0.02)
        await trio.lowlevel.checkpoint()

    clock = await measured(0.02, plugin)
    assert clock.left_out >= 0.02
    assert clock.seconds.get("a", 0.0) < 0.02


async def test_nothing_is_measured_outside():
    with measured_steps(1.0) as clock:
        pass
    token = enter_plugin("a")
    await trio.lowlevel.checkpoint()
    leave_plugin(token)
    assert clock.seconds == {}
