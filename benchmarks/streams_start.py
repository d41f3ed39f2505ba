"""How soon a stream's frames come: after its POST, and after its worker was killed; others meanwhile.

The service and its workers run on one core, idle and then with a process that computes there all the time. A
stream's own log tells when it was created and when its frames came.

Goals: in progress within 1 s of the POST; frames again within 1.5 s of the kill, and none of another dropped.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from agent import Agent

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "10"))
OTHERS = 3
SOURCE = "test:?rate=25"


def started(agent: Agent) -> float:
    """Return the seconds from a stream's creation to its first frame."""
    stream_id = agent.post("new", SOURCE)
    agent.until(lambda: agent.stream(stream_id)["status"] == "in_progress", pause=0.05)
    newest, *_, first = agent.get(f"/streams/{stream_id}/logs")["logs"]
    agent.request("DELETE", f"/streams/{stream_id}")
    return float(newest["time"] - first["time"])


def killed(agent: Agent) -> float:
    """Kill the worker of a new stream; return the seconds until frames come from another."""
    victim = agent.post("victim", SOURCE)
    pid = agent.working([victim])[0]
    at = time.time()
    os.kill(pid, signal.SIGKILL)
    agent.until(lambda: agent.get(f"/streams/{victim}/logs")["logs"][0]["time"] > at, pause=0.05)
    agent.until(lambda: agent.stream(victim)["status"] == "in_progress", pause=0.05)
    seconds = float(agent.get(f"/streams/{victim}/logs")["logs"][0]["time"]) - at
    agent.request("DELETE", f"/streams/{victim}")
    return seconds


def dropped(agent: Agent, streams: list[str]) -> int:
    """Return how many frames of streams were dropped."""
    return sum(sum(agent.stream(each)["frames"]["dropped"].values()) for each in streams)


def show(what: str, measure: Callable[[], float]) -> None:
    """Print the median and the longest of several rounds."""
    found = [measure() for _ in range(ROUNDS)]
    print(f"  {what}: median {statistics.median(found):.2f} s, longest {max(found):.2f} s")


def compare(agent: Agent) -> None:
    """Measure both, beside other streams."""
    show("in progress after the POST", lambda: started(agent))
    others = [agent.post(f"other {number}", SOURCE) for number in range(OTHERS)]
    workers = agent.working(others)
    before = dropped(agent, others)
    show("frames again after kill -9", lambda: killed(agent))
    lost = dropped(agent, others) - before
    same = agent.working(others) == workers
    print(
        f"  frames of {OTHERS} other streams dropped meanwhile: {lost}; their workers went on: {same}"
    )
    for stream_id in others:
        agent.request("DELETE", f"/streams/{stream_id}")


def main() -> None:
    """Measure on an idle core and on a busy one."""
    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    with Agent() as agent:
        print(f"one core, load of the machine {os.getloadavg()[0]:.1f}")
        compare(agent)
        with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
            print("the same core, with a process that computes all the time")
            compare(agent)
            busy.kill()
    print("goals: 1 s after the POST; 1.5 s after kill -9; no frame of another stream dropped")


if __name__ == "__main__":
    main()
