"""What a fleet asks of a real Redis server: agents with 10,000 streams, and one that ends all at once.

The agents are in this process, and start no workers. Prints the commands that an idle agent sends, the
processor time of the server, how long it takes to hand out all streams, and how long the streams of an agent
that has died have no worker. `fleet_model.py` has larger fleets, by the costs that are printed here.

Goals: at most 4 commands a second for each idle agent, and streams taken over within 5 s at a lease of 3 s.
"""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import trio
from redis import Redis
from redis.exceptions import ConnectionError as NotYet
from video import cpu_seconds

from lva.boot_clock import boot_time
from lva.fleet.config import FleetConfig
from lva.fleet.fleet import Fleet, Myself
from lva.fleet.rows import StreamRow

STREAMS = int(os.environ.get("BENCH_STREAMS", "10000"))
AGENTS = int(os.environ.get("BENCH_AGENTS", "10"))
SECONDS = float(os.environ.get("BENCH_SECONDS", "10"))
#: Seconds of a lease: as it is if nothing is said, and where an agent dies.
LEASE, SHORT, ROUNDS = 10.0, 3.0, 5


class Server:
    """A Redis server, and what it has done since it was last asked."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.url = f"redis://127.0.0.1:{port}"
        self.client: Any = Redis(port=port)
        self._pid = process.pid
        self._cpu, self._since = 0.0, time.monotonic()

    def cpu(self) -> float:
        """Return its processor time, in seconds of one core, a second since this was last called."""
        cpu, now = cpu_seconds(self._pid), time.monotonic()
        used = (cpu - self._cpu) / (now - self._since)
        self._cpu, self._since = cpu, now
        return used

    def scripts(self) -> tuple[int, float]:
        """Return how many scripts it has run since this was last called, and the microseconds of each."""
        found = self.client.info("commandstats").get("cmdstat_evalsha", {"calls": 0, "usec": 0})
        self.client.config_resetstat()
        return found["calls"], found["usec"] / max(1, found["calls"])


@contextmanager
def redis_server() -> Iterator[Server]:
    """A server that writes what it gets to disk once a second, as its documentation recommends."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    program = shutil.which("redis-server") or "redis-server"
    with tempfile.TemporaryDirectory() as directory:
        command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", directory]
        with subprocess.Popen(
            [*command, "--appendonly", "yes", "--save", ""], stdout=subprocess.DEVNULL
        ) as process:
            try:
                server = Server(process, port)
                while True:
                    try:
                        server.client.ping()
                        break
                    except NotYet:
                        time.sleep(0.05)
                yield server
            finally:
                process.kill()


class Holder:
    """It notes when work on streams would begin."""

    def __init__(self, begun: dict[str, float]) -> None:
        self.begun = begun

    async def renewed(self, until: float) -> None:
        pass

    def take(self, row: StreamRow, epoch: int) -> None:
        self.begun[row.id] = boot_time()

    async def change(self, row: StreamRow) -> None:
        pass

    async def stop(self, stream_id: str, why: str) -> None:
        pass

    async def let_go(self, stream_id: str, why: str) -> None:
        pass

    def lose(self, stream_id: str) -> None:
        pass


class Agents:
    """A fleet in this process."""

    def __init__(self, nursery: trio.Nursery, url: str, room: int, lease: float) -> None:
        self.begun: dict[str, float] = {}
        self._nursery, self._url, self._room, self._lease = nursery, url, room, lease
        self._numbers = itertools.count()
        self._scopes: dict[str, trio.CancelScope] = {}
        self.fleets: dict[str, Fleet] = {}

    def start(self) -> Fleet:
        """Let one more agent take part."""
        name = f"agent{next(self._numbers)}"
        config = FleetConfig(url=self._url, agent=name, room=self._room, lease=self._lease)
        fleet = Fleet(
            config, Myself(f"http://{name}:5200"), Holder(self.begun), logging.getLogger()
        )
        self.fleets[name], self._scopes[name] = fleet, trio.CancelScope()
        self._nursery.start_soon(self._run, fleet, self._scopes[name])
        return fleet

    async def _run(self, fleet: Fleet, scope: trio.CancelScope) -> None:
        with scope:
            await fleet.run()

    def kill(self, fleet: Fleet) -> None:
        """End an agent in the middle of everything."""
        fleet._leave = trio.lowlevel.checkpoint
        self._scopes.pop(fleet.name).cancel()
        del self.fleets[fleet.name]

    def held(self) -> int:
        """Return how many streams are worked on."""
        return sum(len(fleet.held) for fleet in self.fleets.values())

    async def until(self, count: int) -> None:
        """Wait until so many streams are worked on and nothing changes any more."""
        rest = 0
        while rest < 10:
            busy = any(each.going for fleet in self.fleets.values() for each in fleet.held.values())
            rest = 0 if busy or self.held() != count else rest + 1
            await trio.sleep(0.1)


async def put(fleet: Fleet, count: int) -> None:
    """Write definitions as users do, and let agents find out by themselves."""
    definition = {
        "name": "a camera",
        "source": "rtsp://10.0.0.1:554/stream",
        "analytics": ["motion"],
    }
    for number in range(count):
        row = StreamRow(f"{number:08}", 1, definition, 1_800_000_000.0)
        await fleet._server.run("put", row.id, 0, 1, row.as_json())


async def idle_fleet(streams: int) -> None:
    """Hand out all streams, and be idle."""
    with redis_server() as server:
        async with trio.open_nursery() as nursery:
            agents = Agents(nursery, server.url, max(1, streams), LEASE)
            first = agents.start()
            while first.trouble is not None or not first._standing.settled:
                await trio.sleep(0.1)
            for _ in range(AGENTS - 1):
                agents.start()
            await trio.sleep(3.0)
            server.cpu(), server.scripts()
            begun = boot_time()
            await put(first, streams)
            written = boot_time()
            await agents.until(streams)
            over = max(agents.begun.values(), default=begun)
            calls, each = server.scripts()
            print(
                f"{streams:6} streams, {AGENTS} agents: written in {written - begun:.1f} s, all handed out"
                f" {over - begun:.1f} s after the first; {calls} scripts of {each:.0f} us,"
                f" server {server.cpu():.0%} of a core"
            )
            before, since = sum(each.commands for each in agents.fleets.values()), time.monotonic()
            server.cpu(), server.scripts()
            await trio.sleep(SECONDS)
            sent = sum(each.commands for each in agents.fleets.values()) - before
            calls, each = server.scripts()
            print(
                f"{streams:6} streams, idle: {sent / (time.monotonic() - since) / AGENTS:.1f} commands a"
                f" second for each agent, of {each:.0f} us; server {server.cpu():.1%} of a core"
            )
            for fleet in [*agents.fleets.values()]:
                agents.kill(fleet)


async def deaths() -> None:
    """Kill one agent after another, each with 10 streams at first."""
    with redis_server() as server:
        async with trio.open_nursery() as nursery:
            agents = Agents(nursery, server.url, 50, SHORT)
            first = agents.start()
            for _ in range(AGENTS - 1):
                agents.start()
            while first.trouble is not None:
                await trio.sleep(0.1)
            await put(first, 10 * AGENTS)
            gaps: list[float] = []
            for fleet in [*agents.fleets.values()][1 : ROUNDS + 1]:
                await agents.until(10 * AGENTS)
                theirs, died = [*fleet.held], boot_time()
                agents.kill(fleet)
                await agents.until(10 * AGENTS)
                gaps += [agents.begun[stream_id] - died for stream_id in theirs]
                agents.start()
            print(
                f"an agent with 10 streams dies, lease {SHORT:g} s, {ROUNDS} times: they are taken over"
                f" after {statistics.median(gaps):.2f} s (median), at most {max(gaps):.2f} s"
            )
            for fleet in [*agents.fleets.values()]:
                agents.kill(fleet)


def main() -> None:
    """Measure one after the other."""
    logging.basicConfig(level=logging.ERROR)
    print(f"load {os.getloadavg()[0]:.1f}")
    for streams in (0, STREAMS // 10, STREAMS):
        trio.run(idle_fleet, streams)
    trio.run(deaths)
    print("goals: at most 4 commands a second for each idle agent, streams taken over within 5 s")


if __name__ == "__main__":
    main()
