"""What blocks in a plugin's worker threads keeps nobody else from having one."""

from __future__ import annotations

import threading

import pytest
import trio

from lva.host.process.limiters import THREADS, LimiterOfEach, a_limiter_for_each
from lva.logs.loggers import current_plugin
from tests.support import journal, running_host, until

HOG = """
    release = threading.Event()

    class P(BaseBackgroundPlugin):
        async def start(self):
            for _ in range(45):
                self.nursery.start_soon(self.block)

        async def block(self):
            await trio.to_thread.run_sync(release.wait, 60, abandon_on_cancel=True)
"""
#: Each of these needs a thread of the default limiter's.
OTHER = """
    class P(BaseBackgroundPlugin):
        async def start(self):
            journal.append(await trio.to_thread.run_sync(lambda: "a thread"))
            await trio.socket.getaddrinfo("localhost", 80)
            journal.append("a name")
            journal.append(await trio.Path("/").exists())
"""


async def test_a_plugin_whose_threads_all_block_starves_nobody(tmp_path):
    """Kind: threads that everybody shares. Each plugin has a limit of its own, and so has the service."""
    async with running_host(tmp_path, {"hog": HOG}) as host:
        module = host.module("hog")
        try:
            limiter = trio.to_thread.current_default_thread_limiter()
            assert isinstance(limiter, LimiterOfEach)
            hogs = limiter.of("hog")
            await until(lambda: hogs.statistics().tasks_waiting == 45 - THREADS)
            # The service has a thread, and so has every other plugin.
            with trio.fail_after(20):
                assert await trio.to_thread.run_sync(lambda: "ours") == "ours"
            async with running_host(tmp_path, {"other": OTHER}):
                await until(lambda: len(journal) == 3)
            assert journal == ["a thread", "a name", True]
        finally:
            module.release.set()


@pytest.fixture
async def limiter():
    with a_limiter_for_each():
        yield trio.to_thread.current_default_thread_limiter()


async def test_a_plugin_changes_its_own_limit_alone(limiter):
    token = current_plugin.set("p")
    limiter.total_tokens = 1
    assert limiter.total_tokens == 1
    current_plugin.reset(token)
    assert limiter.total_tokens == limiter.of("q").total_tokens == 40


async def test_what_ran_for_a_plugin_is_given_back_to_it(limiter):
    token = current_plugin.set("p")
    async with limiter:
        assert limiter.borrowed_tokens == 1
    limiter.acquire_nowait()
    limiter.acquire_on_behalf_of_nowait("who")
    current_plugin.reset(token)
    assert limiter.borrowed_tokens == 0
    assert limiter.of("p").borrowed_tokens == 2
    limiter.release_on_behalf_of("who")
    limiter.release()
    assert limiter.of("p").borrowed_tokens == 0
    with pytest.raises(RuntimeError, match="isn't holding"):
        limiter.release_on_behalf_of("who")


async def test_a_thread_is_counted_until_it_has_ended(limiter):
    release = threading.Event()
    token = current_plugin.set("p")
    try:
        with trio.move_on_after(0.01):
            await trio.to_thread.run_sync(release.wait, 30, abandon_on_cancel=True)
        assert limiter.borrowed_tokens == 1
        release.set()
        while limiter.borrowed_tokens:
            await trio.sleep(0.001)
    finally:
        current_plugin.reset(token)


async def test_the_run_has_its_own_limiter_back_afterwards():
    before = trio.to_thread.current_default_thread_limiter()
    with a_limiter_for_each():
        assert trio.to_thread.current_default_thread_limiter() is not before
    assert trio.to_thread.current_default_thread_limiter() is before
