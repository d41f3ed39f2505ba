"""Sixteen live streams of 640x360 at 10 frames a second with `motion`, on two cores.

The frames are H.264 in MPEG-TS over HTTP, from a process of its own, as cameras send them; then generated
pictures (``test:``). Printed are frames by fate, their ages when they were looked at, the processor time of
workers and service, and the memory of a worker by part.

Goals: nothing dropped; median age below 150 ms; a worker below 60 MiB (PSS).
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections import Counter

from agent import Agent, Cameras
from video import cpu_seconds, memory

STREAMS = int(os.environ.get("BENCH_STREAMS", "16"))
SECONDS = float(os.environ.get("BENCH_SECONDS", "20"))
FPS = 10
CORES = (0, 1)


def measure(agent: Agent, source: str) -> None:
    """Print how streams of one source do."""
    streams = [agent.post(f"camera {number}", source) for number in range(STREAMS)]
    workers = agent.working(streams)
    time.sleep(3)
    before = [agent.stream(stream_id) for stream_id in streams]
    used = [cpu_seconds(pid) for pid in workers]
    served, begun = cpu_seconds(agent.process.pid), time.perf_counter()
    time.sleep(SECONDS)
    seconds = time.perf_counter() - begun
    served = cpu_seconds(agent.process.pid) - served
    used = [cpu_seconds(pid) - since for pid, since in zip(workers, used, strict=True)]
    after = [agent.stream(stream_id) for stream_id in streams]
    fates: Counter[str] = Counter()
    for old, new in zip(before, after, strict=True):
        fates["decoded"] += new["frames"]["decoded"] - old["frames"]["decoded"]
        fates["analysed"] += new["frames"]["analysed"] - old["frames"]["analysed"]
        for kind in ("skipped", "dropped"):
            for reason, count in new["frames"][kind].items():
                fates[f"{kind} ({reason})"] += count - old["frames"][kind][reason]
    ages = [each["frame_age_ms"] for each in after]
    worst = max(age["max"] for age in ages)
    print(
        f"{STREAMS} streams, {source.partition(':')[0]}, {seconds:.0f} s, load {os.getloadavg()[0]:.1f}"
    )
    print("  frames: " + ", ".join(f"{count} {name}" for name, count in fates.items() if count))
    print(
        f"  age, at most: median of p50 {statistics.median(age['p50'] for age in ages):.0f} ms,"
        f" highest p95 {max(age['p95'] for age in ages):.0f} ms, oldest {worst:.0f} ms"
    )
    print(
        f"  processor: workers {sum(used) / fates['decoded'] * 1000:.2f} ms a frame,"
        f" {sum(used) / seconds:.2f} cores; service {served / seconds:.3f} cores"
    )
    parts = [memory(pid) for pid in workers]
    names = ("Pss", "Pss_Anon", "Pss_File", "Private_Dirty")
    told = (f"{name} {statistics.median(part[name] for part in parts):.0f}" for name in names)
    print(
        f"  memory of a worker in MiB: {', '.join(told)}; largest Pss {max(p['Pss'] for p in parts):.0f}"
    )
    for stream_id in streams:
        agent.request("DELETE", f"/streams/{stream_id}")


def serve() -> None:
    """Be the cameras, until standard input ends."""
    with Cameras(fps=FPS) as cameras:
        print(cameras.url, flush=True)
        sys.stdin.read()


def main() -> None:
    """Measure both kinds of source."""
    os.sched_setaffinity(0, set(CORES) & os.sched_getaffinity(0))
    command = [sys.executable, __file__, "serve"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as cameras:
        url = cameras.stdout.readline().strip()
        with Agent() as agent:
            measure(agent, url)
            measure(agent, f"test:?rate={FPS}")
            code, seconds = agent.stop()
            print(f"stop: {seconds:.2f} s, exit code {code}")
        cameras.stdin.close()
    print("goals: nothing dropped; median age below 150 ms; a worker below 60 MiB (PSS)")


if __name__ == "__main__":
    serve() if sys.argv[1:] == ["serve"] else main()
