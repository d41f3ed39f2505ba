"""What of a plugin is still alive, found by looking."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import trio
from trio.testing import wait_all_tasks_blocked

from lva.host.life.leaks import Leaks, find_leaks, lasting_leaks
from tests.support import RunningHost, running_host

WORKER = """
    release = threading.Event()
    entered = threading.Event()

    def work():
        entered.set()
        release.wait(30)

    class P(BaseBackgroundPlugin):
        async def start(self):
            pass
"""


@contextmanager
def working(work: Any, entered: Any, release: Any, name: str) -> Iterator[None]:
    """Have a thread at work, which ends when it is released."""
    thread = threading.Thread(target=work, name=name)
    thread.start()
    entered.wait(10)
    try:
        yield
    finally:
        release.set()
        thread.join()


def working_in(host: RunningHost, plugin: str, name: str = "worker") -> Any:
    """Have a thread at the work of a plugin's module."""
    module = host.module(plugin)
    return working(module.work, module.entered, module.release, name)


def test_no_leaks_are_false_and_others_name_themselves():
    assert not Leaks()
    leaks = Leaks(["job (at a.py:1)"], ["worker (at b.py:2)"])
    assert leaks
    assert str(leaks) == "task job (at a.py:1), thread worker (at b.py:2)"


async def test_a_plugin_that_runs_is_alive_with_all_its_tasks(tmp_path, autojump_clock):
    source = """
        class P(BaseBackgroundPlugin):
            async def start(self):
                self.nursery.start_soon(self.child)
                await trio.sleep_forever()

            async def child(self):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(trio.sleep_forever, name="grandchild")
    """
    async with running_host(tmp_path, {"p": source, "q": WORKER}) as host:
        await wait_all_tasks_blocked()
        found = find_leaks([host.life("p")])
        assert set(found) == {"p"}
        named = "\n".join(found["p"].tasks)
        assert "P.start()" in named
        assert "P.child" in named
        assert "grandchild" in named
        assert f"{tmp_path}/plugins/p.py:" in named
        await host.stop()
        assert find_leaks(host.host.lives.values()) == {}


async def test_a_thread_belongs_to_the_plugin_whose_file_is_on_its_stack(tmp_path):
    async with running_host(tmp_path, {"p": WORKER, "pp": WORKER}) as host:
        with working_in(host, "pp", "anybody"):
            found = find_leaks(host.host.lives.values())
            assert found["pp"].threads[0].startswith("anybody (at ")
            assert not found["p"].threads


async def test_threads_of_nobody_are_nobody_s(tmp_path):
    release, entered = threading.Event(), threading.Event()

    def work():
        entered.set()
        release.wait(30)

    with working(work, entered, release, "ours"):
        async with running_host(tmp_path, {"p": WORKER}) as host:
            assert (await host.stop()).exit_code == 0


async def test_a_package_owns_every_file_in_it(tmp_path):
    package = tmp_path / "plugins" / "pack"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(
        "from lva import *\nfrom .inner import work, entered, release\n"
        "class P(BaseBackgroundPlugin): pass\n"
    )
    (package / "inner.py").write_text(
        "import threading\nrelease, entered = threading.Event(), threading.Event()\n"
        "def work():\n    entered.set()\n    release.wait(30)\n"
    )
    async with running_host(tmp_path, {"pack": None}) as host:
        with working_in(host, "pack"):
            receipt = await host.stop()
        assert len(receipt.plugins[0].leaked_threads) == 1


async def test_a_task_put_into_another_nursery_is_found(tmp_path, autojump_clock):
    source = """
        outside = None

        class P(BaseBackgroundPlugin):
            async def start(self):
                await trio.sleep(1)
                outside.start_soon(self.escaped)

            async def escaped(self):
                await trio.sleep(50)
    """
    async with trio.open_nursery() as nursery, running_host(tmp_path, {"p": source}) as host:
        host.module("p").outside = nursery
        await trio.sleep(2)
        receipt = await host.stop()
        assert any("escaped" in task for task in receipt.plugins[0].leaked_tasks)
        assert receipt.plugins[0].state == "abandoned"
        assert receipt.exit_code == 4


async def test_a_thread_that_stays_is_waited_for_once(tmp_path, autojump_clock):
    """The kind: what a stop does for each plugin, and then for all, must not take its time from the rest."""
    async with running_host(tmp_path, {"p": WORKER, "q": WORKER}) as host:
        lives = [*host.host.lives.values()]
        with working_in(host, "p"):
            begun = trio.current_time()
            (first,) = (await lasting_leaks(lives))["p"].threads
            waited = trio.current_time()
            assert waited > begun
            assert (await lasting_leaks(lives))["p"].threads == [first]
            assert trio.current_time() == waited
        assert not any(leaks.threads for leaks in (await lasting_leaks(lives)).values())
