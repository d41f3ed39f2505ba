"""What fifty streams cost the service itself: idle, paused, live; and how long their stop takes.

Idle streams are stopped, paused ones outside of their schedule; live ones have a frame a second. For the
stop, ten more wait for a server that accepts connections and says nothing.

Goals: stop below 2 s with exit code 0, and no process left.
"""

from __future__ import annotations

import os
import socket
import time
from datetime import datetime, timedelta

import psutil
from agent import Agent
from video import cpu_seconds, memory

STREAMS = int(os.environ.get("BENCH_STREAMS", "50"))
SILENT = 10
SECONDS = float(os.environ.get("BENCH_SECONDS", "10"))


def cost(agent: Agent, what: str) -> None:
    """Print the service's processor time, and how often it was woken, over some seconds."""
    process = psutil.Process(agent.process.pid)
    cpu, woken, begun = cpu_seconds(process.pid), process.num_ctx_switches().voluntary, time.time()
    time.sleep(SECONDS)
    seconds = time.time() - begun
    cpu = (cpu_seconds(process.pid) - cpu) / seconds
    woken = (process.num_ctx_switches().voluntary - woken) / seconds
    size = memory(process.pid)["Pss"]
    print(
        f"  {what:24} {cpu * 100:5.2f} % of a core, woken {woken:5.0f} times a second, {size:.0f} MiB"
    )


def main() -> None:
    """Measure one after the other."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as silent, Agent() as agent:
        print(f"{STREAMS} streams; load {os.getloadavg()[0]:.1f}")
        cost(agent, "no stream")
        noon = datetime.now() + timedelta(hours=2)  # noqa: DTZ005 - a schedule is in local time
        times = {"begin": f"{noon:%H:%M}", "end": f"{noon + timedelta(hours=1):%H:%M}"}
        paused = [
            agent.post(f"paused {number}", "test:?rate=1", schedule=[times])
            for number in range(STREAMS)
        ]
        agent.until(lambda: agent.stream(paused[-1])["status"] == "paused")
        cost(agent, "paused")
        for stream_id in paused:
            agent.request("PATCH", f"/streams/{stream_id}", {"action": "stop"})
        cost(agent, "stopped")
        for stream_id in paused:
            agent.request("DELETE", f"/streams/{stream_id}")
        live = [agent.post(f"live {number}", "test:?rate=1") for number in range(STREAMS)]
        workers = agent.working(live)
        cost(agent, "live, 1 frame a second")
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        waiting = [agent.post(f"silent {number}", url, timeout=60) for number in range(SILENT)]
        workers += [agent.stream(stream_id)["worker"]["pid"] for stream_id in waiting]
        time.sleep(2)
        code, seconds = agent.stop()
        left = sum(map(psutil.pid_exists, workers))
        print(
            f"stop of {STREAMS} streams, and of {SILENT} in a silent connect: {seconds:.2f} s,"
            f" exit code {code}, {left} workers left"
        )
    print("goals: stop below 2 s, exit code 0, no worker left")


if __name__ == "__main__":
    main()
