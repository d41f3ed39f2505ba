"""asyncio-style plugins against Trio-style ones: what it costs to run on a loop in another thread.

Five figures, the sides of each in turns:

* Points per second through a `handleEvent` that does nothing, in lists of 100. Goal: at least 0.5 of the
  Trio-style rate.
* A call from Trio across to the plugin's loop and back, while the service is idle, against anyio's
  `BlockingPortal`, which is driven the other way round: from a thread into a loop. Goal: within 2 times.
* The same call while the whole service is under full HTTP load. Goal: p99 under 50 ms.
* HTTP requests per second while a plugin computes without end, in slices of 10 ms with a checkpoint
  after each: no such plugin, one asyncio-style, one Trio-style. No goal.
* 100 asyncio-style plugins: time of start and of stop, and memory. Goals: under 2 s; under 200 KiB each.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import anyio.from_thread
import trio
from load import run_load, serving
from many_plugins import collect_garbage_as_the_service, resident

from lva import MonitoringPoint
from lva.app import SWITCH_INTERVAL
from lva.host.host import Host
from lva.host.loading.load import load_plugins
from lva.host.runtimes.on_asyncio import AsyncioRuntime
from lva.host.runtimes.patience import Patience
from lva.settings import PluginSettings, Settings

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
SECONDS = float(os.environ.get("BENCH_SECONDS", "2"))
POINTS = 100_000  # in one pass; a round repeats passes until its time is over
LIST = 100
#: The producer lets others run after this many points.
YIELD = 1000
CALLS = 2000
PLUGINS = 100
PORT = 5343

NOTHING = """
from lva import BaseEventPlugin

class Nothing(BaseEventPlugin):
    runtime = "{runtime}"
    eventName = "monitoring_event"

    async def handleEvent(self, points, logger):
        pass
"""

PING = """
from lva import BaseBackgroundPlugin

class Ping(BaseBackgroundPlugin):
    async def initialize(self):
        self.addRoute("/ping", self.ping)

    async def ping(self, request):
        return "pong"
"""

#: Calls across every 10 ms, and tells how long the calls took.
CALLER = """
import time
import trio
from lva import BaseBackgroundPlugin, pluginHTTPResponse
from lva.host.runtimes.on_asyncio import AsyncioRuntime

async def nothing():
    pass

class Caller(BaseBackgroundPlugin):
    async def initialize(self):
        self.took = []
        self.addRoute("/took", self.tell)

    async def start(self):
        runtime = AsyncioRuntime("called", self.nursery)
        while True:
            await trio.sleep(0.01)
            begun = time.perf_counter()
            call = runtime.call("nothing", nothing)
            await call.done.wait()
            self.took.append(time.perf_counter() - begun)

    async def tell(self, request):
        took, self.took = self.took, []
        return pluginHTTPResponse(body=took)
"""

BURN = """
import time
import {library}
from lva import BaseBackgroundPlugin

class Burner(BaseBackgroundPlugin):
    runtime = "{library}"

    async def start(self):
        while True:
            until = time.perf_counter() + 0.01
            while time.perf_counter() < until:
                sum(range(1000))
            await {library}.sleep(0)
"""

SLEEPER = """
import asyncio
from lva import BaseBackgroundPlugin

class Sleeper(BaseBackgroundPlugin):
    runtime = "asyncio"

    async def start(self):
        await asyncio.sleep(1_000_000)
"""


def spread(seen: list[float], form: str) -> str:
    return f"{median(seen):{form}} (min {min(seen):{form}}, max {max(seen):{form}})"


def ratio(above: list[float], below: list[float]) -> str:
    return spread([a / b for a, b in zip(above, below, strict=True)], ".2f")


# Points


async def compare_delivery(settings: Settings) -> None:
    points = [
        MonitoringPoint("requests", 1.7e9 + n, {"status_code": 200}, {"n": n})
        for n in range(POINTS)
    ]
    lists = [points[n : n + LIST] for n in range(0, POINTS, LIST)]
    gc.freeze()
    rates: dict[str, list[float]] = {"trio": [], "asyncio": []}
    for _ in range(ROUNDS):
        for name, seen in rates.items():
            host = Host(settings, [item for item in load_plugins(settings) if item.name == name])
            async with trio.open_nursery() as nursery:
                await nursery.start(host.run)
                while host.not_ready():
                    await trio.sleep(0.01)
                ledger = next(iter(host.lives[name].deliveries.values())).ledger
                passes = 0
                begun = time.perf_counter()
                while (taken := time.perf_counter() - begun) < SECONDS / 2 or not passes:
                    for first in range(0, len(lists), YIELD // LIST):
                        for item in lists[first : first + YIELD // LIST]:
                            host.publisher.publish("monitoring_event", item)
                        await trio.lowlevel.checkpoint()
                    while ledger.queued or ledger.in_flight:
                        # A sleep instead of a checkpoint: a busy wait would hold the GIL.
                        await trio.sleep(0.001)
                    passes += 1
                seen.append(passes * POINTS / taken)
                host.stop.request("the measurement is over")
            if ledger.lost or not ledger.balanced or ledger.delivered != passes * POINTS:
                print(f"NOT EVERYTHING ARRIVED: {ledger.as_dict()}")
    for name, seen in rates.items():
        print(f"delivery to {name:8} {spread(seen, ',.0f')} points/s")
    print(f"ratio asyncio/trio: {ratio(rates['asyncio'], rates['trio'])}; goal >= 0.5")


def measure_delivery(directory: Path) -> None:
    for runtime in ("trio", "asyncio"):
        (directory / f"{runtime}.py").write_text(NOTHING.format(runtime=runtime))
    table = PluginSettings(buffer_limit=2 * POINTS, batch_size=1000)
    settings = Settings(
        active_plugins=("trio", "asyncio"),
        plugins_dir=(directory,),
        state_dir=directory / "state",
        plugins={"trio": table, "asyncio": table},
    )
    trio.run(compare_delivery, settings)


# Calls


async def nothing() -> None:
    """Be called."""


def portal_calls() -> float:
    with anyio.from_thread.start_blocking_portal("asyncio") as portal:
        return timed(lambda: portal.call(nothing))


def timed(call: Callable[[], object]) -> float:
    for _ in range(100):
        call()
    begun = time.perf_counter()
    for _ in range(CALLS):
        call()
    return (time.perf_counter() - begun) / CALLS


async def runtime_calls() -> float:
    async with trio.open_nursery() as nursery:
        runtime = AsyncioRuntime("called", nursery)
        for _ in range(100):
            await runtime.call("nothing", nothing).done.wait()
        begun = time.perf_counter()
        for _ in range(CALLS):
            await runtime.call("nothing", nothing).done.wait()
        taken = (time.perf_counter() - begun) / CALLS
        assert await runtime.end(Patience(), 10.0)
    return taken


def measure_calls() -> None:
    seen: dict[str, list[float]] = {"portal": [], "runtime": []}
    for _ in range(ROUNDS):
        seen["portal"].append(portal_calls() * 1e6)
        seen["runtime"].append(trio.run(runtime_calls) * 1e6)
    for name, took in seen.items():
        print(f"call, idle: {name:8} {spread(took, '.0f')} us")
    print(f"ratio runtime/portal: {ratio(seen['runtime'], seen['portal'])}; goal <= 2")


# The whole service


def service(directory: Path, *active: str) -> Any:
    command = [sys.executable, "-m", "lva", "run", "--bind", f"127.0.0.1:{PORT}"]
    command += ["--plugins-dir", str(directory), "--log-level", "WARNING"]
    for name in ("ping", *active):
        command += ["--active", name]
    return serving(command, PORT, LUNA_VIDEO_AGENT_STATE_DIR=str(directory / "state"))


def measure_calls_under_load(directory: Path) -> None:
    (directory / "ping.py").write_text(PING)
    (directory / "caller.py").write_text(CALLER)
    with service(directory, "caller"):
        for name in ("idle", "full HTTP load"):
            took = []
            for _ in range(ROUNDS):
                fetch("/took")
                if name == "idle":
                    time.sleep(SECONDS)
                else:
                    run_load(PORT, "/ping", SECONDS)
                took += fetch("/took")
            p50, p99 = median(took) * 1e3, quantiles(took, n=100)[98] * 1e3
            goal = "; goal: p99 < 50 ms" if name != "idle" else ""
            print(
                f"call, {name}: p50 {p50:.2f} ms, p99 {p99:.2f} ms,"
                f" max {max(took) * 1e3:.1f} ms of {len(took)}{goal}"
            )


def fetch(path: str) -> list[float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{PORT}{path}") as reply:
        seen: list[float] = json.load(reply)
        return seen


def measure_burning(directory: Path) -> None:
    (directory / "ping.py").write_text(PING)
    for library in ("asyncio", "trio"):
        (directory / f"burn_{library}.py").write_text(BURN.format(library=library))
    sides = {"no burner": [], "asyncio burner": ["burn_asyncio"], "trio burner": ["burn_trio"]}
    rates: dict[str, list[float]] = {name: [] for name in sides}
    p99: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(ROUNDS):
        for name, active in sides.items():
            with service(directory, *active):
                load = run_load(PORT, "/ping", SECONDS)
                rates[name].append(load.rate)
                p99[name].append(load.quantile(0.99) * 1e3)
    for name, seen in rates.items():
        print(f"HTTP, {name:14} {spread(seen, ',.0f')} requests/s, p99 {median(p99[name]):.0f} ms")
    for name in ("asyncio burner", "trio burner"):
        print(f"ratio {name}/none: {ratio(rates[name], rates['no burner'])}")


# Many


async def run_many(directory: Path) -> dict[str, float]:
    names = tuple(f"sleeper{number}" for number in range(PLUGINS))
    settings = Settings(
        active_plugins=names, plugins_dir=(directory,), state_dir=directory / "state"
    )
    collect_garbage_as_the_service()
    memory, begun = resident(), time.perf_counter()
    host = Host(settings, load_plugins(settings))
    async with trio.open_nursery() as nursery:
        await nursery.start(host.run)
        while host.not_ready():
            await trio.sleep(0.001)
        started = time.perf_counter()
        grown = resident() - memory
        host.stop.request("the measurement is over")
    stopped = time.perf_counter()
    assert host.receipt is not None
    assert host.receipt.exit_code == 0
    return {
        "start": started - begun,
        "stop": stopped - started,
        "KiB each": grown / PLUGINS / 1024,
    }


def measure_many(directory: Path) -> None:
    for number in range(PLUGINS):
        (directory / f"sleeper{number}.py").write_text(SLEEPER)
    runs = []
    for _ in range(ROUNDS):
        command = [sys.executable, "-B", __file__, str(directory)]
        out = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
        runs.append(json.loads(out))
    for key, goal in (("start", "2 s"), ("stop", "2 s"), ("KiB each", "200")):
        seen = [run[key] for run in runs]
        print(f"{PLUGINS} asyncio-style plugins: {key} {spread(seen, '.3f')}; goal < {goal}")


def main() -> None:
    sys.setswitchinterval(SWITCH_INTERVAL)  # as the service does
    for measure in (
        measure_delivery,
        lambda _: measure_calls(),
        measure_calls_under_load,
        measure_burning,
        measure_many,
    ):
        with tempfile.TemporaryDirectory() as directory:
            measure(Path(directory))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(trio.run(run_many, Path(sys.argv[1]))))
    else:
        main()
