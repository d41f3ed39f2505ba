"""What /plugins and `self.app.plugins()` say: true, plain, without secrets, from every thread."""

from __future__ import annotations

import json
import threading
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lva.host.life.states import State, Transition
from lva.host.routing import RouteTable
from lva.host.status import full_statuses
from lva.settings import Settings
from lva.web.resources.access import Access
from lva.web.resources.streams import Shutdown
from lva.web.resources.table import Resources
from tests.support import journal, numbered, running_host, until
from tests.test_docs import page

SINK = """
    class Sink(BaseEventPlugin):
        eventName = "monitoring_event"

        async def handleEvent(self, points, logger):
            await trio.sleep(2)
            if points[0].fields["n"] == 0 and not journal:
                journal.append("failed")
                raise OSError("no")
"""
ASKER = """
    class Asker(BaseBackgroundPlugin):
        async def start(self):
            self.nursery.start_soon(trio.sleep_forever)
            await trio.sleep_forever()
"""
ASYNCIO = """
    import asyncio

    class Own(BaseEventPlugin, BaseBackgroundPlugin):
        runtime = "asyncio"
        eventName = "monitoring_event"

        def __init__(self, app):
            super().__init__(app)
            journal.append(app.plugins())

        async def start(self):
            self.kept = [asyncio.create_task(asyncio.sleep(1000)) for _ in range(5)]
            failed = asyncio.create_task(self.fail())
            await asyncio.wait([failed])  # it is over, but nobody has looked yet at how
            journal.append(self.app.plugins())
            failed.exception()
            await asyncio.sleep(1000)

        async def fail(self):
            raise OSError("no")

        async def handleEvent(self, points, logger):
            pass
"""


def by_name(statuses: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {status["name"]: status for status in statuses}


async def test_deliveries_show_what_became_of_the_points(tmp_path, autojump_clock):
    tables = {"sink": {"batch_size": 20}}
    async with running_host(tmp_path, {"asker": ASKER, "sink": SINK}, tables) as host:
        app = host.plugin("asker").app
        host.publish(numbered(25))
        await wait_all_tasks_blocked()
        (before,) = by_name(app.plugins())["sink"]["deliveries"]
        assert before["ledger"]["in_flight"] == 20
        assert before["ledger"]["queued"] == 5
        assert before["handle_seconds"]["sum"] == 0
        await trio.sleep(30)
        (after,) = by_name(app.plugins())["sink"]["deliveries"]
    assert before["ledger"]["delivered"] == 0, "what was returned does not change"
    assert sum(before["handle_seconds"]["counts"]) == 0
    assert (after["class"], after["event"]) == ("Sink", "monitoring_event")
    assert after["ledger"]["delivered"] == after["ledger"]["accepted"] == 25
    assert after["ledger"]["retries"] == 1
    # Two calls with 20 points, one with 5; each took two seconds.
    assert after["batch_sizes"]["sum"] == 45
    assert dict(zip(after["batch_sizes"]["bounds"], after["batch_sizes"]["counts"], strict=False)) == {
        1: 0, 10: 1, 100: 2, 1000: 0, 10_000: 0, 100_000: 0,
    }  # fmt: skip
    assert after["batch_sizes"]["counts"][-1] == 0
    assert after["handle_seconds"]["sum"] == 6
    assert sum(after["handle_seconds"]["counts"]) == 3
    assert after["circuit"] == "closed"
    assert after["spool_bytes"] == 0


async def test_a_dead_receiver_shows_as_an_open_circuit(tmp_path, autojump_clock):
    source = """
        class Sink(BaseEventPlugin):
            eventName = "monitoring_event"

            async def handleEvent(self, points, logger):
                raise OSError("no")
    """
    tables = {"sink": {"circuit_failures": 1, "circuit_pause": 1000}}
    async with running_host(tmp_path, {"asker": ASKER, "sink": source}, tables) as host:
        host.publish(numbered(1))
        await wait_all_tasks_blocked()
        (delivery,) = by_name(host.plugin("asker").app.plugins())["sink"]["deliveries"]
        assert delivery["circuit"] == "open"


@pytest.mark.slow("a disk is waited for")
async def test_the_spool_shows_its_bytes(tmp_path):
    source = """
        class Sink(BaseEventPlugin):
            eventName = "monitoring_event"

            async def handleEvent(self, points, logger):
                await trio.sleep_forever()
    """
    tables = {"sink": {"spool": "disk"}}
    async with running_host(tmp_path, {"sink": source}, tables, shutdown_timeout=1) as host:
        host.publish(numbered(10))
        app = host.plugin("sink").app
        await until(lambda: app.plugins()[0]["deliveries"][0]["spool_bytes"])


async def test_tasks_are_counted_by_plugin(tmp_path, autojump_clock):
    async with running_host(tmp_path, {"asker": ASKER, "sink": SINK}) as host:
        await wait_all_tasks_blocked()
        seen = by_name(host.plugin("asker").app.plugins())
        # The plugin's own task, which is in start(), and the task that this made.
        assert seen["asker"]["tasks"] == {"trio": 2, "asyncio": 0}
        assert seen["sink"]["tasks"] == {"trio": 1, "asyncio": 0}
        host.publish(numbered(1))
        await wait_all_tasks_blocked()
        seen = by_name(host.plugin("asker").app.plugins())
        assert seen["sink"]["tasks"]["trio"] == 2, "handleEvent() is under way"


async def test_an_asyncio_plugin_asks_from_its_own_thread(tmp_path):
    async with running_host(tmp_path, {"asker": ASKER, "own": ASYNCIO}):
        await until(lambda: len(journal) == 2)
        early, late = map(by_name, journal)
        assert early["own"]["state"] == "initializing"
        assert late["own"]["state"] == "running"
        assert late["asker"]["tasks"]["trio"] == 2
        assert late["own"]["tasks"]["asyncio"] == 6  # five of its own, and start()


async def test_a_worker_thread_and_an_ended_service(tmp_path):
    caught: list[BaseException] = []
    async with running_host(tmp_path, {"asker": ASKER}) as host:
        app = host.plugin("asker").app
        (seen,) = await trio.to_thread.run_sync(app.plugins)
        assert seen["state"] == "running"

    def ask_later(release: threading.Event) -> None:
        release.wait(10)
        try:
            app.plugins()
        except RuntimeError as error:
            caught.append(error)

    async def over() -> None:
        nonlocal app
        async with running_host(tmp_path, {"asker": ASKER}) as host:
            app = host.plugin("asker").app

    release = threading.Event()
    thread = threading.Thread(target=ask_later, args=(release,))
    thread.start()
    await trio.to_thread.run_sync(lambda: trio.run(over))
    release.set()
    await trio.to_thread.run_sync(thread.join)
    assert len(caught) == 1


async def test_plain_values_without_secrets(tmp_path, autojump_clock):
    source = """
        class Leaky(BaseBackgroundPlugin):
            async def initialize(self):
                raise OSError(f"cannot reach {self.config['token']}")
    """
    tables = {"leaky": {"config": {"token": "hunter2hunter2"}}}
    sources = {"asker": ASKER, "leaky": source, "sink": SINK}
    async with running_host(tmp_path, sources, tables, wait=False) as host:
        await host.wait_for("leaky", State.BACKOFF)
        # Even one that got as far as here.
        leaky = host.life("leaky")
        leaky.record.history.append(Transition(State.BACKOFF, 1.0, "the token is hunter2hunter2"))
        leaky.record.last_error += ", hunter2hunter2"
        text = json.dumps(full_statuses([leaky], None))
        assert text.count("***") >= 5
        assert "hunter2" not in text
        text = json.dumps(host.plugin("asker").app.plugins())
        assert "the token is ***" in text
        assert "cannot reach ***" in text
        assert "hunter2" not in text
        assert list(by_name(json.loads(text))) == ["asker", "leaky", "sink"]


async def test_the_pages_show_the_same_and_the_history(tmp_path, autojump_clock):
    async with running_host(tmp_path, {"asker": ASKER, "sink": SINK}) as host:
        await wait_all_tasks_blocked()
        host.host.routes = RouteTable()
        resources = Resources(host.host, Access(Settings(), "unix:/lva.sock"), Shutdown())
        request = SimpleNamespace(headers={}, scope={})
        listed = json.loads(await (await resources.plugins(request)).get_data())["plugins"]
        one = json.loads(await (await resources.plugin(request, "sink")).get_data())
        described = json.loads(json.dumps(host.plugin("asker").app.plugins()))
    assert [step["state"] for step in one["history"]] == ["loaded", "initializing", "running"]
    assert one["settings"]["batch_size"] == 1000
    assert one["config"] == {"Sink": {}}
    assert {k: v for k, v in one.items() if k not in {"settings", "config"}} == listed[1]
    documented = page("reference").split("Descriptions of plugins")[1].split("\nPoints\n")[0]
    for key in (*one, *one["deliveries"][0], *one["deliveries"][0]["batch_sizes"]):
        assert f"``{key}``" in documented
    only_there = {"history", "actions"}
    assert described == [{k: v for k, v in page.items() if k not in only_there} for page in listed]
    assert full_statuses([], None) == []


async def test_where_the_code_of_each_kind_runs_is_said(tmp_path):
    """Kind: a description that fits two kinds of plugins, and says of the third what is wrong."""
    plugins = {"asker": ASKER, "own": ASYNCIO, "motion": None}
    async with running_host(tmp_path, plugins) as host:
        statuses = by_name(host.plugin("asker").app.plugins())
        runtimes = {name: status["runtime"] for name, status in statuses.items()}
        assert runtimes == {"asker": "trio", "own": "asyncio", "motion": "worker"}
