"""The idle limit of connections, in virtual time; tests/process has the real server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio
import trio.testing
from trio.testing import MockClock

from lva.connections import IdleWatch

LIMIT = 5


class Watched:
    """An `IdleWatch` with a task group and a server that can stop."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.stopping = trio.Event()
        self.closed_at: float | None = None
        self._nursery = nursery
        self.spawned = 0
        self.watch = IdleWatch(LIMIT, self.stopping.wait, self._close)

    async def _close(self) -> None:
        await trio.lowlevel.checkpoint()
        self.closed_at = trio.current_time()

    def spawn(self, func: Callable[..., Any]) -> None:
        self.spawned += 1
        self._nursery.start_soon(func)

    async def pause(self) -> None:
        await self.watch.restart(self, None)


async def test_a_pause_that_is_too_long_closes_the_connection(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        it = Watched(nursery)
        await it.pause()
    assert it.closed_at == LIMIT


async def test_each_pause_has_the_whole_limit_and_one_task_watches_all(
    autojump_clock: MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        it = Watched(nursery)
        for _ in range(10):
            await it.pause()
            await trio.sleep(LIMIT - 1)
            await it.watch.stop()
            await trio.sleep(3)
        await it.pause()
        last = trio.current_time()
    assert it.closed_at == last + LIMIT
    assert it.spawned == 1


async def test_a_busy_connection_is_not_closed(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        it = Watched(nursery)
        await it.pause()
        await trio.sleep(1)
        await it.watch.stop()
        await trio.sleep(100 * LIMIT)
        assert it.closed_at is None
        it.watch.end()
    assert it.closed_at is None


async def test_an_idle_connection_is_closed_when_the_server_stops(
    autojump_clock: MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        it = Watched(nursery)
        await it.pause()
        await trio.sleep(1)
        it.stopping.set()
    assert it.closed_at == 1


async def test_a_busy_connection_is_left_to_its_response_when_the_server_stops(
    autojump_clock: MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        it = Watched(nursery)
        await it.pause()
        await it.watch.stop()
        it.stopping.set()
    assert it.closed_at is None


async def test_the_watch_ends_with_the_connection(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        it = Watched(nursery)
        await it.pause()
        await trio.testing.wait_all_tasks_blocked()
        it.watch.end()
    assert it.closed_at is None
    assert trio.current_time() == 0
