"""Actions under traffic: nothing is lost, and who asks meanwhile gets an answer; over real HTTP."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import trio

from lva.host.life.states import State
from lva.settings import Settings
from lva.web.resources import access
from lva.web.resources.access import Access
from lva.web.resources.actions import act
from lva.web.resources.streams import Shutdown
from lva.web.resources.table import Resources
from tests.host.loading.test_reload import counts, functions_and_classes, rewrite
from tests.host.test_changes import ledger
from tests.process.moments import LONG
from tests.support import journal, numbered, running_host, until
from tests.telling import serving

#: Serves its version, fast and slowly, and takes points.
PLUGIN = """
    VERSION = {version}

    class P(BaseEventPlugin, BaseBackgroundPlugin):
        eventName = "monitoring_event"

        async def initialize(self):
            self.addRoute("/which", self.version)
            self.addRoute("/slow", self.slow)
            self.addRoute("/plain", self.plain)

        async def version(self, request):
            return str(VERSION)

        async def slow(self, request):
            await trio.sleep(0.02)
            return str(VERSION)

        def plain(self, request):
            time.sleep(0.01)
            return str(VERSION)

        async def handleEvent(self, points, logger):
            await trio.sleep(0)
            journal.extend(point.fields["n"] for point in points if "n" in point.fields)
"""
OTHER = """
    class Other(BaseBackgroundPlugin):
        async def initialize(self):
            self.addRoute("/other", lambda request: "here")
"""
ASYNCIO = (
    PLUGIN.replace("eventName =", 'runtime = "asyncio"\n        eventName =')
    .replace("trio.sleep", "asyncio.sleep")
    .replace("VERSION =", "import asyncio\n    VERSION =")
)  # fmt: skip


def add_resources(host: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(access, "LIMIT", (10_000, 1.0))
    allowed = Access(Settings(), "http://127.0.0.1:1")
    Resources(host.host, allowed, Shutdown())


class Load:
    """Requests and points, all the time."""

    def __init__(self, host: Any, client: httpx.AsyncClient) -> None:
        self.published = 0
        self.answers: dict[str, Counter[int]] = {}
        self.texts: dict[str, list[str]] = {}
        self.over = False
        self._host = host
        self._client = client

    async def publish(self) -> None:
        while not self.over:
            self._host.publish(numbered(10, self.published))
            self.published += 10
            await trio.sleep(0.002)

    async def ask(self, path: str) -> None:
        self.answers[path], self.texts[path] = Counter(), []
        while not self.over:
            answer = await self._client.get(path)
            self.answers[path][answer.status_code] += 1
            self.texts[path].append(answer.text)
            await trio.sleep(0.005)


#: How many of each kind of plugin: one on asyncio takes a thread and a loop for each life.
RELOADS = {"trio": (PLUGIN, 200 if LONG else 40), "asyncio": (ASYNCIO, 200 if LONG else 20)}


@pytest.mark.soak
@pytest.mark.parametrize("style", RELOADS)
async def test_reloads_while_requests_and_points_flow(tmp_path, monkeypatch, style):
    plugin, reloads = RELOADS[style]
    tables = {"p": {"buffer_limit": 1_000_000}}
    sources = {"p": plugin.format(version=0), "other": OTHER}
    paths = ["/which", "/slow", "/plain", "/other", "/livez"]
    async with running_host(tmp_path, sources, tables) as host:
        add_resources(host, monkeypatch)
        async with serving(host) as client:
            load = Load(host, client)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(load.publish)
                for path in paths:
                    nursery.start_soon(load.ask, path)
                for number in range(1, reloads + 1):
                    rewrite(tmp_path, "p", plugin.format(version=number))
                    answer = await client.post("/plugins/p/reload")
                    assert answer.status_code == 200, answer.text
                    assert (await client.get("/which")).text == str(number)
                    if number == reloads // 4:
                        before, objects = counts(), functions_and_classes()
                load.over = True
            await until(lambda: len(journal) >= load.published)
            for path in paths:
                assert set(load.answers[path]) == {200}, (path, load.answers[path])
                if path not in {"/other", "/livez"}:
                    versions = list(map(int, load.texts[path]))
                    assert versions == sorted(versions)
            assert sum(load.answers["/which"].values()) > reloads
            # A batch in a call that outlasts its time is delivered again; here none does.
            assert journal == list(range(load.published))
            await until(lambda: ledger(host, "p")["delivered"] >= load.published)
            assert ledger(host, "p")["dropped"] == {}
            after = counts()
            assert {**after, "threads": 0} == {**before, "threads": 0}
            assert after["threads"] <= before["threads"] + 3, "worker threads of Trio's"
            assert abs(functions_and_classes() - objects) < 100
        receipt = await host.stop()
    assert receipt.exit_code == 0
    lives = {part.name: (part.lives, part.abandoned) for part in receipt.plugins}
    assert lives == {"p": (reloads + 1, 0), "other": (1, 0)}
    assert not [thread for thread in threading.enumerate() if "of p" in thread.name]


@pytest.mark.slow("requests wait in real time")
async def test_requests_wait_for_the_next_life_but_not_for_ever(tmp_path, monkeypatch):
    slow = PLUGIN.replace(
        "async def initialize(self):",
        "async def initialize(self):\n            await trio.sleep(0.3)",
    )
    monkeypatch.setattr("lva.web.handling.application._HELD", 0.6)
    async with running_host(tmp_path, {"p": slow.format(version=1)}) as host:
        add_resources(host, monkeypatch)
        async with serving(host) as client:
            answers: list[httpx.Response] = []

            async def get(path: str) -> None:
                answers.append(await client.get(path))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.post, "/plugins/p/restart")
                await until(lambda: host.life("p").state.value is not State.RUNNING)
                nursery.start_soon(get, "/which")
                nursery.start_soon(get, "/nowhere")
            assert {answer.status_code for answer in answers} == {200, 404}
            # A route that the new file has no more, and one of a plugin that is long in coming.
            rewrite(tmp_path, "p", slow.format(version=2).replace('"/which"', '"/renamed"'))
            answers.clear()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.post, "/plugins/p/reload")
                await until(lambda: host.life("p").state.value is not State.RUNNING)
                nursery.start_soon(get, "/which")
            assert answers[0].status_code == 404
            rewrite(tmp_path, "p", slow.format(version=2).replace("0.3", "1"))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.post, "/plugins/p/reload")
                await until(lambda: host.life("p").state.value is not State.RUNNING)
                answer = await client.get("/renamed")
                assert answer.status_code == 503
                assert answer.json()["error_code"] == "plugin_unavailable"
                nursery.cancel_scope.cancel()


@pytest.mark.slow("requests wait in real time")
async def test_a_request_that_takes_too_long_is_ended_with_its_plugin_s_life(tmp_path, monkeypatch):
    endless = PLUGIN.format(version=1).replace("trio.sleep(0.02)", "trio.sleep(1000)")
    async with running_host(tmp_path, {"p": endless}, {"p": {"stop_timeout": 0.3}}) as host:
        add_resources(host, monkeypatch)
        async with serving(host) as client:
            answers: list[httpx.Response] = []

            async def get() -> None:
                answers.append(await client.get("/slow"))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(get)
                await until(lambda: host.life("p").owner.calls)
                assert (await client.post("/plugins/p/restart")).status_code == 200
            assert answers[0].status_code == 503


async def test_a_broken_file_is_answered_with_all_that_is_wrong(tmp_path, monkeypatch):
    async with running_host(tmp_path, {"p": PLUGIN.format(version=1)}) as host:
        add_resources(host, monkeypatch)
        rewrite(tmp_path, "p", "def")
        async with serving(host) as client:
            answer = await client.post("/plugins/p/reload")
            assert answer.status_code == 422
            assert answer.json()["error_code"] == "plugin_refused"
            (problem,) = answer.json()["problems"]
            assert "p.py:6: invalid syntax" in problem
            assert (await client.get("/which")).text == "1"
            status = (await client.get("/plugins/p")).json()
            assert status["file_changed"] is True
            assert status["lives"] == 1


async def test_routes_of_a_stopped_plugin_say_so_until_it_is_started_again(tmp_path, monkeypatch):
    """A client, or a cache, takes 404 for good; nothing of the plugin's code is kept for the path."""
    async with running_host(tmp_path, {"p": PLUGIN.format(version=1)}) as host:
        add_resources(host, monkeypatch)
        async with serving(host) as client:
            assert (await client.get("/which")).status_code == 200
            for _ in range(2):
                assert (await client.post("/plugins/p/stop")).json()["routes"] == []
                for method in ("GET", "POST", "HEAD"):
                    answer = await client.request(method, "/which")
                    assert answer.status_code == 503
                    assert "Retry-After" not in answer.headers
                answer = await client.get("/which")
                assert answer.json()["error_code"] == "plugin_stopped"
                assert (await client.get("/nowhere")).status_code == 404
                assert [route.verbs for route in host.host.routes.of("p")] == [{}] * 3
                assert (await client.post("/plugins/p/start")).status_code == 200
                assert (await client.get("/which")).status_code == 200


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (RuntimeError("no thread left"), "failed: RuntimeError: no thread left"),
        (None, "cut short: the client left"),
    ],
)
async def test_the_audit_log_says_how_an_action_ended(error, outcome, caplog):
    """Whatever ends it: an error of the host is not a client that left."""

    async def restart(_name: str) -> None:
        if error is not None:
            raise error
        await trio.sleep_forever()

    changes = SimpleNamespace(start=restart, stop=restart, restart=restart, reload=restart)
    host = SimpleNamespace(changes=changes)
    anybody = SimpleNamespace(check_action=lambda _request: None)
    request = SimpleNamespace(scope={"client": ("127.0.0.1", 1)})
    caplog.set_level("INFO", "lva.admin")
    expected = contextlib.nullcontext() if error is None else pytest.raises(RuntimeError)
    with trio.CancelScope() as client:
        client.cancel()
        with expected:
            await act(host, anybody, "restart", request, "cam")
    (record,) = [item for item in caplog.records if item.name == "lva.admin"]
    assert record.outcome == outcome
