"""Threads, and work in Trio's worker threads, are the plugin's that has started them, whatever runs there."""

from __future__ import annotations

import trio

from lva.host.life.leaks import find_leaks
from tests.support import journal, running_host, until
from tests.telling import serving

#: No line of a plugin is on the stack of any of these: they wait in a function of the library.
LEAVES = {
    "abandoned": "await trio.to_thread.run_sync(release.wait, 30, abandon_on_cancel=True)",
    "own_limiter": """await trio.to_thread.run_sync(
                release.wait, 30, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1))""",
    "thread": "threading.Thread(target=release.wait, args=(30,)).start()",
    "timer": "threading.Timer(0, release.wait, (30,)).start()",
    "executor": "concurrent.futures.ThreadPoolExecutor(1).submit(release.wait, 30)",
    "grandchild": """threading.Thread(
                target=lambda: threading.Thread(target=release.wait, args=(30,)).start()).start()""",
}
SOURCE = """
    import concurrent.futures

    release = threading.Event()

    class P(BaseBackgroundPlugin):
        async def start(self):
            {body}
"""


async def test_a_thread_that_is_left_in_a_library_s_function_is_found(tmp_path, subtests):
    """Kind: a thread is known by who started it, not by the code that it runs."""
    sources = {name: SOURCE.format(body=body) for name, body in LEAVES.items()}
    async with running_host(tmp_path, sources) as host:
        modules = [host.module(name) for name in LEAVES]
        await until(lambda: set(find_leaks(host.host.lives.values())) == set(LEAVES))
        receipt = await host.stop()
        for module in modules:
            module.release.set()
    for part in receipt.plugins:
        with subtests.test(name=part.name):
            assert len(part.leaked_threads) == 1, part
            assert part.state == "abandoned"


async def test_a_thread_that_a_request_left_is_found_when_its_client_has_gone(tmp_path):
    """Kind: a thread is its plugin's, whatever has become of the request that began it."""
    source = """
        release = threading.Event()

        class P(BaseBackgroundPlugin):
            async def initialize(self):
                self.addRoute("/wait", self.wait)

            async def wait(self, request):
                try:
                    await trio.to_thread.run_sync(self.block, abandon_on_cancel=True)
                finally:
                    journal.append("cancelled")

            def block(self):
                journal.append("called")
                release.wait(30)
    """
    async with running_host(tmp_path, {"p": source}) as host:
        module = host.module("p")
        try:
            async with serving(host) as client, trio.open_nursery() as nursery:
                nursery.start_soon(client.get, "/wait")
                await until(lambda: "called" in journal)
                nursery.cancel_scope.cancel()
            await until(lambda: "cancelled" in journal)
            (part,) = (receipt := await host.stop()).plugins
        finally:
            module.release.set()
    assert len(part.leaked_threads) == 1, part
    assert (part.state, receipt.exit_code) == ("abandoned", 4)


async def test_a_thread_that_was_abandoned_has_a_moment_to_end(tmp_path):
    source = """
        class P(BaseBackgroundPlugin):
            async def start(self):
                await trio.to_thread.run_sync(self.work, abandon_on_cancel=True)

            def work(self):
                stop.wait(30)
                time.sleep(0.05)

            async def close(self):
                stop.set()

        stop = threading.Event()
    """
    async with running_host(tmp_path, {"p": source}) as host:
        receipt = await host.stop()
    (part,) = receipt.plugins
    assert (part.leaked_threads, part.state, receipt.exit_code) == ([], "stopped", 0)


async def test_what_a_plugin_s_thread_does_is_the_plugin_s_and_the_thread_is_let_go(tmp_path):
    source = """
        from lva.logs.loggers import current_plugin

        class Noting(threading.Thread):
            def run(self):
                journal.append(current_plugin.get())

        class P(BaseBackgroundPlugin):
            async def start(self):
                thread = Noting()
                thread.start()
                thread.join()
                journal.append("run" in vars(thread))
    """
    async with running_host(tmp_path, {"p": source}):
        await until(lambda: len(journal) == 2)
    assert journal == ["p", False]
