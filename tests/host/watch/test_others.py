"""Plugins' own loops that do not come round, and worker threads that are long at one call of a request."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any

import pytest
import trio

from lva.host.watch.others import LoopsOfPlugins, WorkerThreads
from lva.host.watch.pulse import PluginLoop, Pulse, Watched
from lva.host.watch.readings import own_processor_clock
from lva.host.watch.reports import Reporter
from lva.host.watch.uses import LoopUses
from lva.logs.loggers import current_plugin, current_request

MODULES = {"acme": "a"}


class OwnLoop:
    """An asyncio loop in a thread, with a gate for what blocks it."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.gate = threading.Event()
        self.blocked = threading.Event()
        self.pulse = Pulse(self.loop.call_soon_threadsafe, OwnLoop._main.__code__)
        self.thread = threading.Thread(target=self._main)
        self.begun = threading.Event()
        self.thread.start()
        self.begun.wait()

    def _main(self) -> None:
        self.clock = own_processor_clock()
        self.loop.call_soon(self.begun.set)
        self.loop.run_forever()
        self.loop.close()

    def block(self) -> None:
        self.blocked.set()
        self.gate.wait()

    def watched(self) -> dict[str, Watched]:
        assert self.thread.ident
        assert self.thread.native_id
        loop = PluginLoop(self.thread.ident, self.thread.native_id, self.clock, self.pulse)
        return {"a": Watched("acme", loop)}

    def waits(self) -> bool:
        return self.pulse.waits(sys._current_frames()[self.thread.ident or 0])


@pytest.fixture
def own_loop() -> Iterator[OwnLoop]:
    made = OwnLoop()
    yield made
    made.gate.set()
    made.loop.call_soon_threadsafe(made.loop.stop)
    made.thread.join()


def until(condition: Callable[[], Any]) -> None:
    while not condition():
        pass


def test_a_loop_that_is_blocked_is_reported_until_it_comes_round(own_loop, caplog):
    uses = LoopUses()
    loops = LoopsOfPlugins(0.02, Reporter(uses))

    def look() -> None:
        loops.look(own_loop.watched(), MODULES, sys._current_frames())

    own_loop.loop.call_soon_threadsafe(own_loop.block)
    own_loop.blocked.wait()
    until(lambda: look() or uses.of("a").blocks)
    look()
    block = uses.longest_open("a")
    assert block.of == "plugin"
    assert any(line.endswith(" in block") for line in block.stack)
    own_loop.gate.set()
    until(lambda: look() or not uses.longest_open("a"))
    assert uses.of("a").blocks == 1
    assert caplog.messages[-1].startswith("blocked its own event loop for ")


def test_an_idle_loop_is_not_asked(own_loop):
    loops = LoopsOfPlugins(0.02, Reporter(LoopUses()))
    until(own_loop.waits)
    answered = own_loop.pulse.answered
    for _ in range(20):
        loops.look(own_loop.watched(), MODULES, sys._current_frames())
    assert own_loop.pulse.silent_since is None
    assert own_loop.pulse.answered == answered


def test_a_loop_that_is_gone_blocks_no_longer(own_loop):
    uses = LoopUses()
    loops = LoopsOfPlugins(0.02, Reporter(uses))
    own_loop.loop.call_soon_threadsafe(own_loop.block)
    own_loop.blocked.wait()
    until(
        lambda: (
            loops.look(own_loop.watched(), MODULES, sys._current_frames()) or uses.of("a").blocks
        )
    )
    loops.look({"a": Watched("acme", None)}, MODULES, sys._current_frames())
    assert uses.longest_open("a") is None


def test_a_question_is_answered_by_whatever_the_loop_does_later(own_loop):
    pulse = own_loop.pulse
    number = pulse.begin_question()
    assert pulse.silent_for() >= 0
    assert pulse.silent_since is not None
    later = pulse.begin_question()
    pulse.answer(number - 1)
    assert pulse.silent_since is not None
    pulse.answer(later)
    assert pulse.silent_since is None


def test_a_loop_that_has_ended_is_not_waited_for():
    loop = asyncio.new_event_loop()
    loop.close()
    pulse = Pulse(loop.call_soon_threadsafe, OwnLoop._main.__code__)
    pulse.ask()
    assert pulse.silent_since is None
    assert pulse.silent_for() == 0


# Worker threads


class Threads:
    """Looks at worker threads, at times from 1."""

    def __init__(self) -> None:
        self.now = 1.0
        self.uses = LoopUses()
        self.workers = WorkerThreads(10.0, Reporter(self.uses), lambda: self.now)

    def look(self, later: float) -> dict[str, int]:
        self.now += later
        plugins = {"a": Watched("acme", None)}
        self.workers.look(plugins, MODULES, sys._current_frames())
        return {name: use.blocks for name, use in self.uses._uses.items() if use.blocks}


class Gate:
    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()

    def pass_through(self) -> None:
        self.entered.set()
        self.opened.wait()


@contextmanager
def named(plugin: str | None, request: str | None) -> Iterator[None]:
    tokens = current_plugin.set(plugin), current_request.set(request)
    yield
    current_plugin.reset(tokens[0])
    current_request.reset(tokens[1])


async def trio_thread(gate: Gate) -> None:
    await trio.to_thread.run_sync(gate.pass_through)


async def asyncio_thread(gate: Gate) -> None:
    context = copy_context()

    def main() -> None:
        asyncio.run(asyncio.to_thread(gate.pass_through))

    await trio.to_thread.run_sync(lambda: context.run(main))


@pytest.mark.parametrize("call", [trio_thread, asyncio_thread])
async def test_a_call_of_a_request_that_takes_long_is_reported(call, caplog):
    threads, gate = Threads(), Gate()
    async with trio.open_nursery() as nursery:
        with named("a", "1,2"):
            nursery.start_soon(call, gate)
        while not gate.entered.is_set():
            await trio.lowlevel.checkpoint()
        assert threads.look(0.0) == {}
        assert threads.look(9.9) == {}
        assert threads.look(5.0)["a"] >= 1
        block = threads.uses.longest_open("a")
        assert (block.of, block.seconds) == ("thread", 14.9)
        assert any(line.endswith(" in pass_through") for line in block.stack)
        gate.opened.set()
    while threads.look(5.0) and threads.uses.longest_open("a"):
        pass
    assert "has blocked a worker thread of a request for 14.90 s so far" in caplog.messages[0]
    assert "blocked a worker thread of a request for " in caplog.messages[-1]


async def test_a_call_of_a_background_job_may_take_as_long_as_it_likes():
    threads, gate = Threads(), Gate()
    async with trio.open_nursery() as nursery:
        with named("a", None):
            nursery.start_soon(trio_thread, gate)
        while not gate.entered.is_set():
            await trio.lowlevel.checkpoint()
        threads.look(0.0)
        assert threads.look(100.0) == {}
        gate.opened.set()


async def test_one_call_after_the_other_in_one_thread_is_no_long_call():
    threads = Threads()
    for _ in range(4):
        gate = Gate()
        async with trio.open_nursery() as nursery:
            with named("a", "1,2"):
                nursery.start_soon(trio_thread, gate)
            while not gate.entered.is_set():
                await trio.lowlevel.checkpoint()
            assert threads.look(5.0) == {}
            gate.opened.set()
