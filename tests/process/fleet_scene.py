"""Real agents on a real Redis server, and who looks at when each worker begins and ends."""

from __future__ import annotations

import json
import os
import random
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from lva.boot_clock import boot_time
from tests.fleet.history import History, Seen, Spell
from tests.plugins.redis_server import RedisServer
from tests.support import ServiceProcess, free_port, write_plugin

#: Writes down each worker when it begins to look at its stream.
WITNESS = """
import os
from lva import AnalyticsEvent, BaseAnalyticsPlugin

class Witness(BaseAnalyticsPlugin):
    def open(self, stream):
        with open(self.config["workers"], "ab", 0) as file:
            file.write(f"{os.getpid()} {stream.name} {self.config['agent']}\\n".encode())

    def handleFrame(self, frame):
        return AnalyticsEvent("seen")
"""
#: Writes down each event that is published.
RECORDER = """
from lva import BaseEventPlugin

class Recorder(BaseEventPlugin):
    eventName = "analytics_event"

    async def handleEvent(self, events, logger):
        with open(self.config["events"], "ab", 0) as file:
            file.write("".join(f"{e.created} {e.stream} {e.epoch}\\n" for e in events).encode())
"""


class Workers:
    """Finds out when workers begin and end, from outside: nothing that happens to them is missed.

    Args:
        path: The file in which they write themselves down.
    """

    def __init__(self, path: Path) -> None:
        path.touch()
        self.spells: list[Spell] = []
        self._path = path
        self._running: dict[int, tuple[str, str, float]] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def streams(self) -> set[str]:
        """Return the streams that have a worker now."""
        return {stream for stream, _, _ in self._running.values()}

    def _watch(self) -> None:
        poll = select.poll()
        with self._path.open() as file:
            while not self._over.is_set():
                for line in file:
                    self._begin(line, poll)
                for pidfd, _ in poll.poll(5):
                    poll.unregister(pidfd)
                    self._end(pidfd)
        for pidfd in [*self._running]:
            self._end(pidfd)

    def _begin(self, line: str, poll: Any) -> None:
        pid, stream, agent = line.split()
        # The kernel has it to the hundredth of a second, cut off.
        offset = time.time() - boot_time() + 0.01
        try:
            pidfd = os.pidfd_open(int(pid))
            stat = Path(f"/proc/{pid}/stat").read_text("latin-1").rpartition(")")[2].split()
        except (ProcessLookupError, FileNotFoundError):
            now = time.time()
            self.spells.append(Spell(stream, agent, len(self.spells), now, now))
        else:
            begun = int(stat[19]) / os.sysconf("SC_CLK_TCK") + offset
            self._running[pidfd] = stream, agent, begun
            poll.register(pidfd, select.POLLIN)

    def _end(self, pidfd: int) -> None:
        stream, agent, begun = self._running.pop(pidfd)
        os.close(pidfd)
        self.spells.append(Spell(stream, agent, len(self.spells), begun, time.time()))


class Link:
    """The network between an agent and the server: it may be cut, or be slow.

    Args:
        port: The server's.

    Attributes:
        port: Where the agent finds it.
        delay: Seconds until what is sent arrives.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.delay = 0.0
        self._open = threading.Event()
        self._open.set()
        self._over = False
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def lead_to(self, port: int) -> None:
        """Let new connections lead to another server; those that are open stay."""
        self._target = port

    def cut(self) -> None:
        """Let nothing through; connections stay open, and nobody is told."""
        self._open.clear()

    def mend(self) -> None:
        """Let everything through, what was sent meanwhile first."""
        self._open.set()

    def close(self) -> None:
        """End it."""
        self._over = True
        self._open.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _accept(self) -> None:
        while not self._over:
            try:
                near, _ = self._listener.accept()
            except OSError:
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self._target), 5)
            except OSError:
                near.close()
                continue
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pass_on, args=(source, sink), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            source.settimeout(None)
            while data := source.recv(65536):
                self._open.wait()
                time.sleep(self.delay)
                sink.sendall(data)
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


class RealAgent:
    """One `lva run` of a fleet, which is started again when it has ended.

    Args:
        scene: The fleet.
        name: Its name.
        config: More of its part in the fleet.
    """

    def __init__(self, scene: Scene, name: str, **config: Any) -> None:
        self.name = name
        self.link = Link(scene.server.port)
        self._scene = scene
        self._stack = ExitStack()
        self._path = scene.path / name
        (self._path / "plugins").mkdir(parents=True)
        self._port = free_port()
        for plugin, source in (("witness", WITNESS), ("recorder", RECORDER)):
            write_plugin(self._path / "plugins", plugin, source, preamble="")
        self._config = {
            "url": f"redis://127.0.0.1:{self.link.port}/0",
            "agent": name,
            "lease": scene.lease,
            **config,
        }
        self.service = self.start()

    def start(self) -> ServiceProcess:
        """Start the service, anew if it has ended."""
        self._stack.close()
        toml = "\n".join(
            [
                "[plugins.streams.config.fleet]",
                *(f"{key} = {json.dumps(value)}" for key, value in self._config.items()),
                "[plugins.witness.config]",
                f'workers = "{self._scene.path}/workers"',
                f'agent = "{self.name}"',
                "[plugins.recorder.config]",
                f'events = "{self._scene.path}/events"',
            ]
        )
        env = {"LUNA_VIDEO_AGENT_BIND": f"127.0.0.1:{self._port}"}
        service = ServiceProcess(self._path, ["streams", "witness", "recorder"], toml, env)
        self.service = self._stack.enter_context(service)
        return self.service

    @property
    def fleet(self) -> dict[str, Any]:
        """What it says of the fleet."""
        found: dict[str, Any] = self.service.get("/fleet").json()
        return found

    def joined(self) -> bool:
        """Return whether it is a part of the fleet."""
        with suppress(OSError, ValueError, KeyError, AssertionError):
            return self.fleet["trouble"] is None
        return False

    def close(self) -> None:
        """End it for good."""
        with suppress(ProcessLookupError):
            self.service.signal(signal.SIGCONT)
        self.link.mend()
        self._stack.close()
        self.link.close()


class Scene:
    """A server, agents, and what is known of them.

    Args:
        path: For files.
        lease: Seconds.
    """

    def __init__(self, path: Path, lease: float) -> None:
        self.path = path
        self.lease = lease
        self.server = RedisServer(path, "--appendfsync", "no")
        self.workers = Workers(path / "workers")
        self.agents: list[RealAgent] = []
        self.rng = random.Random(7)

    def add(self, *names: str, **config: Any) -> None:
        """Start agents, and wait until they are a part of the fleet."""
        added = [RealAgent(self, name, **config) for name in names]
        self.agents += added
        for agent in added:
            agent.service.wait_until(agent.joined)

    def post(self, count: int) -> list[str]:
        """Post streams to the agents in turn; return their names."""
        names = [f"s{number}" for number in range(count)]
        for number, name in enumerate(names):
            agent = self.agents[number % len(self.agents)]
            body = {
                "name": name,
                "source": "test:?size=160x120&rate=10",
                "analytics": [{"name": "witness"}],
                # One that gives way is killed at once, and gone late on a busy machine.
                "priority": 0,
            }
            response = agent.service.request("POST", "/streams", json=body)
            assert response.status_code == 201, response.text
        self.until(lambda: self.workers.streams() == {*names})
        return names

    def until(self, condition: Any, within: float = 30.0) -> None:
        """Wait until something is so."""
        self.agents[0].service.wait_until(condition, within)

    def history(self) -> History:
        """Return what has happened until now; the watch over workers has to have ended."""
        lines = [line.split() for line in (self.path / "events").read_text().splitlines()]
        events = [Seen(stream, int(epoch), float(at)) for at, stream, epoch in lines]
        return History(self.workers.spells, events)


@contextmanager
def scene(path: Path, lease: float = 2.0) -> Iterator[Scene]:
    """A fleet without agents, until the block ends; then no process of it is left."""
    (path / "events").touch()
    made = Scene(path, lease)
    with made.server, made.workers:
        try:
            yield made
        finally:
            for agent in made.agents:
                agent.close()
