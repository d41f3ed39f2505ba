"""What live streams cost HTTP and delivery: requests a second with eight streams, and with none, in turns.

Each request is a point that `history` gets. The streams are H.264 over HTTP with `motion`, at the usual
priority and at the lowest. Before that, the processor time that the service spends on streams while nobody
asks it for anything: that is missing for requests, however busy the machine is with other work.

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


def served(agent: Agent) -> tuple[float, float]:
    """Return requests a second, and the service's processor milliseconds for one."""
    before = cpu_seconds(agent.process.pid)
    load = run_load(agent.port, "/ping", SECONDS)
    return load.rate, (cpu_seconds(agent.process.pid) - before) / load.requests * 1000


def idle(agent: Agent) -> float:
    """Return how much of a core the service takes while nobody asks it for anything."""
    before, begun = cpu_seconds(agent.process.pid), time.perf_counter()
    time.sleep(3 * SECONDS)
    return (cpu_seconds(agent.process.pid) - before) / (time.perf_counter() - begun)


def compare(agent: Agent, streams: list[str], what: str) -> None:
    """Print both, with streams and without."""
    rates, costs = [], []
    for _ in range(ROUNDS):
        for stream_id in streams:
            agent.request("PATCH", f"/streams/{stream_id}", {"action": "stop"})
        alone = served(agent)
        for stream_id in streams:
            agent.request("PATCH", f"/streams/{stream_id}", {"action": "resume"})
        agent.working(streams)
        beside = served(agent)
        rates.append(beside[0] / alone[0])
        costs.append(beside[1] / alone[1])
    print(
        f"  {what:12} {alone[0]:5.0f} requests/s without streams, {beside[0]:5.0f} with;"
        f" ratio: median {median(rates):.3f} (min {min(rates):.3f}, max {max(rates):.3f});"
        f" CPU a request {median(costs):.3f}"
    )


def main() -> None:
    """Compare at two priorities of the workers."""
    command = [sys.executable, str(Path(__file__).with_name("streams_live.py")), "serve"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as cameras:
        url = cameras.stdout.readline().strip()
        with Agent("ping", "history", plugins={"ping.py": PLUGIN}) as agent:
            cores = len(os.sched_getaffinity(0))
            print(f"{cores} processors, {STREAMS} streams; load {os.getloadavg()[0]:.1f}")
            without = idle(agent)
            for priority in (0, 19):
                names = [f"camera {number}" for number in range(STREAMS)]
                streams = [agent.post(name, url, priority=priority) for name in names]
                workers = agent.working(streams)
                if priority == 0:
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
