"""Worker threads that are long at one call of a request."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import copy_context

import pytest
import trio

from lva.host.watch.pulse import Watched
from lva.host.watch.reports import Reporter
from lva.host.watch.uses import LoopUses
from lva.host.watch.workers import WorkerThreads
from lva.logs.loggers import current_plugin, current_request


class Threads:
    """Looks at worker threads, at times from 1."""

    def __init__(self) -> None:
        self.now = 1.0
        self.uses = LoopUses()
        self.workers = WorkerThreads(10.0, Reporter(self.uses), lambda: self.now)

    def look(self, later: float) -> dict[str, int]:
        self.now += later
        plugins = {"a": Watched("acme", None)}
        self.workers.look(plugins, sys._current_frames())
        return {name: use.blocks for name, use in self.uses._uses.items() if use.blocks}


class Gate:
    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()

    def pass_through(self) -> None:
        self.entered.set()
        self.opened.wait()


async def trio_thread(gate: Gate) -> None:
    await trio.to_thread.run_sync(gate.pass_through)


async def asyncio_thread(gate: Gate) -> None:
    context = copy_context()

    def main() -> None:
        asyncio.run(asyncio.to_thread(gate.pass_through))

    await trio.to_thread.run_sync(lambda: context.run(main))


@asynccontextmanager
async def one_call(
    request: str | None, call: Callable[[Gate], Awaitable[None]] = trio_thread
) -> AsyncIterator[None]:
    """Be at one call of the plugin's in a worker thread."""
    gate = Gate()
    async with trio.open_nursery() as nursery:
        current_plugin.set("a")
        current_request.set(request)
        nursery.start_soon(call, gate)
        while not gate.entered.is_set():
            await trio.lowlevel.checkpoint()
        try:
            yield
        finally:
            gate.opened.set()


@pytest.mark.parametrize("call", [trio_thread, asyncio_thread])
async def test_a_call_of_a_request_that_takes_long_is_reported(call, caplog):
    threads = Threads()
    async with one_call("1,2", call):
        assert threads.look(0.0) == {}
        assert threads.look(9.9) == {}
        assert threads.look(5.0)["a"] >= 1
        block = threads.uses.longest_open("a")
        assert (block.of, block.seconds) == ("thread", 14.9)
        assert any(line.endswith(" in pass_through") for line in block.stack)
    while threads.look(5.0) and threads.uses.longest_open("a"):
        pass
    assert "has blocked a worker thread of a request for 14.90 s so far" in caplog.messages[0]
    assert "blocked a worker thread of a request for " in caplog.messages[-1]


async def test_a_call_of_a_background_job_may_take_as_long_as_it_likes():
    threads = Threads()
    async with one_call(None):
        threads.look(0.0)
        assert threads.look(100.0) == {}


async def test_one_call_after_the_other_in_one_thread_is_no_long_call():
    threads = Threads()
    for _ in range(4):
        async with one_call("1,2"):
            assert threads.look(5.0) == {}
