"""What live streams cost HTTP and delivery: each with eight streams, and with none, in turns.

HTTP is requests a second, each of which is a point that `history` gets; delivery is points a second from one
plugin to another. The streams are H.264 over HTTP with `motion`, at several niceness values of their workers.
Before that, the processor time that the service spends on streams while nobody asks it for anything: that is
missing for the rest, however busy the machine is with other work.

Goal: at least 0.95 for a core that the streams leave free.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from agent import Agent
from http_throughput import PLUGIN
from load import run_load
from video import cpu_seconds

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
SECONDS = float(os.environ.get("BENCH_SECONDS", "3"))
STREAMS = int(os.environ.get("BENCH_STREAMS", "8"))
PRIORITIES = [*map(int, os.environ.get("BENCH_PRIORITIES", "0,10,19").split(","))]
#: Publishes points for some seconds, and says how many of them arrived in each; JSON is made of each one.
FLOOD = """
import json
import time

import trio

from lva import BaseBackgroundPlugin, BaseEventPlugin, MonitoringPoint

COUNT = 0

class Sink(BaseEventPlugin):
    eventName = "monitoring_event"

    async def handleEvent(self, points, logger):
        global COUNT
        json.dumps([point.fields for point in points])
        COUNT += sum(point.series == "flood" for point in points)

class Flood(BaseBackgroundPlugin):
    async def initialize(self):
        self.addRoute("/flood/<float:seconds>", self.flood)

    async def flood(self, request, seconds):
        points = [MonitoringPoint("flood", 1.0, {"n": n}, {"value": n}) for n in range(100)]
        before, sent, begun = COUNT, 0, time.perf_counter()
        while time.perf_counter() - begun < seconds:
            while sent - (COUNT - before) < 2000:
                self.app.publish("monitoring_event", points)
                sent += len(points)
            await trio.sleep(0)
        return {"rate": (COUNT - before) / (time.perf_counter() - begun)}
"""


def served(agent: Agent) -> tuple[float, float]:
    """Return requests a second, and the service's processor milliseconds for one."""
    before = cpu_seconds(agent.process.pid)
    load = run_load(agent.port, "/ping", SECONDS)
    return load.rate, (cpu_seconds(agent.process.pid) - before) / load.requests * 1000


def delivered(agent: Agent) -> tuple[float, float]:
    """Return points a second, and the service's processor milliseconds for one."""
    before = cpu_seconds(agent.process.pid)
    rate = agent.get(f"/flood/{SECONDS:.1f}")["rate"]
    return rate, (cpu_seconds(agent.process.pid) - before) / (rate * SECONDS) * 1000


def idle(agent: Agent) -> float:
    """Return how much of a core the service takes while nobody asks it for anything."""
    before, begun = cpu_seconds(agent.process.pid), time.perf_counter()
    time.sleep(3 * SECONDS)
    return (cpu_seconds(agent.process.pid) - before) / (time.perf_counter() - begun)


def compare(agent: Agent, streams: list[str], what: str) -> None:
    """Print HTTP and delivery, with streams and without."""
    measures = {"requests": served, "points": delivered}
    rates: dict[str, list[float]] = {name: [] for name in measures}
    costs: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(ROUNDS):
        for stream_id in streams:
            agent.request("PATCH", f"/streams/{stream_id}", {"action": "stop"})
        alone = {name: measure(agent) for name, measure in measures.items()}
        for stream_id in streams:
            agent.request("PATCH", f"/streams/{stream_id}", {"action": "resume"})
        agent.working(streams)
        for name, measure in measures.items():
            beside = measure(agent)
            rates[name].append(beside[0] / alone[name][0])
            costs[name].append(beside[1] / alone[name][1])
    for name, ratios in rates.items():
        print(
            f"  {what:12} {name:8} {alone[name][0]:7.0f}/s without streams;"
            f" ratio: median {median(ratios):.3f} (min {min(ratios):.3f}, max {max(ratios):.3f});"
            f" CPU for each: {median(costs[name]):.3f}",
            flush=True,
        )


def main() -> None:
    """Compare at each priority of the workers."""
    command = [sys.executable, str(Path(__file__).with_name("streams_live.py")), "serve"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as cameras:
        url = cameras.stdout.readline().strip()
        with Agent(
            "ping", "flood", "history", plugins={"ping.py": PLUGIN, "flood.py": FLOOD}
        ) as agent:
            cores = len(os.sched_getaffinity(0))
            print(f"{cores} processors, {STREAMS} streams; load {os.getloadavg()[0]:.1f}")
            without = idle(agent)
            for priority in PRIORITIES:
                names = [f"camera {number}" for number in range(STREAMS)]
                streams = [agent.post(name, url, priority=priority) for name in names]
                workers = agent.working(streams)
                if priority == PRIORITIES[0]:
                    before = sum(map(cpu_seconds, workers))
                    taken = idle(agent) - without
                    used = (sum(map(cpu_seconds, workers)) - before) / (3 * SECONDS)
                    print(
                        f"  the service spends {taken:.4f} of a core on them, workers {used:.2f}:"
                        f" {1 - taken:.3f} of a core is left for requests"
                    )
                compare(agent, streams, f"priority {priority}")
                for stream_id in streams:
                    agent.request("DELETE", f"/streams/{stream_id}")
        cameras.stdin.close()
    print("goal: at least 0.95 for a core that the streams leave free")


if __name__ == "__main__":
    main()
