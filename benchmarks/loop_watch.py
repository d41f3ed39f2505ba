"""What it costs to watch the event loop: requests/s and points/s with the watch and without.

Both in one process each, in which the watch is started and stopped in turns, so that nothing else
differs: with, without, without, with, … Each figure is the ratio of a round with it to its neighbour
without, as the median over all pairs, with the 95 % confidence interval of that median, for which nothing is
assumed of how they are distributed. Rates suffer from whatever else the machine does, so two more are told:
the rate without the time in which the event loop's thread was ready but had no processor, as the kernel
counts it, and the processor time of the service for each request or point. The former has all that the watch
costs the loop, what it waits for the interpreter included. Whatever else runs makes a round dearer, never
cheaper, so the narrowest figure is that of the cheapest rounds of each kind; it is told for two halves of the
rounds, too, which shows how far it can be trusted. With ``BENCH_SECONDS=0.2 BENCH_ROUNDS=80`` all takes less
than two minutes.
Goal: at least 0.985 of the rates, at most 1.015 of the processor time.
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
from math import comb
from pathlib import Path
from statistics import median
from typing import NamedTuple

import trio
from delivery import ENCODING, LIST, make_points, publishing, running
from http_throughput import PLUGIN as PING
from load import run_load, serving
from many_plugins import collect_garbage_as_the_service

from lva.app import SWITCH_INTERVAL
from lva.host.host import Host

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "30"))
SECONDS = float(os.environ.get("BENCH_SECONDS", "0.5"))
PORT = 5347
SETTLING = 0.05  # seconds before a round, in which connections end and the watch begins
PASS = 20_000  # points; a round repeats passes until its time is over

#: `lva run`, whose watch runs from SIGUSR1 to SIGUSR2. Both are handled before the service begins: it puts
#: back what is changed later.
SERVICE = """
import os, signal
import trio
from lva.cli import main
from lva.host.host import Host

told, tell = os.pipe()
for number in (signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, lambda number, _: os.write(tell, bytes([number])))
watch_loop = Host.watch_loop

async def in_turns(self):
    scope = trio.CancelScope()

    async def one_turn():
        with scope:
            await watch_loop(self)

    async with trio.open_nursery() as nursery:
        while True:
            await trio.lowlevel.wait_readable(told)
            scope.cancel()
            if os.read(told, 1)[0] == signal.SIGUSR1:
                scope = trio.CancelScope()
                nursery.start_soon(one_turn)

Host.watch_loop = in_turns
main()
"""


class Measured(NamedTuple):
    """One round, in items a second, and in seconds for each item."""

    rate: float
    own_rate: float
    processor_time: float


class Times(NamedTuple):
    """The processor time of all threads of a process, and how long its first has waited for a processor."""

    used: float
    queued: float


def times_of(pid: int) -> Times:
    used = time.clock_gettime((~pid << 3) | 2)  # as clock_getcpuclockid() makes it
    queued = Path(f"/proc/{pid}/task/{pid}/schedstat").read_text(encoding="utf-8").split()[1]
    return Times(used, int(queued) / 1e9)


def measured(items: int, seconds: float, before: Times, after: Times) -> Measured:
    own = seconds - (after.queued - before.queued)
    return Measured(items / seconds, items / own, (after.used - before.used) / items)


def report(what: str, pairs: list[tuple[Measured, Measured]]) -> None:
    print(
        f"{what}: {median(without.rate for _, without in pairs):,.0f} a second without it",
        flush=True,
    )
    for field, name, goal in (
        ("rate", "rate", ">= 0.985"),
        ("own_rate", "rate, waits for a processor left out,", ">= 0.985"),
        ("processor_time", "processor time", "<= 1.015"),
    ):
        ratios = [getattr(watched, field) / getattr(without, field) for watched, without in pairs]
        low, high = interval_of_median(ratios)
        print(
            f"  {name} with / without: {median(ratios):.4f}"
            f" (95 % sure between {low:.4f} and {high:.4f}, {len(ratios)} pairs); goal {goal}",
            flush=True,
        )
    halves = f"{of_the_cheapest(pairs[::2]):.4f} and {of_the_cheapest(pairs[1::2]):.4f}"
    print(
        f"  processor time of the cheapest rounds, with / without: {of_the_cheapest(pairs):.4f}"
        f" (by halves {halves}); goal <= 1.015",
        flush=True,
    )


def of_the_cheapest(pairs: list[tuple[Measured, Measured]]) -> float:
    """Return the ratio of the processor times, of the cheapest eighth of the rounds with and without."""
    count = max(1, len(pairs) // 8)
    with_it, without = (
        sum(sorted(round_.processor_time for round_ in rounds)[:count])
        for rounds in zip(*pairs, strict=True)
    )
    return with_it / without


def interval_of_median(values: list[float]) -> tuple[float, float]:
    """Return between which of the values the median is with 95 % confidence, or all there are if too few.

    Each value is above the true median as likely as below it, so the number below is that of heads in so
    many throws of a coin.
    """
    ordered, count = sorted(values), len(values)
    outside, probability = 0, 0.0
    while outside < count // 2:
        probability += 2 * comb(count, outside) / 2**count
        if probability > 0.05:
            break
        outside += 1
    outside = max(0, outside - 1)
    return ordered[outside], ordered[count - 1 - outside]


def requests() -> None:
    with tempfile.TemporaryDirectory() as text, ExitStack() as stack:
        directory = Path(text)
        (directory / "plugins").mkdir()
        (directory / "plugins" / "ping.py").write_text(PING)
        command = [sys.executable, "-c", SERVICE, "run", "--bind", f"127.0.0.1:{PORT}"]
        command += ["--plugins-dir", str(directory / "plugins"), "--active", "ping"]
        command += ["--active", "history", "--log-level", "ERROR"]
        state = str(directory / "state")
        service: subprocess.Popen[bytes] = stack.enter_context(
            serving(command, PORT, LUNA_VIDEO_AGENT_STATE_DIR=state)
        )

        def measure(watched: bool) -> Measured | None:
            """Return None for a round in which the machine had no time for any of it."""
            if watched:
                service.send_signal(signal.SIGUSR1)
            time.sleep(SETTLING)
            before = times_of(service.pid)
            load = run_load(PORT, "/ping", SECONDS)
            after = times_of(service.pid)
            if watched:
                service.send_signal(signal.SIGUSR2)
            if not load.requests:
                return None
            return measured(load.requests, load.seconds, before, after)

        run_load(PORT, "/ping", 1)
        pairs = []
        for number in range(ROUNDS):
            both = {watched: measure(watched) for watched in (number % 2 == 0, number % 2 != 0)}
            if None not in both.values():
                pairs.append((both[True], both[False]))
        report("requests", pairs)


async def points() -> None:
    items = make_points(PASS)
    lists = [items[begin : begin + LIST] for begin in range(0, PASS, LIST)]
    collect_garbage_as_the_service()
    sys.setswitchinterval(SWITCH_INTERVAL)
    async with running({"sink": (ENCODING, {"buffer_limit": 2 * PASS})}) as host:
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
        before, begun = times_of(os.getpid()), time.perf_counter()
        while (taken := time.perf_counter() - begun) < SECONDS:
            await one_pass()
            passes += 1
        after = times_of(os.getpid())
        nursery.cancel_scope.cancel()
    return measured(passes * PASS, taken, before, after)


FIGURES: dict[str, Callable[[], object]] = {
    "requests": requests,
    "points": lambda: trio.run(points),
}


def main() -> None:
    logging.disable(logging.ERROR)
    for name in sys.argv[1:] or FIGURES:
        FIGURES[name]()


if __name__ == "__main__":
    main()
