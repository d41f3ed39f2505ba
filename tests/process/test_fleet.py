"""A fleet of real services: no stream has two workers, whatever happens to agents, network and server."""

from __future__ import annotations

import json
import signal
import time
from itertools import islice
from typing import Any

import httpx
import pytest

from tests.process.fleet_scene import Scene, scene

pytestmark = [pytest.mark.process, pytest.mark.soak, pytest.mark.timeout(150)]


def test_agents_that_die_stop_and_end_are_replaced_and_no_stream_has_two(tmp_path) -> None:
    """The kind is an agent that is no more, or not for a while, or says that it ends."""
    with scene(tmp_path) as fleet:
        fleet.add("one", "two", "three")
        begun = time.time()
        names = fleet.post(6)
        one, two, three = fleet.agents
        fleet.until(lambda: all([*held_by(fleet, n).values()] == [2] * 3 for n in range(3)))
        by_hand(fleet, names)
        one.service.signal(signal.SIGKILL)
        two.service.signal(signal.SIGSTOP)
        fleet.until(lambda: held_by(fleet, 2) == {"three": 6})
        two.service.signal(signal.SIGCONT)
        one.start()
        fleet.until(lambda: set(held_by(fleet, 2).values()) == {2})
        assert three.service.stop() == 0
        fleet.until(lambda: set(held_by(fleet, 1).values()) == {3})
        ended = time.time()
    spans = [(begun + 5, ended)]
    assert fleet.history().faults(names, fleet.lease + 1, spans) == []


def by_hand(fleet: Scene, names: list[str]) -> None:
    """Any agent tells of every stream, and takes changes."""
    for agent in fleet.agents:
        found = agent.service.get("/streams").json()
        assert {stream["name"] for stream in found["streams"]} == {*names}
        for name in names[:3]:
            assert agent.service.get(f"/streams/{name}").json()["frames"]["decoded"] > 0
            events = agent.service.get(f"/streams/{name}/events").json()["events"]
            assert events[0]["epoch"] >= 1
            assert agent.service.get(f"/streams/{name}/preview.jpg").content[:2] == b"\xff\xd8"
            logs = agent.service.get(f"/streams/{name}/logs").json()["logs"]
            assert logs[0]["status"] == "in_progress"
        assert [each["alive"] for each in agent.fleet["agents"]] == [True] * 3
    holder = fleet.agents[0].service.get(f"/streams/{names[0]}").json()["fleet"]["agent"]
    other = next(agent for agent in fleet.agents if agent.name != holder).service
    assert live_event(other, names[0])["stream"] == names[0]
    assert act(other, names[0], "stop") == (200, "stop")
    assert names[0] not in fleet.workers.streams()
    assert other.get(f"/streams/{names[0]}").json()["status"] == "stop"
    assert act(other, names[0], "stop")[0] == 409
    assert act(other, names[0], "resume")[0] == 200
    fleet.until(lambda: names[0] in fleet.workers.streams())
    definition = other.get(f"/streams/{names[0]}/definition").json()
    changed = other.request("PUT", f"/streams/{names[0]}", json={**definition, "timeout": 4})
    assert changed.json()["version"] == 2
    fleet.until(lambda: fleet.agents[0].service.get(f"/streams/{names[0]}").json()["version"] == 2)


def live_event(service, name: str) -> dict[str, Any]:
    """Return the first event that a reader of one stream is told as it comes, from whatever agent."""
    query = {"stream": name}
    with httpx.stream("GET", f"{service.url}/streams/live", params=query, timeout=10) as response:
        for line in islice(response.iter_lines(), 100):
            if line.startswith("data: ") and (events := json.loads(line[6:]).get("events")):
                event: dict[str, Any] = events[0]
                return event
    raise AssertionError(f"no event of {name} was told")


def act(service, name: str, action: str) -> tuple[int, str | None]:
    response = service.request("PATCH", f"/streams/{name}", json={"action": action})
    return response.status_code, response.json().get("status")


def held_by(fleet: Scene, number: int) -> dict[str, int]:
    """Return how many streams each agent works on, as one of them sees it."""
    counts: dict[str, int] = {}
    try:
        for stream in fleet.agents[number].service.get("/streams").json()["streams"]:
            if stream["status"] == "in_progress" and stream["fleet"]["alive"]:
                counts[stream["fleet"]["agent"]] = counts.get(stream["fleet"]["agent"], 0) + 1
    except httpx.HTTPError:
        return {}
    return counts
