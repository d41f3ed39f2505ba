"""Agents that go on without their server: no stream stops, and epochs tell who is late."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from tests.process.fleet_scene import Scene, scene

pytestmark = [pytest.mark.process, pytest.mark.soak, pytest.mark.timeout(120)]


def test_agents_go_on_alone_and_epochs_tell_afterwards(tmp_path) -> None:
    """The kind is a server that is away: for all agents, when nobody takes over, and for one of them."""
    with scene(tmp_path) as fleet:
        fleet.add("one", "two", when_away="go_on")
        names = fleet.post(4)
        fleet.until(lambda: set(holders(fleet).values()) == {"one", "two"})
        # Shares may still be evened out: from here on nothing moves.
        fleet.until(lambda: Counter(holders(fleet).values()) == {"one": 2, "two": 2})
        before, spells = epochs(fleet), len(fleet.workers.spells)
        away_for_all(fleet, names)
        assert len(fleet.workers.spells) == spells, "no worker has ended"
        assert epochs(fleet) == before
        one = fleet.agents[0]
        cut = {name for name, agent in holders(fleet).items() if agent == "one"}
        one.link.cut()
        fleet.until(lambda: {*holders(fleet, 1).values()} == {"two"})
        taken = time.time()
        fleet.until(lambda: late(fleet, cut, taken) == cut)  # it has gone on all the same
        assert {epochs(fleet, 1)[name] - before[name] for name in cut} == {1}
        # Who is cut off sees no other agent's sign of life, and does not take that for their end.
        seen = one.service.get("/streams").json()["streams"]
        reasons = {each["name"]: each["reason"] for each in seen if each["name"] not in cut}
        assert {reason.partition(":")[0] for reason in reasons.values()} == {"as last known"}, (
            reasons
        )
        assert one.service.get("/fleet").json()["waiting"] == []
        one.link.mend()
        fleet.until(one.joined)
        ended = fleet.workers.spells
        fleet.until(lambda: {each.stream for each in ended if each.agent == "one"} >= cut)
        fleet.until(lambda: fleet.workers.streams() == {*names})
        settled = time.time()
        fleet.until(lambda: len({e.stream for e in events(fleet) if e.time > settled}) == 4)
        assert late(fleet, cut, settled) == set()


def away_for_all(fleet: Scene, names: list[str]) -> None:
    """Let the server be away for longer than a lease."""
    fleet.server.kill()
    away = time.time()
    for agent in fleet.agents:
        fleet.until(lambda agent=agent: not agent.joined())
        assert agent.service.get("/readyz").status_code == 503
        agent.service.wait_for("go on without leases")
    after = away + 1.25 * fleet.lease
    fleet.until(lambda: {each.stream for each in events(fleet) if each.time > after} == {*names})
    fleet.server.start()
    for agent in fleet.agents:
        fleet.until(agent.joined)
        agent.service.wait_until_ready()


def holders(fleet: Scene, number: int = 0) -> dict[str, str]:
    """Return who works on each stream, as one agent sees it."""
    streams = fleet.agents[number].service.get("/streams").json()["streams"]
    return {stream["name"]: stream["fleet"]["agent"] for stream in streams}


def epochs(fleet: Scene, number: int = 0) -> dict[str, int]:
    streams = fleet.agents[number].service.get("/streams").json()["streams"]
    return {stream["name"]: stream["fleet"]["epoch"] for stream in streams}


def events(fleet: Scene):
    return fleet.history().events


def late(fleet: Scene, names: set[str], since: float) -> set[str]:
    """Return the streams of which events of an earlier epoch came since some time, as a receiver can tell."""
    highest: Counter[str] = Counter()
    found = set()
    for event in sorted(events(fleet), key=lambda event: event.time):
        if event.time > since and event.epoch < highest[event.stream]:
            found.add(event.stream)
        highest[event.stream] = max(event.epoch, highest[event.stream])
    return found & names
