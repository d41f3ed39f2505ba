"""A storm over a fleet: whatever happens at any moment, no stream has two workers, and none is forgotten."""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Callable

import pytest

from tests.process.fleet_scene import RealAgent, Scene, scene
from tests.process.moments import LONG, SEED

pytestmark = [pytest.mark.process, pytest.mark.soak, pytest.mark.timeout(900 if LONG else 180)]

STREAMS, FAULTS = (30, 60) if LONG else (6, 8)
#: Seconds, besides the time of a lease, that a stream may be without a worker. Where other tests use the
#: processors too, a worker may be late.
MORE = 1.0 if LONG else 4.0


class Storm:
    """What happens to a fleet, one of whose agents is spared.

    Args:
        fleet: It.
        rng: Says what happens when.

    Attributes:
        spans: When the spared agent could work, so that no stream had to wait.
        deaths: When something happened to another one.
    """

    def __init__(self, fleet: Scene, rng: random.Random) -> None:
        self._fleet = fleet
        self._rng = rng
        self._begun = time.time()
        self.spans: list[tuple[float, float]] = []
        self.deaths: list[float] = []

    def agent(self) -> RealAgent:
        """Return one that is not spared."""
        self.deaths.append(time.time())
        return self._rng.choice(self._fleet.agents[1:])

    def wait(self, most: float = 5.0) -> None:
        """Let some time go by."""
        time.sleep(self._rng.uniform(0.1, most))

    def killed(self) -> None:
        agent = self.agent()
        agent.service.signal(signal.SIGKILL)
        agent.service.wait()
        self.wait()
        agent.start()

    def ended(self) -> None:
        agent = self.agent()
        assert agent.service.stop() == 0
        self.wait(1)
        agent.start()

    def stopped(self) -> None:
        agent = self.agent()
        agent.service.signal(signal.SIGSTOP)
        self.wait()
        agent.service.signal(signal.SIGCONT)

    def cut(self) -> None:
        agent = self.agent()
        agent.link.cut()
        self.wait()
        agent.link.mend()

    def slow(self) -> None:
        agent = self.agent()
        agent.link.delay = 0.2
        self.wait()
        agent.link.delay = 0.0

    def two(self) -> None:
        first, second = self._fleet.agents[1:3]
        self.deaths.append(time.time())
        first.link.cut()
        second.service.signal(signal.SIGSTOP)
        self.wait()
        first.link.mend()
        second.service.signal(signal.SIGCONT)

    def paused_server(self) -> None:
        self._without_server(self._fleet.server.pause, self._fleet.server.resume)

    def killed_server(self) -> None:
        self._without_server(self._fleet.server.kill, self._fleet.server.start)

    def emptied_server(self) -> None:
        def start_empty() -> None:
            shutil.rmtree(self._fleet.path / "appendonlydir", ignore_errors=True)
            self._fleet.server.start()

        self._without_server(self._fleet.server.kill, start_empty)

    def _without_server(self, down: Callable[[], None], up: Callable[[], None]) -> None:
        self.spans.append((self._begun, time.time()))
        down()
        self.wait()
        up()
        spared = self._fleet.agents[0]
        self._fleet.until(spared.joined)
        self._begun = time.time()

    def over(self) -> None:
        """Note that it is over."""
        self.spans.append((self._begun, time.time()))


#: What can happen; the first of it happens for sure.
KINDS = (
    Storm.killed, Storm.stopped, Storm.cut, Storm.emptied_server, Storm.killed_server, Storm.ended,
    Storm.paused_server, Storm.two, Storm.slow,
)  # fmt: skip


def test_no_stream_has_two_workers_and_none_is_forgotten_in_a_storm(tmp_path) -> None:
    print(f"LVA_STORM_SEED={SEED}")
    rng = random.Random(SEED)
    with scene(tmp_path, 3.0) as fleet:
        fleet.add("one", "two", "three")
        names = fleet.post(STREAMS)
        storm = Storm(fleet, rng)
        kinds = [*KINDS, *rng.choices(KINDS, k=max(0, FAULTS - len(KINDS)))][:FAULTS]
        for kind in kinds:
            print(f"{time.time():.3f}", kind.__name__)
            kind(storm)
            storm.wait(2)
        fleet.until(lambda: all(agent.joined() for agent in fleet.agents), 60)
        fleet.until(lambda: fleet.workers.streams() == {*names}, 60)
        storm.over()
        share = STREAMS / len(fleet.agents)
        fleet.until(lambda: max(held(fleet).values()) <= max(share * 1.2, share + 1), 60)
        found = fleet.agents[0].service.get("/streams").json()["streams"]
        assert {stream["name"] for stream in found} == {*names}
    history = fleet.history()
    assert len(history.spells) > STREAMS
    faults = history.faults(names, fleet.lease + MORE, storm.spans, storm.deaths)
    assert not faults, "\n".join(faults)


def held(fleet: Scene) -> dict[str, int]:
    """Return how many streams each agent works on."""
    agents = fleet.agents[0].fleet["agents"]
    return {agent["name"]: agent["streams"] for agent in agents if agent["alive"]}
