"""The tree of a plugin's tasks, on both runtimes, and where it is logged."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from lva.host.life import tasks
from lva.host.life.states import State
from lva.host.life.tasks import task_tree
from lva.host.routing import RouteTable
from lva.logs.records import entry_of, text_form
from lva.settings import Settings
from lva.web.problems import HttpProblem
from lva.web.resources.access import Access
from lva.web.resources.streams import Shutdown
from lva.web.resources.table import Resources
from tests.support import journal, running_host

FAMILY = """
    class Family(BaseBackgroundPlugin):
        async def start(self):
            self.nursery.start_soon(trio.sleep_forever)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.child, name="first child")
                await trio.sleep_forever()

        async def child(self):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.grandchild)
                await trio.sleep_forever()

        async def grandchild(self):
            await self.deeper()

        async def deeper(self):
            await trio.sleep_forever()
"""
ASYNCIO = """
    import asyncio

    class Own(BaseBackgroundPlugin):
        runtime = "asyncio"

        async def start(self):
            self.kept = asyncio.create_task(self.parent(), name="parent")
            asyncio.create_task(self.gone())
            while len(asyncio.all_tasks()) < 4:
                await asyncio.sleep(0)
            await asyncio.sleep(1000)

        async def gone(self):
            self.orphan = asyncio.create_task(self.wait())

        async def parent(self):
            async with asyncio.TaskGroup() as group:
                group.create_task(self.wait())

        async def wait(self):
            await asyncio.sleep(1000)

        async def close(self):
            for task in (self.kept, self.orphan):
                task.cancel()
"""


def shape(nodes):
    """Return the tree with nothing but names and the functions that tasks wait in."""
    return {
        node["name"]: (node["where"].partition(" < ")[0].rpartition(" in ")[2], shape(node["children"]))
        for node in nodes
    }  # fmt: skip


async def test_trio_tasks_stand_below_who_started_them(tmp_path, autojump_clock):
    async with running_host(tmp_path, {"family": FAMILY, "other": FAMILY}) as host:
        await wait_all_tasks_blocked()
        tree = task_tree(host.life("family"))
    grandchild = {"lva_plugins.family.Family.grandchild": ("deeper", {})}
    assert shape(tree) == {
        "family.Family.start()": ("start", {"first child": ("child", grandchild)}),
        "trio.sleep_forever": ("sleep_forever", {}),
    }
    assert tree[0]["runtime"] == "trio"
    (inner,) = [node for node in tree if node["name"] == "family.Family.start()"]
    where = inner["children"][0]["children"][0]["where"]
    assert [line.partition(".py:")[0].rpartition("/")[2] for line in where.split(" < ")] == [
        "family",
        "family",
    ]


async def test_a_task_between_calls_has_the_plugins_name_alone(tmp_path, autojump_clock):
    """Not that of the call before, as if it were still under way."""
    quiet = """
        class Quiet(BaseEventPlugin, BaseBackgroundPlugin):
            eventName = "monitoring_event"

            async def start(self):
                self.nursery.start_soon(trio.sleep_forever)

            async def handleEvent(self, points, logger):
                pass
    """
    sink = quiet.replace(", BaseBackgroundPlugin", "").replace("Quiet", "Sink")
    async with running_host(tmp_path, {"quiet": quiet, "sink": sink}) as host:
        await wait_all_tasks_blocked()
        for name in ("quiet", "sink"):
            names = [node["name"] for node in task_tree(host.life(name))]
            assert name in names
            assert not any("initialize()" in other or "start()" in other for other in names)


async def test_asyncio_tasks_stand_below_who_made_them(tmp_path):
    async with running_host(tmp_path, {"own": ASYNCIO}) as host:
        with trio.fail_after(10):
            while str(tree := task_tree(host.life("own"))).count("in wait'") < 2:
                await trio.sleep(0.01)
    assert {node["runtime"] for node in tree} == {"trio", "asyncio"}
    start, orphan = [node for node in tree if node["runtime"] == "asyncio"][::-1]
    assert start["name"] == "Own.start()"
    (parent,) = start["children"]
    (child,) = parent["children"]
    assert (parent["name"], parent["where"].endswith(" in parent")) == ("parent", True)
    for node in (child, orphan):  # the one who made the other has ended
        assert node["name"].endswith(" (Own.wait)")
        assert node["where"].endswith(" in wait")
        assert node["children"] == []


@pytest.mark.parametrize("style", ["trio", "asyncio"])
async def test_names_of_tasks_tell_no_secrets(tmp_path, style):
    source = f"""
        import asyncio

        class P(BaseBackgroundPlugin):
            runtime = "{style}"

            async def start(self):
                name = "poll http://gate:sesame-open@camera"
                if self.runtime == "asyncio":
                    self.task = asyncio.create_task(asyncio.sleep(1000), name=name)
                else:
                    self.nursery.start_soon(trio.sleep_forever, name=name)
                journal.append("begun")

            async def close(self):
                if self.runtime == "asyncio":
                    self.task.cancel()
    """
    async with running_host(tmp_path, {"p": source}) as host:
        with trio.fail_after(10):
            while not journal:
                await trio.sleep(0.01)
        shown = json.dumps(task_tree(host.life("p")))
        assert "poll http://***@camera" in shown
        assert "sesame" not in shown


async def test_a_big_tree_is_cut(tmp_path, autojump_clock, monkeypatch):
    monkeypatch.setattr(tasks, "MOST_TASKS", 50)
    many = """
        class Many(BaseBackgroundPlugin):
            async def start(self):
                for _ in range(200):
                    self.nursery.start_soon(trio.sleep_forever)
    """
    async with running_host(tmp_path, {"many": many}) as host:
        await wait_all_tasks_blocked()
        tree = task_tree(host.life("many"))
    assert tree[-1]["name"] == "151 more tasks"
    assert str(tree).count("'name'") == 51


async def test_a_deep_tree_ends_at_some_depth(tmp_path, autojump_clock):
    deep = """
        class Deep(BaseBackgroundPlugin):
            async def start(self, left=100):
                if left:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self.start, left - 1)
                        await trio.sleep_forever()
                await trio.sleep_forever()
    """
    async with running_host(tmp_path, {"deep": deep}) as host:
        await wait_all_tasks_blocked()
        tree = task_tree(host.life("deep"))
    depth, nodes, seen = 0, tree, 0
    while nodes:
        depth, seen = depth + 1, seen + len(nodes)
        nodes = [child for node in nodes for child in node["children"]]
    assert depth == tasks.DEEPEST
    assert seen == 101
    json.dumps(tree)


async def test_the_resource_shows_it(tmp_path, autojump_clock):
    async with running_host(tmp_path, {"family": FAMILY}) as host:
        await wait_all_tasks_blocked()
        host.host.routes = RouteTable()
        resources = Resources(host.host, Access(Settings(), "unix:/lva.sock"), Shutdown())
        request = SimpleNamespace(headers={}, scope={})
        answer = json.loads(await (await resources.tasks(request, "family")).get_data())
        assert answer["plugin"] == "family"
        assert answer["at"].endswith("+00:00")
        assert answer["tasks"] == task_tree(host.life("family"))
        with pytest.raises(HttpProblem) as caught:
            await resources.tasks(request, "famly")
    assert caught.value.status == 404


SLOW = """
    class Slow(BaseBackgroundPlugin):
        async def initialize(self):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.dial, name="dialling")
                await trio.sleep(5)
                nursery.cancel_scope.cancel()

        async def dial(self):
            await trio.sleep_forever()

        async def close(self):
            await self.say_goodbye()

        async def say_goodbye(self):
            await trio.sleep_forever()
"""


async def test_a_slow_start_and_an_abandoned_close_are_logged_with_it(
    tmp_path, caplog, autojump_clock
):
    caplog.set_level(logging.WARNING)
    async with running_host(tmp_path, {"slow": SLOW}) as host:
        await host.stop()
        assert host.states("slow")[-1] == State.ABANDONED.value
    slow, abandoned = [record for record in caplog.records if hasattr(record, "tasks")]
    assert "is slow: 2 s so far" in slow.message
    assert shape(slow.tasks) == {
        "slow.Slow.initialize()": ("initialize", {"dialling": ("dial", {})})
    }
    assert "abandoned: Slow.close() took longer than 5 s" in abandoned.message
    assert shape(abandoned.tasks) == {"slow.Slow.close()": ("say_goodbye", {})}
    text = text_form(entry_of(slow)).splitlines()
    assert text[1].startswith("  task slow.Slow.initialize() at ")
    assert text[2].startswith("    task dialling at ")
