"""Virtual time: it moves when nothing else can happen, on both loops."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from lva.testing import HttpWorld, running_plugin
from lva.testing.virtual import LOOP_PATIENCE, VirtualTime, is_sending

SLEEPER = """
import asyncio
from lva import BaseBackgroundPlugin

class Sleeper(BaseBackgroundPlugin):
    runtime = "asyncio"
    slept = 0

    async def start(self):
        loop = asyncio.get_running_loop()
        self.began = loop.time()
        while True:
            await asyncio.sleep(60)
            self.slept += 1
            self.last = loop.time() - self.began
"""


@pytest.mark.slow("a loop is held in real time")
async def test_a_day_on_both_loops_takes_no_time(autojump_clock: Any):
    began, start = time.monotonic(), trio.current_time()
    async with running_plugin(SLEEPER) as host:
        await trio.sleep(86_400 + 1)
        assert host.plugin.slept == 1440
        assert host.plugin.last == pytest.approx(86_400)
    assert trio.current_time() - start < 86_410
    assert time.monotonic() - began < 30


async def test_with_the_real_clock_time_is_real():
    async with running_plugin(SLEEPER.replace("60", "0.02")) as host:
        began = time.monotonic()
        with trio.fail_after(20):
            while host.plugin.slept < 3:
                await trio.sleep(0.01)
        assert time.monotonic() - began > 0.05


THREADS = """
import asyncio
import time
import trio
from lva import BaseBackgroundPlugin

class OnTrio(BaseBackgroundPlugin):
    host_settings = {"initialize_timeout": 5}

    async def initialize(self):
        for _ in range(20):
            await trio.to_thread.run_sync(time.sleep, 0.005)
"""


@pytest.mark.parametrize(
    "source",
    [
        THREADS,
        THREADS.replace("(BaseBackgroundPlugin):", '(BaseBackgroundPlugin):\n    runtime = "asyncio"')
        .replace("trio.to_thread.run_sync", "asyncio.to_thread"),
        THREADS.replace("trio.to_thread.run_sync(time.sleep, 0.005)", 'trio.run_process(["sleep", "0.005"])'),
    ],
    ids=["trio", "asyncio", "subprocesses"],
)  # fmt: skip
async def test_time_waits_for_worker_threads(source: str, autojump_clock: Any):
    began = trio.current_time()
    async with running_plugin(source):
        assert trio.current_time() - began < 5


CLIENT = """
import asyncio
import httpx
import trio
from lva import BaseBackgroundPlugin

class Client(BaseBackgroundPlugin):
    async def initialize(self):
        async with httpx.AsyncClient(trust_env=False, verify=False, timeout=1) as client:
            for _ in range(30):
                (await client.get(self.config["url"])).raise_for_status()
"""


@pytest.mark.parametrize(
    "source",
    [
        CLIENT,
        CLIENT.replace("(BaseBackgroundPlugin):", '(BaseBackgroundPlugin):\n    runtime = "asyncio"'),
    ],
    ids=["trio", "asyncio"],
)  # fmt: skip
async def test_time_waits_for_sockets(source: str, autojump_clock: Any):
    began = trio.current_time()
    async with running_plugin(source, lambda world: {"url": world.url}) as host:
        assert isinstance(host.world, HttpWorld)
        assert len(host.world.requests) == 30
        assert trio.current_time() - began < 1


def test_what_has_not_arrived_yet_is_being_sent():
    here, there = socket.socketpair(socket.AF_UNIX)
    with here, there:
        assert not is_sending(here.fileno())
        here.send(b"on its way")
        assert is_sending(here.fileno())
        there.recv(100)
        assert not is_sending(here.fileno())
    assert not is_sending(here.fileno())
    assert not is_sending(10_000)


HELD = """
import threading
from lva import BaseBackgroundPlugin

release = threading.Event()

class Held(BaseBackgroundPlugin):
    runtime = "asyncio"

    async def start(self):
        release.wait(20)
"""


@pytest.mark.slow("a loop is held in real time")
async def test_a_loop_that_is_held_does_not_stop_the_clock(autojump_clock: Any):
    async with running_plugin(HELD, tolerate=["loop", "G4", "G7"]) as host:
        began = time.monotonic()
        await trio.sleep(3600)
        assert LOOP_PATIENCE / 2 < time.monotonic() - began < 15
        host.module.release.set()


@pytest.mark.slow("a loop is held in real time")
async def test_a_task_that_swallows_its_cancellation_does_not_stop_the_clock():
    clock = trio.lowlevel.current_clock()
    assert not isinstance(clock, MockClock)

    async def main() -> float:
        async with trio.open_nursery() as nursery:
            virtual = VirtualTime(clock)
            await nursery.start(virtual.run)
            over = trio.Event()

            async def stubborn() -> None:
                while not over.is_set():
                    with contextlib.suppress(trio.Cancelled):
                        await trio.sleep(1)

            with trio.CancelScope() as scope:
                async with trio.open_nursery() as inner:
                    inner.start_soon(stubborn)
                    inner.cancel_scope.cancel()
                    with trio.CancelScope(shield=True):
                        await trio.sleep(20)
                        over.set()
            assert not scope.cancel_called
            nursery.cancel_scope.cancel()
            return trio.current_time()

    clock = MockClock(autojump_threshold=0)
    passed = await trio.to_thread.run_sync(lambda: trio.run(main, clock=clock))
    assert passed >= 20
    assert clock.autojump_threshold == 0  # as it was before
