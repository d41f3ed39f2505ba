"""1,000 background plugins in the real host against a bare Trio nursery that runs the same coroutines.

Each plugin is a file of its own whose `start()` sleeps for ever. Both sides import the same files without
a bytecode cache, start everything, stop everything, and do so in a process of their own each time, in
turns, with the garbage collector as `lva run` sets it once its plugins are loaded. Start is from before
the first import until every coroutine sleeps; stop is from asking for it until the nursery is left. Both are
processor time, since neither side waits for anything. Memory is what the process has grown by during the
start. Logging is as a service under load would have it: WARNING, to /dev/null; the figures with INFO to a
file follow.

The nursery cancels all its coroutines at once. The host stops plugins one after the other in reverse
order, so its stop is compared with a nursery that does the same ("in order"); and with the least that
supervision takes ("supervised"): for each plugin a task in a nursery of its own, a guard that holds the
nursery, and a supervisor that can leave both behind, without any state, deadline or receipt.

Goals: start below 3 times the nursery's; below 50 KiB per plugin more than the nursery's.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import trio
import trio.testing

from lva import BaseBackgroundPlugin
from lva.host.host import Host
from lva.host.life.states import State
from lva.host.loading.load import load_plugins
from lva.logs.loggers import set_up
from lva.settings import Settings

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
PLUGINS = int(os.environ.get("BENCH_PLUGINS", "1000"))

PLUGIN = """
import trio

from lva import BaseBackgroundPlugin

class Sleeper{number}(BaseBackgroundPlugin):
    async def start(self):
        await trio.sleep_forever()
"""


def resident() -> int:
    """Return the resident memory of this process, in bytes."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def collect_garbage_as_the_service() -> None:
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


class Watch:
    """Takes the times and the memory of one side."""

    def __init__(self) -> None:
        collect_garbage_as_the_service()
        self._memory = resident()
        self._begun = time.process_time()
        self.start = self.stop = self.memory = 0.0

    def started(self) -> None:
        self.start = time.process_time() - self._begun
        gc.collect()
        self.memory = resident() - self._memory
        self._begun = time.process_time()

    def stopped(self) -> None:
        self.stop = time.process_time() - self._begun

    def as_dict(self) -> dict[str, float]:
        return {"start": self.start, "stop": self.stop, "memory": self.memory}


def names() -> list[str]:
    return [f"sleeper{number}" for number in range(PLUGINS)]


async def run_host(directory: Path) -> Watch:
    settings = Settings(
        active_plugins=tuple(names()), plugins_dir=(directory,), state_dir=directory / "state"
    )
    watch = Watch()
    host = Host(settings, load_plugins(settings))
    async with trio.open_nursery() as nursery:
        await nursery.start(host.run)
        last = host.lives[names()[-1]]
        await last.state.wait_value(State.RUNNING)  # plugins start one after the other
        await trio.testing.wait_all_tasks_blocked()
        assert not host.not_ready()
        watch.started()
        host.stop.request("the measurement is over")
    watch.stopped()
    assert host.receipt is not None
    assert host.receipt.exit_code == 0
    return watch


def imported(directory: Path) -> Iterator[BaseBackgroundPlugin]:
    sys.path.insert(0, str(directory))
    app: Any = SimpleNamespace()
    for name in names():
        yield getattr(importlib.import_module(name), name.capitalize())(app)


async def run_nursery(directory: Path) -> Watch:
    watch = Watch()
    async with trio.open_nursery() as nursery:
        for plugin in imported(directory):
            nursery.start_soon(plugin.start)
        await trio.testing.wait_all_tasks_blocked()
        watch.started()
        nursery.cancel_scope.cancel()
    watch.stopped()
    return watch


async def run_in_order(directory: Path) -> Watch:
    running: list[tuple[trio.CancelScope, trio.Event]] = []

    async def work(plugin: BaseBackgroundPlugin, scope: trio.CancelScope, done: trio.Event) -> None:
        with scope:
            await plugin.start()
        done.set()

    watch = Watch()
    async with trio.open_nursery() as nursery:
        for plugin in imported(directory):
            running.append((trio.CancelScope(), trio.Event()))
            nursery.start_soon(work, plugin, *running[-1])
        await trio.testing.wait_all_tasks_blocked()
        watch.started()
        for scope, done in reversed(running):
            scope.cancel()
            await done.wait()
    watch.stopped()
    return watch


async def run_supervised(directory: Path) -> Watch:
    running: list[trio.CancelScope] = []
    all_over = trio.Event()

    def stop_next() -> None:
        if running:
            running.pop().cancel()
        else:
            all_over.set()

    async def work(plugin: BaseBackgroundPlugin, scope: trio.CancelScope) -> None:
        with scope:
            await plugin.start()

    async def guard(
        plugin: BaseBackgroundPlugin, scope: trio.CancelScope, done: trio.Event
    ) -> None:
        async with trio.open_nursery() as own:
            own.start_soon(work, plugin, scope)
        done.set()

    async def supervise(done: trio.Event) -> None:
        await done.wait()
        stop_next()

    watch = Watch()
    async with trio.open_nursery() as nursery:
        for plugin in imported(directory):
            scope, done = trio.CancelScope(), trio.Event()
            running.append(scope)
            nursery.start_soon(guard, plugin, scope, done)
            nursery.start_soon(supervise, done)
        await trio.testing.wait_all_tasks_blocked()
        watch.started()
        stop_next()
        await all_over.wait()
    watch.stopped()
    return watch


SIDES: dict[str, Callable[[Path], Any]] = {
    "nursery": run_nursery,
    "in order": run_in_order,
    "supervised": run_supervised,
    "host": run_host,
}


def measure(side: str, directory: Path, level: str, log: str) -> dict[str, float]:
    """Run one side in a process of its own."""
    command = [sys.executable, "-B", __file__, side, str(directory), level, log]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def compare(directory: Path, level: str, log: str) -> None:
    seen: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for _ in range(ROUNDS):
        for side in SIDES:
            seen[side].append(measure(side, directory, level, log))
    for side, runs in seen.items():
        values = {key: [run[key] for run in runs] for key in runs[0]}
        print(
            f"{side:10} start {median(values['start']):.3f} s (min {min(values['start']):.3f}),"
            f" stop {median(values['stop']):.3f} s (min {min(values['stop']):.3f}),"
            f" {median(values['memory']) / PLUGINS / 1024:.1f} KiB a plugin"
        )
    for other, key, goal in (
        ("nursery", "start", "; goal < 3"),
        ("in order", "stop", ""),
        ("supervised", "stop", ""),
    ):
        pairs = [*zip(seen[other], seen["host"], strict=True)]
        ratios = [host[key] / bare[key] for bare, host in pairs]
        best = min(host[key] for _, host in pairs) / min(bare[key] for bare, _ in pairs)
        print(
            f"ratio {key} host/{other}: median {median(ratios):.2f}"
            f" (min {min(ratios):.2f}, max {max(ratios):.2f}; of the minima {best:.2f}){goal}"
        )
    pairs = [*zip(seen["nursery"], seen["host"], strict=True)]
    more = [(host["memory"] - bare["memory"]) / PLUGINS / 1024 for bare, host in pairs]
    print(
        f"memory host - nursery: median {median(more):.1f} KiB a plugin"
        f" (min {min(more):.1f}, max {max(more):.1f}); goal < 50"
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as root:
        directory = Path(root, "plugins")
        directory.mkdir()
        for number, name in enumerate(names()):
            (directory / f"{name}.py").write_text(PLUGIN.format(number=number))
        for level, log in (("WARNING", os.devnull), ("INFO", str(Path(root, "log")))):
            print(
                f"{PLUGINS} plugins, log level {level}, to {'a file' if level == 'INFO' else log}:"
            )
            compare(directory, level, log)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        with Path(sys.argv[4]).open("a", encoding="utf-8") as stream:
            set_up(sys.argv[3], "text", stream)
            print(json.dumps(trio.run(SIDES[sys.argv[1]], Path(sys.argv[2])).as_dict()))
    else:
        main()
