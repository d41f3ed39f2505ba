"""`lva streams` and the console's page of a fleet, against two real agents and a real server."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from urllib.parse import quote

import pytest
from click.testing import Result
from playwright.sync_api import expect

from lva.client.fleet import remarks
from lva.settings import ENV_PREFIX
from lva.video.registry.store import StoredStream, StreamStore
from tests.client import running
from tests.plugins.redis_server import RedisServer
from tests.support import ServiceProcess, free_port
from tests.web.chromium import chromium, violations, watched_page

pytestmark = [pytest.mark.process, pytest.mark.slow("starts two agents and real workers")]

#: A stream that the first agent has kept for itself.
KEPT = '{"name": "old", "source": "test:?rate=5"}'


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ServiceProcess]]:
    path = tmp_path_factory.mktemp("fleet")
    with RedisServer(path, "--appendfsync", "no") as server, ExitStack() as stack:
        started = []
        for name in ("north", "south"):
            (path / name).mkdir()
            toml = (
                f'[plugins.streams.config.fleet]\nurl = "{server.url}"\nagent = "{name}"\nlease = 3'
            )
            env = {f"{ENV_PREFIX}BIND": f"127.0.0.1:{free_port()}"}
            started.append(stack.enter_context(ServiceProcess(path / name, ["streams"], toml, env)))
        for service in started:
            service.wait_until(lambda service=service: len(fleet_of(service)["agents"]) == 2)
        for name in ("door", "gate"):
            assert lva(started[0], "add", name, "test:?size=160x120&rate=10").exit_code == 0
        for service in started:
            service.wait_until(lambda service=service: held_in(service) == [1, 1])
        yield started


def held_in(service: ServiceProcess) -> list[int]:
    """Return how many streams each agent works on."""
    return [agent["streams"] for agent in fleet_of(service)["agents"]]


def ids_at(service: ServiceProcess, agent: str) -> list[str]:
    """Return the ids of the streams that an agent works on, and not only soon will."""
    streams = service.get("/streams").json()["streams"]
    return [stream["stream_id"] for stream in streams if stream["fleet"]["agent"] == agent]


def fleet_of(service: ServiceProcess) -> dict:
    found = service.get("/fleet")
    return found.json() if found.status_code == 200 else {"agents": [], "streams": {}}


def lva(service: ServiceProcess, *arguments: str) -> Result:
    return running.lva("streams", *arguments, "--address", service.url)


def test_any_agent_shows_the_streams_of_all_and_their_agents(agents: list[ServiceProcess]) -> None:
    """The kind is a value that only the agent of a stream knows: it is null elsewhere."""
    for service in agents:
        head, *lines = lva(service, "list").output.splitlines()
        assert head.split()[:4] == ["STREAM", "ID", "AGENT", "STATE"]
        assert {tuple(line.split())[2] for line in lines} == {"north", "south"}
        counters = [line.split().count("-") >= 5 for line in lines]
        assert sorted(counters) == [False, True]  # the other one's are not known
        head, *lines = lva(service, "agents").output.splitlines()
        assert head.split()[:5] == ["AGENT", "STATE", "STREAMS", "ROOM", "LOAD"]
        assert [line.split()[:4] for line in lines[:2]] == [
            ["north", "alive", "1", "50"], ["south", "alive", "1", "50"],
        ]  # fmt: skip
        assert lines[2] == "2 streams: 2 with an agent, 0 waiting"
    assert json.loads(lva(agents[0], "agents", "--json").output)["agent"] == "north"


def test_any_agent_shows_a_stream_whose_name_means_something_in_an_address(
    agents: list[ServiceProcess],
) -> None:
    """The kind is a request that is written anew by its decoded parts."""
    north, south = agents
    name = "50%3F gate?limit=#1"
    path = f"/streams/{quote(name, safe='')}"
    assert lva(north, "add", name, "test:?size=160x120&rate=10").exit_code == 0
    for service in agents:
        service.wait_until(lambda service=service: fleet_of(service)["streams"].get("held") == 3)
        assert service.get(path).json()["name"] == name
        service.wait_until(lambda s=service: s.get(path).json()["frames"] is not None)
        assert service.get(f"{path}/events?limit=1").json() == {"events": [], "next": None}
        service.wait_until(lambda s=service: s.get(f"{path}/preview.jpg").status_code == 200)
    assert lva(south, "remove", name).output == f"{name}: removed\n"


def test_an_agent_is_drained_and_takes_streams_again(agents: list[ServiceProcess]) -> None:
    north, south = agents
    assert lva(north, "drain", "south").output == "south: draining\n"
    north.wait_until(lambda: held_in(north)[1] == 0)
    assert "south  draining" in lva(north, "agents").output
    assert lva(south, "drain", "south", "--end").output == "south: takes streams\n"
    unknown = lva(south, "drain", "west")
    assert unknown.exit_code == 1
    assert unknown.output == "lva: there is no agent 'west'; available: north, south\n"


def test_streams_that_an_agent_kept_are_moved_to_its_fleet(agents: list[ServiceProcess]) -> None:
    north, south = agents
    kept = StoredStream("old-one", 3, "in_progress", 1.5, KEPT)
    store = StreamStore(north._tmp_path / "state" / "streams.sqlite3")
    store.save(
        StoredStream("broken", 1, "in_progress", 1.0, '{"name": "b", "source": "test:", "x": 1}')
    )
    store.save(kept)
    told = lva(north, "move", "--to-fleet").output
    assert told.startswith("1 stream moved to the fleet\nbroken stays where it is: x: ")
    assert [row.id for row in store.load()] == ["broken"]
    store.delete("broken")
    south.wait_until(lambda: "old" in lva(south, "list").output)
    assert lva(north, "move", "--to-fleet").output == "0 streams moved to the fleet\n"
    assert lva(north, "move").exit_code == 2


def test_the_console_shows_the_streams_of_all_agents_and_who_is_not_alive(
    agents: list[ServiceProcess],
) -> None:
    north, south = agents
    bodies = [{"name": name, "source": "test:", "labels": ["gpu"]} for name in ("cave", "idle")]
    with ThreadPoolExecutor() as threads:  # for a second, the service waits for an agent to take it
        made = threads.map(lambda body: north.request("POST", "/streams", json=body), bodies)
        assert [response.status_code for response in made] == [201, 201]
    assert lva(north, "stop", "idle").output == "idle: stop\n"
    north.wait_until(lambda: fleet_of(north)["streams"]["waiting"] == 1)  # one is at rest
    north.wait_until(lambda: ids_at(north, "south"))
    other = ids_at(north, "south")[0]
    names = {stream["name"] for stream in north.get("/streams").json()["streams"]}
    with chromium() as browser, watched_page(browser, north.url) as watched:
        page = watched.page
        page.goto("/console/streams")
        expect(page.locator(".agents li")).to_have_text(
            [re.compile(r"^norththis one.* of 50 streams"), re.compile(r"^south\d+ of 50 streams")]
        )
        expect(page.locator(".tile")).to_have_count(len(names))
        cave = page.locator(".tile", has_text="cave")
        expect(cave.locator(".reason")).to_have_text("waits for an agent: no agent with label gpu")
        expect(cave.locator(".state")).to_have_text("waiting")
        elsewhere = page.locator(f'.tile:has(a[href="#/{other}"])')
        expect(elsewhere.locator(".agent")).to_have_text("south")
        expect(elsewhere.locator(".picture")).to_have_class(re.compile("live"))
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        assert violations(page) == []
        page.goto(f"/console/streams#/{other}")
        facts = page.locator(".facts")
        expect(facts.locator('[data-name="Agent"] dd')).to_have_text("south")
        expect(facts.locator('[data-name="Frames a second"] dd')).to_have_text(re.compile(r"\d"))
        page.goto("/console/streams#/")
        south.signal(signal.SIGKILL)
        dead = page.locator(".agents li", has_text="south")
        expect(dead.locator(".word")).to_have_text("not alive")
        expect(elsewhere.locator(".agent")).to_have_text("north", timeout=20_000)
        told = lva(north, "drain", "south").output
        assert told == "south: not alive; it takes none once it is back\n"
        told = lva(north, "drain", "south", "--end").output
        assert told == "south: not alive; it takes streams once it is back\n"
        watched.expected = ["502", "503"]  # while nobody has the stream


@pytest.mark.parametrize(
    "arguments", [("agents",), ("drain", "x"), ("move", "--to-fleet")], ids=lambda each: each[0]
)
def test_without_a_fleet_it_is_said(lone: ServiceProcess, arguments: tuple[str, ...]) -> None:
    result = lva(lone, *arguments)
    assert result.exit_code == 1
    assert "is no part of a fleet; set [plugins.streams.config.fleet]" in result.output


@pytest.fixture(scope="module")
def lone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    with ServiceProcess(tmp_path_factory.mktemp("lone"), ["streams"]) as process:
        yield process.wait_until_ready()


def test_what_waits_and_what_cannot_be_read_is_told() -> None:
    told = remarks(
        {
            "agent": "north",
            "trouble": "redis://a: refused",
            "streams": {"total": 2, "held": 0, "waiting": 1},
            "waiting": [{"stream_id": "s", "reason": "no room"}],
            "broken": [{"kind": "stream", "key": "x\x1b", "reason": "no JSON"}],
        }
    )
    assert told == [
        "2 streams: 0 with an agent, 1 waiting",
        "north is no part of the fleet now: redis://a: refused",
        "s waits: no room",
        "stream x\N{REPLACEMENT CHARACTER} cannot be read: no JSON",
    ]
