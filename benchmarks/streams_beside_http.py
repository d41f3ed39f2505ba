"""What live streams cost HTTP and delivery: each with eight streams, and with none, in turns.

HTTP is requests a second, each of which is a point that `history` gets; delivery is points a second from one
plugin to another. The streams are H.264 over HTTP with `motion`, at several niceness values of their workers.
Before that, the processor time that the service spends on streams while nobody asks it for anything: that is
missing for the rest, however busy the machine is with other work.

Two ratios are printed, each the median of all rounds:

- the rate beside streams to that without. All run on the same processors, so it holds both what the service
  lost and what the streams took from service and client;
- the same for a core that the streams leave free. While the load runs, workers and the process of the cameras
  take some cores, `used`; without streams, service and client take others, `busy`. Left for these two are
  ``min(busy, processors - used)``, and the ratio is that of ``rate / left`` beside streams to ``rate / busy``
  without. It is no higher than what dividing by all processors gives, and where the streams fit into what
  service and client do not need, it is the first ratio. What the service spends on streams counts as lost.

Both need a machine without other work. Last comes the same beside loops of bare PyAV that decode the same
cameras, and that the service knows nothing of: what these cost, any neighbour on the same processors does,
processor time for each request too.

Goal: at least 0.95 for a core that the streams leave free.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
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
CORES = len(os.sched_getaffinity(0))
#: Decodes a camera as a worker does that has no analytics plugin; says when it has the first frame.
BARE = """
import os
import sys

import av

os.nice(10)
with av.open(sys.argv[1]) as container:
    container.streams.video[0].thread_count = 1
    frames = container.decode(video=0)
    next(frames)
    print(flush=True)
    for _ in frames:
        pass
"""
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


@dataclass(frozen=True)
class Seen:
    """What one measurement saw: times are processor time.

    Attributes:
        rate: Requests or points a second.
        cost: Seconds of the service's for one.
        busy: Cores that service and client took.
        used: Cores that their neighbours took.
    """

    rate: float
    cost: float
    busy: float
    used: float


def served(agent: Agent) -> float:
    """Return requests a second."""
    return run_load(agent.port, "/ping", SECONDS).rate


def delivered(agent: Agent) -> float:
    """Return points a second."""
    return float(agent.get(f"/flood/{SECONDS:.1f}")["rate"])


def see(agent: Agent, load: Callable[[Agent], float], neighbours: Sequence[int] = ()) -> Seen:
    """Measure a load, and what these processes take meanwhile."""
    service = agent.process.pid
    before = cpu_seconds(service), time.process_time(), sum(map(cpu_seconds, neighbours))
    begun = time.perf_counter()
    rate = load(agent)
    seconds = time.perf_counter() - begun
    after = cpu_seconds(service), time.process_time(), sum(map(cpu_seconds, neighbours))
    own, client, used = (now - then for now, then in zip(after, before, strict=True))
    return Seen(rate, own / (rate * seconds), (own + client) / seconds, used / seconds)


def idle(agent: Agent) -> float:
    """Return how much of a core the service takes while nobody asks it for anything."""
    before, begun = cpu_seconds(agent.process.pid), time.perf_counter()
    time.sleep(3 * SECONDS)
    return (cpu_seconds(agent.process.pid) - before) / (time.perf_counter() - begun)


@contextmanager
def resumed(agent: Agent, streams: list[str]) -> Iterator[list[int]]:
    """Let streams that are stopped work; yield their workers' process ids."""
    for stream_id in streams:
        agent.request("PATCH", f"/streams/{stream_id}", {"action": "resume"})
    for stream_id in streams:
        agent.until(lambda: agent.stream(stream_id)["status"] == "in_progress", pause=0.05)  # noqa: B023
    yield agent.working(streams)
    stop(agent, streams)


def stop(agent: Agent, streams: list[str]) -> None:
    """Stop streams."""
    for stream_id in streams:
        agent.request("PATCH", f"/streams/{stream_id}", {"action": "stop"})


@contextmanager
def decoding(url: str) -> Iterator[list[int]]:
    """Let as many loops of bare PyAV decode the cameras; yield their process ids."""
    with ExitStack() as running:
        loops = []
        for _ in range(STREAMS):
            command = [sys.executable, "-c", BARE, url]
            loops.append(running.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE)))
            running.callback(loops[-1].kill)
        for loop in loops:
            loop.stdout.readline()
        yield [loop.pid for loop in loops]


def compare(
    agent: Agent, what: str, beside: Callable[[], AbstractContextManager[list[int]]], cameras: int
) -> None:
    """Print HTTP and delivery, alone and beside what else runs then."""
    loads = {"requests": served, "points": delivered}
    pairs: dict[str, list[tuple[Seen, Seen]]] = {name: [] for name in loads}
    for _ in range(ROUNDS):
        alone = {name: see(agent, load) for name, load in loads.items()}
        with beside() as pids:
            for name, load in loads.items():
                pairs[name].append((alone[name], see(agent, load, [*pids, cameras])))
    print(f"  beside {what}")
    for name, seen in pairs.items():
        tell(name, seen)


def tell(name: str, pairs: Sequence[tuple[Seen, Seen]]) -> None:
    """Print the ratios of one load, and what they are made of."""
    raw = [beside.rate / alone.rate for alone, beside in pairs]
    left = [min(alone.busy, CORES - beside.used) for alone, beside in pairs]
    for_core = [
        ratio * alone.busy / cores
        for ratio, cores, (alone, _) in zip(raw, left, pairs, strict=True)
    ]
    cost = [beside.cost / alone.cost for alone, beside in pairs]
    print(
        f"    {name:8} {median(alone.rate for alone, _ in pairs):7.0f}/s alone; ratio {_spread(raw)};"
        f" for a core left free {_spread(for_core)}; CPU for each {_spread(cost)}\n"
        f"             cores: busy {median(alone.busy for alone, _ in pairs):.2f},"
        f" used {median(beside.used for _, beside in pairs):.2f}, left {median(left):.2f}",
        flush=True,
    )


def _spread(values: Sequence[float]) -> str:
    return f"{median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def main() -> None:
    """Compare at each priority of the workers, and beside loops of bare PyAV."""
    command = [sys.executable, str(Path(__file__).with_name("streams_live.py")), "serve"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as cameras:
        url = cameras.stdout.readline().strip()
        with Agent(
            "ping", "flood", "history", plugins={"ping.py": PLUGIN, "flood.py": FLOOD}
        ) as agent:
            print(f"{CORES} processors, {STREAMS} streams; load {os.getloadavg()[0]:.1f}")
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
                stop(agent, streams)
                what = f"{STREAMS} streams, priority {priority}"
                compare(agent, what, partial(resumed, agent, streams), cameras.pid)
                for stream_id in streams:
                    agent.request("DELETE", f"/streams/{stream_id}")
            what = f"{STREAMS} loops of bare PyAV, niceness 10"
            compare(agent, what, partial(decoding, url), cameras.pid)
        cameras.stdin.close()
    print("goal: at least 0.95 for a core that the streams leave free")


if __name__ == "__main__":
    main()
