"""What it costs to watch the event loop: requests/s and points/s with the watchdog and without.

Both in one process each, in which the watchdog is started and stopped in turns, so that nothing else
differs: with, without, without, with, … Each figure is the ratio of a round with it to its neighbour
without, as the median over all pairs, with the quartiles. Rates suffer from whatever else the machine does,
so the processor time of the service for each request or point is compared, too.
Goal: at least 0.99 of the rates, at most 1.01 of the processor time.

`steps` tells what it would cost to time every step of every task all the time, as it is done in windows.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median, quantiles

import trio
from delivery import ENCODING, LIST, POINTS, make_points, publishing, running
from http_throughput import PLUGIN as PING
from http_throughput import process
from load import run_load
from many_plugins import collect_garbage_as_the_service

from lva.app import SWITCH_INTERVAL
from lva.host.host import Host

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "30"))
SECONDS = float(os.environ.get("BENCH_SECONDS", "0.5"))
PORT = 5347

#: `lva run`, whose watchdog runs from SIGUSR1 to SIGUSR2; with an argument, steps are timed instead.
SERVICE = """
import signal, sys
import trio
from lva.cli import main
from lva.host.host import Host
from lva.host.steps import measured_steps

watch_loop = Host.watch_loop

async def time_steps(self):
    with measured_steps(0.1):
        await trio.sleep_forever()

work = time_steps if sys.argv.pop(1) == "steps" else watch_loop

async def in_turns(self):
    scope = trio.CancelScope()

    async def one_turn():
        with scope:
            await work(self)

    async with trio.open_nursery() as nursery:
        with trio.open_signal_receiver(signal.SIGUSR1, signal.SIGUSR2) as signals:
            async for number in signals:
                scope.cancel()
                if number == signal.SIGUSR1:
                    scope = trio.CancelScope()
                    nursery.start_soon(one_turn)

Host.watch_loop = in_turns
main()
"""

Measured = tuple[float, float]  # a rate, and the processor time for each item in seconds


def processor_time(pid: int) -> float:
    """Return the processor time of all threads of a process, in seconds."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def report(what: str, pairs: list[tuple[Measured, Measured]]) -> None:
    rates = [with_it[0] / without[0] for with_it, without in pairs]
    times = [with_it[1] / without[1] for with_it, without in pairs]
    print(f"{what}: {median(pair[1][0] for pair in pairs):,.0f} a second without it", flush=True)
    for name, ratios, goal in (("rate", rates, ">= 0.99"), ("processor time", times, "<= 1.01")):
        low, middle, high = quantiles(ratios, n=4)
        spread = (high - low) / len(ratios) ** 0.5
        print(
            f"  {name} with / without: median {middle:.4f} (quartiles {low:.3f} and {high:.3f},"
            f" so about +-{spread:.4f}); goal {goal}",
            flush=True,
        )


def requests(work: str = "watchdog") -> None:
    with tempfile.TemporaryDirectory() as text, ExitStack() as stack:
        directory = Path(text)
        (directory / "plugins").mkdir()
        (directory / "plugins" / "ping.py").write_text(PING)
        command = [sys.executable, "-c", SERVICE, work, "run", "--bind", f"127.0.0.1:{PORT}"]
        command += ["--plugins-dir", str(directory / "plugins"), "--active", "ping"]
        command += ["--active", "history", "--log-level", "ERROR"]
        state = str(directory / "state")
        service: subprocess.Popen[bytes] = stack.enter_context(
            process(command, PORT, LUNA_VIDEO_AGENT_STATE_DIR=state)
        )

        def measure(watched: bool) -> Measured:
            if watched:
                service.send_signal(signal.SIGUSR1)
            used = processor_time(service.pid)
            load = run_load(PORT, "/ping", SECONDS)
            used = processor_time(service.pid) - used
            if watched:
                service.send_signal(signal.SIGUSR2)
            return load.rate, used / load.requests

        run_load(PORT, "/ping", 1)
        pairs = []
        for number in range(ROUNDS):
            both = {watched: measure(watched) for watched in (number % 2 == 0, number % 2 != 0)}
            pairs.append((both[True], both[False]))
        name = "requests" if work == "watchdog" else "requests, steps timed all the time"
        report(name, pairs)


async def points() -> None:
    items = make_points()
    lists = [items[begin : begin + LIST] for begin in range(0, POINTS, LIST)]
    collect_garbage_as_the_service()
    sys.setswitchinterval(SWITCH_INTERVAL)
    async with running({"sink": (ENCODING, {"buffer_limit": 2 * POINTS})}) as host:
        one_pass = publishing(host, "sink", lists)
        pairs = []
        for number in range(ROUNDS + 1):
            both = {
                watched: await measure_passes(host, one_pass, watched)
                for watched in (number % 2 == 0, number % 2 != 0)
            }
            if number:  # the first does not count
                pairs.append((both[True], both[False]))
        report("points", pairs)


async def measure_passes(
    host: Host, one_pass: Callable[[], Awaitable[None]], watched: bool
) -> Measured:
    passes = 0
    async with trio.open_nursery() as nursery:
        if watched:
            nursery.start_soon(host.watch_loop)
            await trio.lowlevel.checkpoint()
        begun, used = time.perf_counter(), time.process_time()
        while time.perf_counter() < begun + SECONDS:
            await one_pass()
            passes += 1
        taken, used = time.perf_counter() - begun, time.process_time() - used
        nursery.cancel_scope.cancel()
    return passes * POINTS / taken, used / (passes * POINTS)


FIGURES: dict[str, Callable[[], object]] = {
    "requests": requests,
    "points": lambda: trio.run(points),
    "steps": lambda: requests("steps"),
}


def main() -> None:
    logging.disable(logging.ERROR)
    for name in sys.argv[1:] or FIGURES:
        FIGURES[name]()


if __name__ == "__main__":
    main()
