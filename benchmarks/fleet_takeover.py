"""For how long streams have no pictures when an agent is killed, and when it is stopped: real agents.

A plugin in each worker writes down when it is given a frame. Of each agent that ends, the stream that has
waited longest counts. `fleet_redis.py` has the costs of the server, without workers.

Goals: after kill -9, at a lease of 3 s, the streams of the median agent have pictures again within 5 s; after
SIGTERM no stream misses more than a second of pictures.
"""

from __future__ import annotations

import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import httpx
from fleet_redis import redis_server

AGENTS = int(os.environ.get("BENCH_AGENTS", "3"))
STREAMS = int(os.environ.get("BENCH_STREAMS", "10"))  # of each agent
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
LEASE = 3.0
PLUGIN = """
import time
from lva import BaseAnalyticsPlugin

class Witness(BaseAnalyticsPlugin):
    def open(self, stream):
        self._file = open(f"{self.config['path']}/{stream.name}", "ab", 0)

    def handleFrame(self, frame):
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        self._file.write(f"{now:.4f} {self.config['agent']}\\n".encode())
"""


class Agent:
    """One `lva run`, started again on the same port."""

    def __init__(self, path: Path, number: int, url: str) -> None:
        self.name = f"agent{number}"
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.address = f"127.0.0.1:{listener.getsockname()[1]}"
        self._config = path / f"{self.name}.toml"
        self._config.write_text(
            f'active_plugins = ["streams", "witness"]\nplugins_dir = ["{path}/plugins"]\n'
            f'state_dir = "{path}/{self.name}"\nbind = "{self.address}"\n'
            f'[plugins.streams.config.fleet]\nurl = "{url}"\nagent = "{self.name}"\nlease = {LEASE}\n'
            f'[plugins.witness.config]\npath = "{path}/frames"\nagent = "{self.name}"\n'
        )
        self.start()

    def start(self) -> None:
        """Start it."""
        command = [sys.executable, "-m", "lva", "run", "--config", str(self._config)]
        with self._config.with_suffix(".log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def get(self, path: str) -> dict:
        """Return what it responds; nothing if it does not."""
        try:
            found = httpx.get(f"http://{self.address}{path}", timeout=5)
        except httpx.HTTPError:
            return {}
        return found.json() if found.status_code == 200 else {}

    def end(self) -> None:
        """End it for good."""
        self.process.kill()
        self.process.wait()


class Fleet:
    """The agents, and the frames that their workers have been given."""

    def __init__(self, path: Path, url: str, stack: ExitStack) -> None:
        for each in ("plugins", "frames"):
            (path / each).mkdir()
        (path / "plugins" / "witness.py").write_text(PLUGIN)
        self._frames = path / "frames"
        self.agents = [Agent(path, number, url) for number in range(AGENTS)]
        for agent in self.agents:
            stack.callback(agent.end)

    def post(self) -> None:
        """Post all streams, and wait until the agents share them."""
        first = self.agents[0]
        until(lambda: len(first.get("/fleet").get("agents", ())) == AGENTS)
        for number in range(AGENTS * STREAMS):
            body = {
                "name": f"s{number}",
                "source": "test:?size=640x360&rate=10",
                "analytics": [{"name": "witness"}],
            }
            httpx.post(f"http://{first.address}/streams", json=body, timeout=20).raise_for_status()
        self.settle()

    def settle(self) -> None:
        """Wait until each agent has its share, and all streams have had pictures for a second."""
        until(lambda: all(count == STREAMS for count in self._shares(self.agents[0])))
        time.sleep(2)
        until(lambda: all(self._last(name) > now() - 0.5 for name in self._names()))

    def _shares(self, agent: Agent) -> list[int]:
        found = [each for each in agent.get("/fleet").get("agents", ()) if each["alive"]]
        return [each["streams"] for each in found] if len(found) == AGENTS else [-1]

    def _names(self) -> list[str]:
        return [f"s{number}" for number in range(AGENTS * STREAMS)]

    def frames(self, name: str) -> list[tuple[float, str]]:
        """Return when a stream's frames were looked at, and by whose worker."""
        lines = (self._frames / name).read_text().splitlines()
        return [(float(at), agent) for at, agent in (line.split() for line in lines if " " in line)]

    def _last(self, name: str) -> float:
        return self.frames(name)[-1][0]

    def gaps(self, agent: Agent, number: int) -> tuple[list[float], list[float]]:
        """End an agent by a signal.

        Return for how long its streams had no pictures: from the signal on, and from the last picture on.
        """
        theirs = [name for name in self._names() if self.frames(name)[-1][1] == agent.name]
        begun = now()
        agent.process.send_signal(number)

        def others(name: str) -> list[float]:
            return [at for at, who in self.frames(name) if at > begun and who != agent.name]

        until(lambda: all(others(name) for name in theirs))
        agent.process.wait()
        first = {name: min(others(name)) for name in theirs}
        last = {
            name: max(at for at, who in self.frames(name) if who == agent.name) for name in theirs
        }
        return (
            [first[name] - begun for name in theirs],
            [first[name] - last[name] for name in theirs],
        )


def now() -> float:
    """Return the time as the plugin has it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def until(condition: Callable[[], object], patience: float = 120.0) -> None:
    """Wait until something is so."""
    end = time.monotonic() + patience
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.05)


def measure(fleet: Fleet, what: str, number: int) -> None:
    """End one agent after the other, and start it again."""
    last, all_gaps = [], []
    for count in range(ROUNDS):
        agent = fleet.agents[1 + count % (AGENTS - 1)]
        waited, gaps = fleet.gaps(agent, number)
        last.append(max(waited))
        all_gaps += gaps
        agent.start()
        fleet.settle()
    print(
        f"{what}, {ROUNDS} times: all {STREAMS} streams of the agent have pictures again after"
        f" {statistics.median(last):.2f} s (median), at most {max(last):.2f} s; a stream misses pictures for"
        f" {statistics.median(all_gaps):.2f} s (median), at most {max(all_gaps):.2f} s",
        flush=True,
    )


def main() -> None:
    """Measure both ends."""
    print(
        f"load {os.getloadavg()[0]:.1f}; {AGENTS} agents with {STREAMS} streams each, lease {LEASE:g} s"
    )
    with tempfile.TemporaryDirectory() as directory, redis_server() as server, ExitStack() as stack:
        fleet = Fleet(Path(directory), server.url, stack)
        fleet.post()
        measure(fleet, "kill -9", signal.SIGKILL)
        measure(fleet, "SIGTERM", signal.SIGTERM)
    print(
        "goals: within 5 s after kill -9 at the median agent; at most 1 s is missed after SIGTERM"
    )


if __name__ == "__main__":
    main()
