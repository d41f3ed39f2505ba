"""Asyncio-style plugins: their loop, their tasks, their end, and the documented examples.

Time is real here: the loops are in threads of their own, whose work virtual time cannot see.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import re
import resource
import sys
import textwrap
import threading
import traceback
from collections import deque
from collections.abc import Iterator
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from lva import luna
from lva.errors import ConfigurationError
from lva.host.delivery.mailbox import MemoryMailbox
from lva.host.delivery.queue import Bounds
from lva.host.life.states import State
from lva.host.loading.load import load_plugins
from lva.host.runtimes import loop as loops
from lva.host.runtimes import own_tasks
from lva.host.runtimes.places import frames_of_thread
from tests.log_lines import names_plugin
from tests.plugins.test_examples import Collector, collecting
from tests.support import (
    Number,
    examples,
    host_settings,
    journal,
    numbered,
    running_host,
    until,
    write_plugin,
)
from tests.telling import (
    ASYNCIO_STYLE,
    PATIENCE,
    Told,
    listening,
    serving,
    threads_left_of,
    threads_of,
)

#: Quick restarts, and none too many.
QUICK = {"backoff_initial": 0.01, "backoff_max": 0.01}
#: No restart: the first crash is the end.
ONCE = {"restart": "never"}


@pytest.fixture
def told() -> Iterator[Told]:
    """Return what plugin code tells, and the log."""
    with listening() as it:
        yield it


@pytest.fixture
def fresh_modules() -> Iterator[None]:
    """Forget the modules of the documented names before and afterwards."""

    def forget() -> None:
        tops = {"luna_plugins", "crutches_on_wheels", "cow"}
        for name in [name for name in sys.modules if name.partition(".")[0] in tops]:
            del sys.modules[name]

    forget()
    yield
    forget()


@pytest.fixture
def collector() -> Iterator[Collector]:
    """Return an object store."""
    with collecting() as it:
        yield it


def in_style(source: str) -> str:
    """Return a source with the imports of asyncio-style files; `running_host` dedents it."""
    lines = source.splitlines()
    margin = re.match(r"\s*", next(line for line in lines if line.strip()))
    assert margin is not None
    return "\n".join([*(margin[0] + line for line in ASYNCIO_STYLE.splitlines()), *lines])


def load(tmp_path: Path, source: str, tables: Any = None) -> Any:
    """Load one plugin file from its text; return the loaded plugin."""
    write_plugin(tmp_path / "plugins", "p", source, ASYNCIO_STYLE)
    (loaded,) = load_plugins(host_settings(tmp_path, ["p"], tables))
    return loaded


def refusal(tmp_path: Path, source: str, tables: Any = None) -> str:
    """Return why a plugin file is refused."""
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, source, tables)
    return "\n".join(caught.value.problems)


def descriptors() -> int:
    """Return how many file descriptors are open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def line_of(host: Any, name: str, text: str) -> str:
    """Return ``file:line`` of the only line of a plugin that ends with this text."""
    path = host.life(name).loaded.path
    lines = enumerate(path.read_text().splitlines(), 1)
    (number,) = [number for number, line in lines if line.endswith(text)]
    return f"{path}:{number}"


async def test_a_stop_during_initialize_makes_no_failure_of_a_route_that_comes_too_late(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = in_style(
        """
        import threading
        entered, go_on = threading.Event(), threading.Event()
        class P(BaseBackgroundPlugin):
            async def initialize(self):
                entered.set()
                go_on.wait(20)
                self.addRoute("/late", self.show)
            async def show(self, request): ...
        """
    )
    async with running_host(tmp_path, {"p": source}, wait=False) as host:
        module = host.module("p")
        await trio.to_thread.run_sync(module.entered.wait, 20)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(host.stop)
            with trio.fail_after(20):
                await host.life("p").state.wait_value(State.STOPPING)
                while not host.life("p")._attempt.closing:
                    await trio.sleep(0)
            module.go_on.set()
        part = await host.receipt_of("p")
    assert (part.state, part.problems) == ("stopped", [])
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


# The documented examples, in our own words, with the imports of their documentation

BACKGROUND_EXAMPLE = '''
import asyncio
from asyncio import Task
from typing import TypeVar

from luna_plugins.base.plugins_meta.base_plugins import (
    BaseBackgroundHandler,
    BaseBackgroundPlugin,
    pluginHTTPResponse,
)

LunaApplication = TypeVar("LunaApplication")


class Pot(BaseBackgroundHandler):
    """Says what it is."""

    async def get(self, request):
        return self.response(body="I am teapot", headers={"Content-Type": "text/plain"}, statusCode=418)


def version(request):
    """Says how new it is."""
    return pluginHTTPResponse(statusCode=200, body="T800", headers={"Content-Type": "text/plain"})


class Kettle(BaseBackgroundPlugin):
    """Gets warmer by a degree a second."""

    def __init__(self, app: LunaApplication):
        super().__init__(app)
        self.task: Task | None = None
        self.temperature = 0

    async def initialize(self):
        self.addRoute("/teapot", Pot)
        self.addRoute("/teapot/version", version, methods={"get"})

    async def usefulJob(self):
        while True:
            await asyncio.sleep(1)
            self.temperature = min(100, self.temperature + 1)
            if self.temperature < 100:
                self.app.ctx.logger.info(f"the pot is at {self.temperature} degrees")
            else:
                self.app.ctx.logger.info("the pot boils")

    async def start(self):
        self.task = asyncio.create_task(self.usefulJob())

    async def close(self):
        if self.task:
            self.task.cancel()
'''

MONITORING_EXAMPLE = '''
import asyncio
from abc import abstractmethod
from typing import List, TypeVar

from aiohttp import ClientSession
from luna_plugins.base.plugins_meta.base_plugins import BaseEventPlugin

MonitoringPoint = TypeVar("MonitoringPoint")
LunaApplication = TypeVar("LunaApplication")


class BaseRequestMonitoringPlugin(BaseEventPlugin):
    """Sends each point on its own."""

    eventName = "monitoring_event"

    @abstractmethod
    async def flushPointToMonitoring(self, point: MonitoringPoint, logger) -> None:
        """Send one point."""

    async def handleEvent(self, points: List[MonitoringPoint], logger):
        await asyncio.gather(*[self.flushPointToMonitoring(point, logger) for point in points])


class RequestMonitoringPlugin(BaseRequestMonitoringPlugin):
    """Sends them to an object store."""

    def __init__(self, app: LunaApplication):
        super().__init__(app)
        self.url = "http://127.0.0.1:5020/1/buckets"
        self.session: ClientSession | None = None
        self.bucket = "plugin_test_bucket"

    async def initialize(self):
        self.session = ClientSession()
        async with self.session.post(f"{self.url}?bucket={self.bucket}") as reply:
            if reply.status not in (201, 409):
                raise RuntimeError(f"no bucket: {reply.status}")

    async def close(self):
        if self.session:
            await self.session.close()

    async def flushPointToMonitoring(self, point: MonitoringPoint, logger) -> None:
        message = {"tags": point.tags, "fields": point.fields}
        async with self.session.post(f"{self.url}/{self.bucket}/objects", json=message) as reply:
            logger.info(f"sent a point of {point.series}: {reply.status}")
'''


@pytest.mark.slow("the loops of asyncio keep real time")
async def test_the_documented_background_plugin_runs_as_it_stands(tmp_path, told):
    write_plugin(tmp_path / "plugins", "p", BACKGROUND_EXAMPLE, "")
    begun = trio.current_time()
    async with running_host(tmp_path, {"p": None}) as host, serving(host) as client:
        pot = await client.get("/teapot")
        assert (pot.status_code, pot.text) == (418, "I am teapot")
        assert pot.headers["Content-Type"] == "text/plain"
        assert (await client.post("/teapot")).status_code == 405
        version = await client.get("/teapot/version")
        assert (version.status_code, version.text) == (200, "T800")
        assert version.headers["Content-Type"] == "text/plain"
        await told.logged("the pot is at 1 degrees")
        assert trio.current_time() - begun > 0.9, "a degree a second"
        task = host.plugin("p").task
        part = await host.receipt_of("p")
        assert part.state == "stopped"
        assert not part.problems
        assert task.cancelled()
        assert (await client.get("/teapot")).status_code == 404


@pytest.mark.slow("the loops of asyncio keep real time")
async def test_the_documented_monitoring_plugin_runs_as_it_stands(tmp_path, told, collector):
    source = MONITORING_EXAMPLE.replace("http://127.0.0.1:5020/1/buckets", collector.url)
    write_plugin(tmp_path / "plugins", "p", source, "")
    async with running_host(tmp_path, {"p": None}) as host:
        host.publish(numbered(20))
        await until(lambda: len(collector.requests) == 21)
        part = await host.receipt_of("p")
        assert host.plugin("p").session.closed
    assert (part.state, part.points["delivered"], part.problems) == ("stopped", 20, [])
    bucket, *objects = collector.requests
    assert bucket == ("POST", "/1/buckets?bucket=plugin_test_bucket", None)
    assert {path for _, path, _ in objects} == {"/1/buckets/plugin_test_bucket/objects"}
    assert sorted(sent["fields"]["n"] for *_, sent in objects) == list(range(20))
    assert all(sent["tags"] == {} for *_, sent in objects)
    await told.logged("sent a point of numbers: 201")


async def test_the_documented_monitoring_plugin_is_tried_again_while_its_store_is_away(
    tmp_path, told, collector
):
    collector.statuses = [500, 503]
    source = MONITORING_EXAMPLE.replace("http://127.0.0.1:5020/1/buckets", collector.url)
    write_plugin(tmp_path / "plugins", "p", source, "")
    async with running_host(tmp_path, {"p": None}, {"p": QUICK}) as host:
        assert host.states("p")[1:] == ["initializing", "backoff"] * 2 + ["initializing", "running"]
        assert len(collector.requests) == 3
        assert "no bucket: 503" in str(host.life("p").record.last_error)
    assert len([text for text in told.complaints("p") if "no bucket" in text]) == 2


# The documented modules


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module, held in luna.MODULES.items() for name in held]
)
def test_every_documented_name_is_in_its_module(tmp_path, fresh_modules, module, name):
    source = f"""
        from {module} import {name}

        class P(BaseBackgroundPlugin):
            imported = {name}
    """
    before = list(sys.path)
    loaded = load(tmp_path, source)
    assert loaded.classes[0].imported is luna.MODULES[module][name]
    assert sys.path == before
    assert [cls.__name__ for cls in loaded.classes] == ["P"], "an import activates nothing"
    assert loaded.runtime == "asyncio"


def test_the_names_that_the_manuals_use_are_documented_here():
    bases = {
        "BaseEventPlugin",
        "BaseBackgroundPlugin",
        "BaseBackgroundHandler",
        "pluginHTTPResponse",
    }
    for module in (
        "luna_plugins.base.plugins_meta.base_plugins",
        "crutches_on_wheels.plugins.plugins_meta.base_plugins",
        "crutches_on_wheels.cow.plugins.plugins_meta.base_plugins",
    ):
        assert bases <= set(luna.MODULES[module])
    for package in ("", "crutches_on_wheels."):
        examples = f"{package}cow.plugins.plugin_examples."
        assert (
            "RequestMonitoringPlugin"
            in luna.MODULES[f"{examples}request_monitoring_plugin_example"]
        )
        assert "BackgroundPluginExample" in luna.MODULES[f"{examples}background_plugin_example"]


async def test_a_plugin_can_build_on_the_documented_examples(tmp_path, told, collector):
    pot = """
        from cow.plugins.plugin_examples.background_plugin_example import BackgroundPluginExample

        class Mine(BackgroundPluginExample):
            pass
    """
    monitoring = f"""
        from crutches_on_wheels.cow.plugins.plugin_examples.request_monitoring_plugin_example import (
            RequestMonitoringPlugin,
        )

        class Mine(RequestMonitoringPlugin):
            def __init__(self, app):
                super().__init__(app)
                self.url = "{collector.url}"
                self.bucketName = "mine"
    """
    async with running_host(tmp_path, {"pot": pot, "mine": monitoring}) as host:
        async with serving(host) as client:
            assert (await client.get("/teapot")).status_code == 418
        await until(lambda: len(collector.requests) == 3)
        part = await host.receipt_of("mine")
    assert (part.state, part.points["delivered"], part.points["retries"]) == ("stopped", 2, 0)
    bucket, *points = collector.requests
    assert bucket == ("POST", "/1/buckets?bucket=mine", None)
    assert {path for _, path, _ in points} == {"/1/buckets/mine/objects"}
    assert {sent["tags"]["route"] for *_, sent in points} == {"GET:/teapot"}
    assert sum("execution_time" in sent["fields"] for *_, sent in points) == 1


@pytest.mark.parametrize(
    "place", [["luna_plugins", "base", "plugins_meta"], ["cow", "plugins", "plugin_examples"]]
)
@pytest.mark.parametrize("first", [True, False], ids=["first", "last"])
def test_a_real_package_of_the_name_is_not_shadowed(
    tmp_path, monkeypatch, fresh_modules, place, first
):
    luna.install()
    directory = tmp_path / "site" / Path(*place)
    directory.mkdir(parents=True)
    for depth in range(1, len(place) + 1):
        (tmp_path / "site" / Path(*place[:depth]) / "__init__.py").touch()
    (directory / "base_plugins.py").write_text("from lva import BaseBackgroundPlugin as Real\n")
    path = [str(tmp_path / "site"), *sys.path] if first else [*sys.path, str(tmp_path / "site")]
    monkeypatch.setattr(sys, "path", path)
    real = f"""
        from {".".join(place)}.base_plugins import Real

        class P(Real):
            pass
    """
    write_plugin(tmp_path / "plugins", "p", real, "")
    (loaded,) = load_plugins(host_settings(tmp_path, ["p"]))
    assert loaded.runtime == "trio", "its own class, not the alias"
    lacking = next(name for name in luna.MODULES if name.startswith(".".join(place)))
    if lacking.rpartition(".")[2] != "base_plugins":
        source = f"import {lacking}\n\nclass P(BaseBackgroundPlugin):\n    pass\n"
        write_plugin(tmp_path / "plugins", "q", source)
        with pytest.raises(ConfigurationError, match="No module named"):
            load_plugins(host_settings(tmp_path, ["q"]))


def test_other_modules_below_the_documented_packages_do_not_exist(tmp_path, fresh_modules):
    why = refusal(tmp_path, "import luna_plugins.base.other\n")
    assert "No module named 'luna_plugins.base.other'" in why
    assert "plugins/p.py:" in why


# What is refused


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (
            """
            import lva
            class P(BaseEventPlugin, lva.BaseBackgroundPlugin):
                eventName = "monitoring_event"
                async def handleEvent(self, points, logger): ...
            """,
            ["P mixes both styles", "BaseEventPlugin is asyncio-style",
             "BaseBackgroundPlugin is trio-style"],
        ),
        (
            """
            class P(BaseBackgroundPlugin):
                runtime = "trio"
            """,
            ["P mixes both styles", "sets runtime = 'trio' itself"],
        ),
        (
            """
            import lva
            class A(BaseBackgroundPlugin): ...
            class B(lva.BaseBackgroundPlugin): ...
            """,
            ["A is asyncio-style and B is trio-style", "the classes of one file share one runtime"],
        ),
        (
            """
            class P(BaseBackgroundPlugin):
                runtime = "asynci"
            """,
            ["class P has the unknown runtime 'asynci'", "did you mean 'asyncio'"],
        ),
        (
            """
            class P(BaseBackgroundPlugin):
                runtime = None
                runtime = 3
            """,
            ["class P has the unknown runtime 3"],
        ),
    ],
    ids=["bases", "overridden", "file", "unknown", "not-a-name"],
)  # fmt: skip
def test_a_mixture_of_styles_is_refused(tmp_path, source, words):
    why = refusal(tmp_path, source)
    assert str(tmp_path / "plugins" / "p.py") in why
    for word in words:
        assert word in why


def test_both_ways_to_choose_the_style_are_taken(tmp_path):
    source = """
        import lva

        class A(BaseBackgroundPlugin): ...

        class B(lva.BaseEventPlugin, lva.BaseBackgroundPlugin):
            runtime = "asyncio"
            eventName = "monitoring_event"

            async def handleEvent(self, points, logger): ...

        class C(B): ...
    """
    loaded = load(tmp_path, source)
    assert loaded.runtime == "asyncio"
    assert [cls.__name__ for cls in loaded.classes] == ["A", "B", "C"]


def test_uvloop_is_for_asyncio_style_plugins(tmp_path):
    source = "import lva\nclass P(lva.BaseBackgroundPlugin): ...\n"
    why = refusal(tmp_path, source, {"p": {"event_loop": "uvloop"}})
    assert "event_loop = 'uvloop' is for asyncio-style plugins" in why


def test_uvloop_has_to_be_installed(tmp_path, monkeypatch):
    monkeypatch.setattr("lva.host.loading.classes.find_spec", lambda name: None)
    why = refusal(tmp_path, "class P(BaseBackgroundPlugin): ...\n", {"p": {"event_loop": "uvloop"}})
    assert "pip install '/path/to/lva[uvloop]'" in why


def test_an_unknown_event_loop_is_refused(tmp_path):
    with pytest.raises(ValueError, match="event_loop"):
        host_settings(tmp_path, ["p"], {"p": {"event_loop": "curio"}})


# Where it runs

EVERYWHERE = """
    async def here(place):
        thread, loop = threading.current_thread(), asyncio.get_running_loop()
        journal.append((place, thread, loop, type(loop)))

    class P(BaseEventPlugin, BaseBackgroundPlugin):
        eventName = "monitoring_event"

        def __init__(self, app):
            super().__init__(app)
            journal.append(("__init__", threading.current_thread(), asyncio.get_running_loop(), None))

        async def initialize(self):
            await here("initialize")
            self.addRoute("/async", self.handler)
            self.addRoute("/plain", self.plain)
            self.addRoute("/class", Handler)

        async def start(self):
            await here("start")
            asyncio.create_task(here("task")).add_done_callback(lambda task: tell("started"))

        async def handler(self, request):
            await here("handler")
            return "fine"

        def plain(self, request):
            journal.append(("plain", threading.current_thread(), asyncio.get_running_loop(), None))
            return "fine"

        async def handleEvent(self, points, logger):
            await here("handleEvent")
            tell("handled")

        async def close(self):
            await here("close")

    class Handler(BaseBackgroundHandler):
        def __init__(self):
            journal.append(("Handler", threading.current_thread(), asyncio.get_running_loop(), None))

        async def get(self, request):
            await here("get")
            return self.response("fine")

    class Second(BaseBackgroundPlugin):
        async def start(self):
            await here("second")
            tell("second")
"""
PLACES = {
    "__init__", "initialize", "start", "task", "second", "handler", "plain", "Handler", "get",
    "handleEvent", "close",
}  # fmt: skip


@pytest.mark.parametrize("event_loop", ["asyncio", "uvloop"])
@pytest.mark.slow("uvloop is imported")
async def test_everything_of_a_file_runs_on_one_loop_in_a_thread_of_its_own(
    tmp_path, told, event_loop
):
    pytest.importorskip(event_loop)
    source = in_style(EVERYWHERE)
    tables = {"p": {"event_loop": event_loop}}
    async with running_host(tmp_path, {"p": source}, tables) as host, serving(host) as client:
        await told.wait_for("started", "second")
        for path in ("/async", "/plain", "/class"):
            assert (await client.get(path)).text == "fine"
        await told.wait_for("handled")
        assert (await host.stop()).exit_code == 0
    assert {place for place, *_ in journal} == PLACES
    (thread,) = {thread for _, thread, _, _ in journal}
    (loop,) = {loop for _, _, loop, _ in journal}
    (kind,) = {kind for *_, kind in journal if kind is not None}
    assert thread is not threading.main_thread()
    assert thread.name == "p (asyncio loop)"
    assert thread.daemon
    assert any(base.__module__.partition(".")[0] == event_loop for base in kind.__mro__)
    assert loop.is_closed()
    assert not threads_left_of("p")
    assert not told.complaints("p")


async def test_a_start_may_run_for_ever_and_close_comes_first(tmp_path, told):
    source = in_style("""
        class P(BaseBackgroundPlugin):
            async def start(self):
                tell("stays")
                try:
                    await asyncio.Event().wait()
                finally:
                    tell("ended")

            async def close(self):
                tell("closed")
    """)
    async with running_host(tmp_path, {"p": source}) as host:
        await told.wait_for("stays")
        part = await host.receipt_of("p")
    assert (part.state, list(part.problems)) == ("stopped", [])
    assert told.items == ["stays", "closed", "ended"]
    assert not told.complaints("p")


async def test_a_restart_is_on_the_same_loop_and_the_same_instance(tmp_path, told):
    source = in_style("""
        crashes = 3

        class P(BaseBackgroundPlugin):
            async def initialize(self):
                journal.append((self, asyncio.get_running_loop(), threading.current_thread()))

            async def start(self):
                global crashes
                crashes -= 1
                if crashes >= 0:
                    raise ValueError("again")
                tell("there")

            async def close(self):
                journal.append("close")
    """)
    async with running_host(tmp_path, {"p": source}, {"p": QUICK}, wait=False) as host:
        await told.wait_for("there")
        assert host.life("p").record.restarts == 3
        entered = [item for item in journal if item != "close"]
        assert len(entered) == 4
        assert len(set(entered)) == 1
        assert journal[1::2] == ["close"] * 3
        await host.stop()
    assert journal[-1] == "close"
    assert len(journal) == 8


async def test_a_plugin_whose_constructor_fails_leaves_no_thread(tmp_path, told):
    source = in_style("""
        class P(BaseBackgroundPlugin):
            def __init__(self, app):
                super().__init__(app)
                raise ValueError("no")
    """)
    async with running_host(tmp_path, {"p": source}, {"p": ONCE}, wait=False) as host:
        await host.wait_for("p", State.FAILED, PATIENCE)
        with trio.fail_after(PATIENCE):
            await host.life("p").ended.wait()
        assert not threads_left_of("p")


# Tasks that fail

#: What the cases below have in common: a plugin that does in `start()` what its name says.
CASES = """
async def failing(after=0):
    await asyncio.sleep(after)
    fails()


def fails():
    raise ValueError("on purpose")


async def slow():
    await asyncio.sleep(0.05)


class P(BaseBackgroundPlugin):
    async def start(self):
        name = __name__.rpartition(".")[2]
        await getattr(self, name)()
        tell(name)

    async def close(self):
        self.kept = None
"""

#: Nothing of this is a crash: somebody takes the error, now or later.
RETRIEVED = """
    async def awaited(self):
        with contextlib.suppress(ValueError):
            await failing()

    async def later(self):
        task = asyncio.create_task(failing())
        await asyncio.sleep(0.6)
        with contextlib.suppress(ValueError):
            await task

    async def in_a_list(self):
        tasks = [asyncio.create_task(failing()) for _ in range(3)]
        await asyncio.sleep(0.6)
        await asyncio.gather(*tasks, return_exceptions=True)

    async def in_a_dict(self):
        tasks = {n: asyncio.create_task(failing()) for n in range(3)}
        await asyncio.sleep(0.6)
        await asyncio.gather(*tasks.values(), return_exceptions=True)

    async def asked(self):
        task = asyncio.create_task(failing())
        await asyncio.sleep(0.6)
        assert isinstance(task.exception(), ValueError)

    async def wait(self):
        tasks = [asyncio.create_task(failing()), asyncio.create_task(asyncio.sleep(0.6))]
        done, _ = await asyncio.wait(tasks)
        assert sum(task.exception() is not None for task in done) == 1

    async def wait_for_the_first(self):
        tasks = {asyncio.create_task(failing()), asyncio.create_task(slow())}
        while tasks:
            done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            assert all(task.exception() or task.result() is None for task in done)

    async def gather(self):
        with contextlib.suppress(ValueError):
            await asyncio.gather(slow(), failing())
        await slow()

    async def gather_later(self):
        both = asyncio.gather(failing(), slow())
        await asyncio.sleep(0.6)
        with contextlib.suppress(ValueError):
            await both

    async def gather_all(self):
        self.kept = asyncio.gather(failing(), slow(), return_exceptions=True)

    async def gather_all_for_long(self):
        await asyncio.gather(failing(), asyncio.sleep(0.6), return_exceptions=True)

    async def gather_what_is_gathered(self):
        made = map(asyncio.create_task, [failing(), asyncio.sleep(0.6)])
        await asyncio.gather(asyncio.gather(*made, return_exceptions=True), slow())

    async def group(self):
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(failing())
                await asyncio.sleep(600)
        except* ValueError:
            pass

    async def wait_for(self):
        with contextlib.suppress(ValueError):
            await asyncio.wait_for(failing(), 5)

    async def shield(self):
        with contextlib.suppress(ValueError):
            await asyncio.shield(asyncio.create_task(failing()))

    async def as_completed(self):
        for one in asyncio.as_completed([failing(), slow()]):
            with contextlib.suppress(ValueError):
                await one

    async def callback(self):
        asyncio.create_task(failing()).add_done_callback(lambda task: task.exception())

    async def another_task(self):
        async def waiter(task):
            await asyncio.sleep(0.6)
            with contextlib.suppress(ValueError):
                await task

        await asyncio.create_task(waiter(asyncio.create_task(failing())))

    async def attribute_that_is_awaited(self):
        self.task = asyncio.create_task(failing(0.3))
        with contextlib.suppress(ValueError):
            await self.task

    async def cancelled(self):
        task = asyncio.create_task(slow())
        await asyncio.sleep(0)
        task.cancel()

    async def timeout(self):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.01):
                await slow()
"""

#: Each of this is a crash. A task is made where PLACE is noted.
NOT_RETRIEVED = """
    async def forgotten(self):
        asyncio.create_task(failing(), name="x")  # PLACE of forgotten

    async def kept(self):
        self.kept = asyncio.create_task(failing(), name="x")  # PLACE of kept

    async def kept_in_a_set(self):
        self.kept = {asyncio.create_task(failing(), name="x")}  # PLACE of kept_in_a_set

    async def ensured(self):
        self.kept = asyncio.ensure_future(failing())  # PLACE of ensured

    async def of_the_loop(self):
        asyncio.get_running_loop().create_task(failing())  # PLACE of of_the_loop

    async def late(self):
        asyncio.create_task(failing(0.5), name="x")  # PLACE of late

    async def grandchild(self):
        async def child():
            asyncio.create_task(failing(), name="x")  # PLACE of grandchild

        await asyncio.create_task(child())

    async def in_a_group(self):
        async with asyncio.TaskGroup() as group:
            group.create_task(failing())

    async def gather(self):
        asyncio.gather(failing(), slow())

    async def gather_kept(self):
        self.kept = asyncio.gather(failing(), slow())

    async def gather_of_gathers_kept(self):
        self.kept = asyncio.gather(asyncio.gather(failing(), slow()), slow())

    async def base_exception(self):
        async def fails_worse():
            raise BaseException("on purpose")

        asyncio.create_task(fails_worse())  # PLACE of base_exception

    async def callback(self):
        asyncio.get_running_loop().call_soon(fails)

    async def callback_later(self):
        asyncio.get_running_loop().call_later(0.05, fails)

    async def callback_from_a_thread(self):
        loop = asyncio.get_running_loop()
        await asyncio.to_thread(loop.call_soon_threadsafe, fails)

    async def done_callback(self):
        asyncio.create_task(slow()).add_done_callback(lambda task: fails())

    async def protocol(self):
        class Protocol(asyncio.Protocol):
            def data_received(self, data):
                fails()

        loop = asyncio.get_running_loop()
        server = await loop.create_server(Protocol, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"x")
        await reader.read()
        writer.close()
        server.close()
"""

names_of = re.compile(r"async def (\w+)\(self\)").findall


def cases(methods: str) -> dict[str, str]:
    """Return a plugin for each method, named after it."""
    source = ASYNCIO_STYLE + CASES + textwrap.dedent(methods).replace("\n", "\n    ")
    return dict.fromkeys(names_of(methods), source)


def starting(*lines: str) -> str:
    """Return a plugin named `p` that does this in `start()`."""
    body = "".join(f"    {line}\n" for line in lines)
    return cases(f"\nasync def p(self):\n{body}")["p"]


@pytest.mark.slow("the loops of asyncio keep real time")
async def test_an_error_that_somebody_takes_is_no_crash(tmp_path, told):
    sources = cases(RETRIEVED)
    async with running_host(tmp_path, sources) as host:
        await told.wait_for(*sources)
        await trio.sleep(3 * own_tasks.RETRIEVAL_GRACE)  # for as long as a verdict takes
        states = {
            name: (host.states(name)[-1], host.life(name).record.restarts) for name in sources
        }
        assert states == dict.fromkeys(sources, ("running", 0))
        receipt = await host.stop()
    problems = {part.name: list(part.problems) for part in receipt.plugins}
    assert problems == dict.fromkeys(sources, [])
    assert receipt.exit_code == 0


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: Any) -> dict[str, Any]:
    """Return, by case, why it has crashed and what was logged of it."""
    sources = cases(NOT_RETRIEVED)
    found: dict[str, Any] = {}

    async def main() -> None:
        tmp_path = tmp_path_factory.mktemp("crashed")
        tables = dict.fromkeys(sources, ONCE)
        with listening() as told:
            async with running_host(tmp_path, sources, tables, wait=False) as host:
                with trio.move_on_after(PATIENCE):
                    for name in sources:
                        await host.wait_for(name, State.FAILED)
                for name in sources:
                    records = [
                        record
                        for record in told.records
                        if record.name == f"lva.plugin.{name}" and record.levelno >= logging.ERROR
                    ]
                    place = f"PLACE of {name}"
                    known = f"{place}\n" in NOT_RETRIEVED
                    line = line_of(host, name, place) if known else None
                    found[name] = (host.life(name).record.last, records, line)

    trio.run(main)
    return found


@pytest.mark.parametrize("name", names_of(NOT_RETRIEVED))
def test_an_error_that_nobody_takes_is_a_crash(crashed, name):
    last, records, line = crashed[name]
    assert last.state is State.FAILED
    assert "on purpose" in last.reason
    if line is not None:
        assert f"(made at {line})" in last.reason
    (record,) = records
    assert record.exc_info is not None
    trace = record.exc_info[1]
    while isinstance(trace, BaseExceptionGroup):
        (trace,) = trace.exceptions
    frames = [frame.f_code.co_name for frame, _ in traceback.walk_tb(trace.__traceback__)]
    assert frames[-1] in {"fails", "fails_worse"}, "where it happened"


@pytest.mark.slow("the loops of asyncio keep real time")
async def test_an_error_in_a_local_variable_has_a_limit_too(tmp_path, told, monkeypatch):
    monkeypatch.setattr(own_tasks, "HELD_GRACE", 0.5)
    source = starting("task = asyncio.create_task(failing())", "await asyncio.Event().wait()")
    async with running_host(tmp_path, {"p": source}, {"p": ONCE}) as host:
        begun = trio.current_time()
        await host.wait_for("p", State.FAILED, PATIENCE)
        assert trio.current_time() - begun > 0.4
        assert "ValueError: on purpose" in host.life("p").record.last.reason


@pytest.mark.parametrize(
    "lines",
    [
        [
            "future = asyncio.get_running_loop().create_future()",
            "future.set_exception(ValueError('on purpose'))",
        ],
        ["asyncio.get_running_loop().run_in_executor(None, fails)"],
        ["asyncio.shield(asyncio.create_task(failing()))"],
    ],
    ids=["own", "executor", "shield"],
)
async def test_an_error_of_a_forgotten_future_is_logged(tmp_path, told, lines):
    async with running_host(tmp_path, {"p": starting(*lines)}) as host:
        await told.wait_for("p")
        record = await told.logged("Future exception was never retrieved")
        assert "plugin p" in record.getMessage()
        assert isinstance(record.exc_info[1], ValueError)
        assert host.states("p")[-1] == "running"


@pytest.mark.slow("the loops of asyncio keep real time")
async def test_asyncio_s_own_waiting_takes_as_long_as_it_likes(tmp_path, told, monkeypatch):
    monkeypatch.setattr(own_tasks, "HELD_GRACE", 0.3)
    source = starting(
        "tasks = [asyncio.create_task(failing()), asyncio.create_task(asyncio.sleep(1.2))]",
        "done, _ = await asyncio.wait(tasks)",
        "assert sum(task.exception() is not None for task in done) == 1",
    )
    async with running_host(tmp_path, {"p": source}) as host:
        await told.wait_for("p")
        assert host.life("p").record.restarts == 0
        assert not told.complaints("p")


@pytest.mark.slow("the loops of asyncio keep real time")
async def test_a_thousand_errors_are_one_crash_and_no_flood(tmp_path, told):
    source = starting("self.kept = [asyncio.create_task(failing()) for n in range(3000)]")
    async with running_host(tmp_path, {"p": source}, {"p": ONCE}) as host:
        await host.wait_for("p", State.FAILED, PATIENCE)
        with trio.fail_after(PATIENCE):
            await host.life("p").ended.wait()
        more = 3000 - own_tasks.MOST_REPORTS
        assert (
            f"further tasks or callbacks ({more}) raised ValueError: on purpose"
            in told.complaints("p")
        )
        assert len(told.complaints("p")) == own_tasks.MOST_REPORTS + 1


async def test_an_error_of_a_connection_s_handler_is_logged(tmp_path, told):
    source = starting(
        "async def connected(reader, writer):",
        "    writer.close()",
        "    fails()",
        "self.server = await asyncio.start_server(connected, '127.0.0.1', 0)",
        "address = self.server.sockets[0].getsockname()",
        "reader, writer = await asyncio.open_connection(*address)",
        "await reader.read()",
        "writer.close()",
        "self.server.close()",
    )
    async with running_host(tmp_path, {"p": source}, {"p": ONCE}) as host:
        await told.wait_for("p")
        record = await told.until(
            lambda: next((item for item in told.records if item.exc_info), None)
        )
        assert isinstance(record.exc_info[1], ValueError)
        assert "p" in (record.getMessage() + record.name)
        assert (await host.receipt_of("p")).state != "abandoned"


async def test_a_plugin_s_own_exception_handler_is_called_too(tmp_path, told):
    source = starting(
        "loop = asyncio.get_running_loop()",
        "loop.set_exception_handler(lambda loop, context: tell(context['message']))",
        "loop.call_soon(fails)",
    )
    async with running_host(tmp_path, {"p": source}, {"p": ONCE}) as host:
        await host.wait_for("p", State.FAILED, PATIENCE)
        await told.until(lambda: [item for item in told.items if "callback fails()" in item])


@pytest.mark.slow("the loops of asyncio keep real time")
@pytest.mark.parametrize(("restart", "others"), [("on-failure", 1), ("always", 1), ("always", 0)])
async def test_a_failed_task_is_a_crash_while_others_still_run_and_as_the_last(
    tmp_path, told, restart, others
):
    source = starting(
        f"self.kept = [asyncio.create_task(asyncio.sleep(600)) for _ in range({others})]",
        "asyncio.create_task(failing(), name='x')",
    )
    tables = {"p": {**QUICK, "restart": restart}}
    async with running_host(tmp_path, {"p": source}, tables) as host:
        await host.wait_for("p", State.BACKOFF, PATIENCE)
        assert "task 'x' (made at " in str(host.life("p").record.last_error)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
async def test_eager_tasks_are_watched_too(tmp_path, told):
    eager = "asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)"
    crashes = starting(
        eager,
        "async def now():",
        "    fails()",
        "self.kept = asyncio.create_task(now())",
    )
    works = starting(
        eager,
        "async def now():",
        "    return 1",
        "assert await asyncio.gather(now(), now()) == [1, 1]",
        "async with asyncio.TaskGroup() as group:",
        "    group.create_task(slow())",
    ).replace("def p(self)", "def q(self)")
    async with running_host(tmp_path, {"p": crashes, "q": works}, {"p": ONCE}, wait=False) as host:
        await host.wait_for("p", State.FAILED, PATIENCE)
        assert "ValueError: on purpose" in host.life("p").record.last.reason
        await told.wait_for("q")
        assert host.states("q")[-1] == "running"
        assert (await host.receipt_of("q")).problems == []


# The policy `always`


@pytest.mark.slow("the loops of asyncio keep real time")
async def test_always_restarts_once_the_last_task_has_ended(tmp_path, told):
    source = in_style("""
        class P(BaseBackgroundPlugin):
            async def start(self):
                asyncio.create_task(self.work(0.1))
                await asyncio.sleep(0.2)  # in between, no task of the plugin's own is left
                asyncio.create_task(self.work(0.4))

            async def work(self, seconds):
                await asyncio.sleep(seconds)
                tell(seconds)

            async def close(self):
                tell("close")
    """)
    tables = {"p": {**QUICK, "restart": "always"}}
    async with running_host(tmp_path, {"p": source}, tables) as host:
        await host.wait_for("p", State.BACKOFF, PATIENCE)
        assert told.items[:2] == [0.1, 0.4]
        assert "its work has ended" in str(host.life("p").record.last_error)
        await told.wait_for("close")
        await host.wait_for("p", State.RUNNING, PATIENCE)


# The end of an attempt


async def test_what_close_leaves_is_ended_and_named(tmp_path, told):
    source = in_style("""
        class P(BaseBackgroundPlugin):
            async def start(self):
                self.task = asyncio.create_task(self.work(), name="work")  # PLACE
                self.server = await asyncio.start_server(self.connected, "127.0.0.1", 0)
                address = self.server.sockets[0].getsockname()
                self.reader, self.writer = await asyncio.open_connection(*address)

            def connected(self, reader, writer):
                self.accepted = writer
                tell("there")

            async def work(self):
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    tell("cancelled")
                    raise

            async def close(self):
                assert not self.task.done()
                tell("close")
    """)
    async with running_host(tmp_path, {"p": source}) as host:
        await told.wait_for("there")
        plugin = host.plugin("p")
        part = await host.receipt_of("p")
        place = line_of(host, "p", "# PLACE")
    assert told.items == ["there", "close", "cancelled"]
    assert plugin.task.cancelled()
    assert not plugin.server.is_serving()
    assert plugin.writer.is_closing()
    assert plugin.accepted.is_closing()
    (problem,) = part.problems
    assert f"work (made at {place}, at " in problem
    assert "a server" in problem
    assert len(re.findall(r"a connection \w+ 127\.0\.0\.1:\d+", problem)) == 2, "both ends of it"
    assert part.state == "stopped"
    assert not part.leaked_tasks
    assert not part.leaked_threads


async def test_a_handler_of_a_connection_is_ended_and_named(tmp_path, told):
    source = in_style("""
        class P(BaseBackgroundPlugin):
            async def start(self):
                self.server = await asyncio.start_server(self.connected, "127.0.0.1", 0)
                address = self.server.sockets[0].getsockname()
                self.reader, self.writer = await asyncio.open_connection(*address)

            async def connected(self, reader, writer):  # PLACE
                tell("there")
                try:
                    await reader.read()
                except asyncio.CancelledError:
                    tell("cancelled")
                    raise
                finally:
                    writer.close()
    """)
    async with running_host(tmp_path, {"p": source}) as host:
        await told.wait_for("there")
        part = await host.receipt_of("p")
        place = line_of(host, "p", "# PLACE")
    assert told.items == ["there", "cancelled"]
    (problem,) = part.problems
    assert f"(made at {place}" in problem, "asyncio made it, for this coroutine"
    assert "in connected" in problem


async def test_what_close_has_ended_is_not_complained_of(tmp_path, told):
    source = in_style("""
        class P(BaseBackgroundPlugin):
            async def start(self):
                self.tasks = [asyncio.create_task(asyncio.sleep(600)) for _ in range(3)]
                self.server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
                self.process = await asyncio.create_subprocess_exec("sleep", "600")
                tell("there")

            async def close(self):
                for task in self.tasks:
                    task.cancel()
                self.server.close()
                self.process.kill()
                await self.process.wait()
    """)
    async with running_host(tmp_path, {"p": source}) as host:
        await told.wait_for("there")
        part = await host.receipt_of("p")
    assert (part.state, list(part.problems)) == ("stopped", [])
    assert not told.complaints("p")


@pytest.mark.slow("the loops of asyncio keep real time")
async def test_a_task_and_a_start_that_are_cancelled_may_finish_their_clean_up(tmp_path, told):
    """As asyncio's own `run()` would not let them: no second cancellation comes at once."""
    source = in_style("""
        class P(BaseBackgroundPlugin):
            async def start(self):
                self.task = asyncio.create_task(self.work("task"))
                self.leaked = asyncio.create_task(asyncio.sleep(600))
                await self.work("start")

            async def work(self, name):
                tell(name)
                try:
                    await asyncio.sleep(600)
                finally:
                    await asyncio.sleep(0.3)  # sends the last results
                    tell(f"{name} cleaned up")

            async def close(self):
                self.task.cancel()
    """)
    async with running_host(tmp_path, {"p": source}) as host:
        await told.wait_for("task", "start")
        part = await host.receipt_of("p")
    assert sorted(told.items) == ["start", "start cleaned up", "task", "task cleaned up"]
    assert (part.state, len(part.problems)) == ("stopped", 1)


async def test_a_task_that_is_left_sees_its_cancellation_and_not_a_broken_connection(
    tmp_path, told
):
    source = in_style("""
        class P(BaseBackgroundPlugin):
            async def start(self):
                self.server = await asyncio.start_server(self.connected, "127.0.0.1", 0)
                self.task = asyncio.create_task(self.work())

            async def connected(self, reader, writer):
                tell("connected")
                with contextlib.suppress(asyncio.CancelledError):
                    await reader.read()
                writer.close()

            async def work(self):
                address = self.server.sockets[0].getsockname()
                reader, writer = await asyncio.open_connection(*address)
                try:
                    tell(await reader.readexactly(1))
                except BaseException as error:
                    tell(type(error).__name__)
                    raise
                finally:
                    writer.close()
    """)
    async with running_host(tmp_path, {"p": source}) as host:
        await told.wait_for("connected")
        part = await host.receipt_of("p")
    assert told.items == ["connected", "CancelledError"]
    (problem,) = part.problems
    assert "leaked, now ended" in problem


@pytest.mark.slow("the loops of asyncio keep real time")
async def test_a_cancellation_that_is_swallowed_is_repeated(tmp_path, told, monkeypatch):
    monkeypatch.setattr(loops, "RECANCEL", 0.2)
    source = in_style("""
        class P(BaseBackgroundPlugin):
            async def start(self):
                self.task = asyncio.create_task(self.work())

            async def work(self):
                tell("there")
                for n in range(3):
                    try:
                        await asyncio.sleep(600)
                    except asyncio.CancelledError:
                        tell(n)
    """)
    async with running_host(tmp_path, {"p": source}) as host:
        await told.wait_for("there")
        begun = trio.current_time()
        part = await host.receipt_of("p")
        took = trio.current_time() - begun
    assert told.items == ["there", 0, 1, 2]
    assert took > 1.9 * loops.RECANCEL
    assert part.state == "stopped"


async def test_what_the_loop_holds_is_ended_with_it(tmp_path, told):
    source = in_style("""
        class P(BaseBackgroundPlugin):
            async def start(self):
                self.numbers = self.count()
                assert await anext(self.numbers) == 0
                await asyncio.to_thread(tell, "in a thread")

            async def count(self):
                try:
                    for n in range(10):
                        yield n
                finally:
                    await asyncio.sleep(0)
                    tell("finalized")
    """)
    assert not threads_left_of("p")
    async with running_host(tmp_path, {"p": source}) as host:
        await told.wait_for("in a thread")
        assert threads_of("p") == ["executor from p._0", "p (asyncio loop)"]
        part = await host.receipt_of("p")
        assert told.items == ["in a thread", "finalized"]
        assert list(part.problems) == []
        assert not threads_left_of("p")


@pytest.mark.slow("the loops of asyncio keep real time")
async def test_a_job_of_the_executor_is_waited_for(tmp_path, told):
    source = in_style("""
        class P(BaseBackgroundPlugin):
            async def start(self):
                asyncio.get_running_loop().run_in_executor(None, self.job)

            def job(self):
                tell("begun")
                time.sleep(0.3)
                tell("done")
    """)
    async with running_host(tmp_path, {"p": source}) as host:
        await told.wait_for("begun")
        part = await host.receipt_of("p")
    assert told.items == ["begun", "done"]
    assert (part.state, list(part.problems)) == ("stopped", [])


async def test_a_stop_cancels_initialize(tmp_path, told):
    source = in_style("""
        class P(BaseBackgroundPlugin):
            async def initialize(self):
                tell("initialize")
                try:
                    await asyncio.sleep(600)
                except asyncio.CancelledError:
                    await asyncio.sleep(0.05)
                    tell("cancelled")
                    raise

            async def close(self):
                tell("close")
    """)
    async with running_host(tmp_path, {"p": source}, wait=False) as host:
        await told.wait_for("initialize")
        part = await host.receipt_of("p")
    assert told.items == ["initialize", "cancelled", "close"]
    assert (part.state, list(part.problems)) == ("stopped", [])


async def test_close_is_not_entered_for_an_initialize_that_was_not(tmp_path, told):
    source = in_style("""
        free = threading.Event()

        class P(BaseBackgroundPlugin):
            def __init__(self, app):
                super().__init__(app)
                asyncio.get_running_loop().call_soon(free.wait, 30)

            async def initialize(self):
                tell("initialize")

            async def close(self):
                tell("close")
    """)
    tables = {"p": {**ONCE, "initialize_timeout": 0.2, "stop_timeout": 5, "close_timeout": 5}}
    async with running_host(tmp_path, {"p": source}, tables, wait=False) as host:
        with trio.fail_after(PATIENCE):
            await host.life("p").state.wait_value(
                lambda state: state.value in {"failed", "abandoned"}
            )
        host.module("p").free.set()
        with trio.fail_after(PATIENCE):
            await host.life("p").ended.wait()
    assert told.items == []


async def test_close_gets_the_connections_that_work_still(tmp_path, told):
    source = in_style("""
        class P(BaseBackgroundPlugin):
            async def initialize(self):
                self.server = await asyncio.start_server(self.echo, "127.0.0.1", 0)
                address = self.server.sockets[0].getsockname()
                self.reader, self.writer = await asyncio.open_connection(*address)

            async def echo(self, reader, writer):
                writer.write(await reader.readline())
                writer.close()

            async def close(self):
                self.writer.write(b"goodbye\\n")
                tell(await self.reader.readline())
                self.writer.close()
                self.server.close()
                await self.server.wait_closed()
    """)
    async with running_host(tmp_path, {"p": source}) as host:
        part = await host.receipt_of("p")
    assert told.items == [b"goodbye\n"]
    assert list(part.problems) == []


# What the plugin leaves open on purpose, the host closes, or else the garbage collector, with a warning.
@pytest.mark.slow("the loops of asyncio keep real time")
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
async def test_many_restarts_leave_no_thread_and_no_descriptor(tmp_path, told):
    source = in_style("""
        import aiohttp

        class P(BaseBackgroundPlugin):
            attempts = 0
            counted = threading.Event()

            async def initialize(self):
                if self.attempts in {10, 30}:  # and nothing of another attempt is there yet
                    tell(f"{self.attempts} are over")
                    await asyncio.to_thread(self.counted.wait)
                    self.counted.clear()
                self.session = aiohttp.ClientSession()
                loop = asyncio.get_running_loop()
                self.server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
                await asyncio.to_thread(time.sleep, 0)

            async def start(self):
                P.attempts += 1
                self.task = asyncio.create_task(asyncio.sleep(600))
                address = self.server.sockets[0].getsockname()
                loop = asyncio.get_running_loop()
                self.connection = await loop.create_connection(asyncio.Protocol, *address)
                raise ValueError("again")

            async def close(self):
                await self.session.close()
                if self.attempts % 2:
                    self.server.close()
                    self.task.cancel()
    """)
    tables = {"p": {"backoff_initial": 0.001, "backoff_max": 0.001, "max_restarts": 1000}}
    async with running_host(tmp_path, {"p": source}, tables, wait=False) as host:
        counts = []
        for attempts in (10, 30):
            await told.wait_for(f"{attempts} are over", within=30)
            gc.collect()
            names = threads_of("p")
            assert names.count("p (asyncio loop)") == 1
            # Of its executor, which may take a second thread when the first is only about to be free.
            assert len(names) - 1 <= (os.cpu_count() or 1) + 4
            counts.append((threading.active_count() - len(names), descriptors()))
            host.module("p").P.counted.set()
        threads, files = zip(*counts, strict=True)
        assert abs(threads[0] - threads[1]) <= 2, "Trio may keep a worker"
        assert abs(files[0] - files[1]) <= 3
        await host.stop()
    assert not threads_left_of("p")


@pytest.mark.slow("the loops of asyncio keep real time")
async def test_a_stopped_plugin_leaves_no_descriptor(tmp_path, told):
    source = in_style("""
        class P(BaseBackgroundPlugin):
            async def start(self):
                await asyncio.to_thread(tell, "there")
    """)

    async def live() -> int:
        async with running_host(tmp_path, {"p": source}):
            await told.wait_for("there")
        told.items.clear()
        gc.collect()
        return descriptors()

    before = await live()
    assert await live() == before
    assert await live() == before


def test_a_loop_without_a_thread_leaves_no_descriptor(monkeypatch, no_collection):
    def no_thread(_self):
        raise RuntimeError("can't start new thread")

    before = descriptors()
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    with pytest.raises(RuntimeError, match="new thread") as caught:
        loops.LoopThread("p", copy_context(), False, print, print)
    assert descriptors() == before, caught


# What blocks

HELD = """
    free = threading.Event()

    class P(BaseEventPlugin, BaseBackgroundPlugin):
        eventName = "monitoring_event"

        async def initialize(self):
            self.addRoute("/held", self.held)

        async def start(self):
            tell("held")
            free.wait(30)

        def held(self, request):
            return "free again"

        async def handleEvent(self, points, logger):
            tell(len(points))
"""


async def test_what_waits_for_a_held_loop_gets_its_turn_once_that_is_free(tmp_path, told):
    async with running_host(tmp_path, {"p": in_style(HELD)}) as host, serving(host) as client:
        await told.wait_for("held")
        host.publish(numbered(7))
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                assert (await client.get("/held")).text == "free again"

            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert told.items == ["held"]
            host.module("p").free.set()
        await told.wait_for(7)
        assert (await host.stop()).exit_code == 0


@pytest.mark.slow("the loops of asyncio keep real time")
async def test_who_asks_where_a_blocked_loop_stands_does_not_wait(tmp_path, told):
    """What is to be known of a loop in another thread must not cost the service's own loop its time."""
    async with running_host(tmp_path, {"p": in_style(HELD)}) as host:
        await told.wait_for("held")
        thread = host.host.lives["p"].loop_thread()
        assert thread is not None
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
        looks, place = 0, ""
        while looks < 100 or "blocks its event loop" not in place:
            place = thread.place(None)
            thread.stubborn()
            looks += 1
        waits = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw - before
        host.module("p").free.set()
    assert waits < looks, "but for the interpreter, now and then"


@pytest.mark.slow("the loops of asyncio keep real time")
async def test_what_a_blocked_loop_has_made_can_be_killed_while_it_goes_on(tmp_path, caplog):
    """What one thread changes and another looks at is copied as a whole, and an error there is contained."""
    before = sys.getswitchinterval()

    class Process:
        def get_returncode(self):
            return None

        def get_pid(self):
            return 2**22 + 7  # no process has it, and the host ends what the plugin leaves

        def kill(self):
            raise PermissionError("not yours")

    source = in_style("class P(BaseBackgroundPlugin): pass")
    async with running_host(tmp_path, {"p": source}) as host:
        thread = host.host.lives["p"].loop_thread()
        assert thread is not None
        over = threading.Event()

        def make():
            kept = deque(maxlen=500)
            while not over.is_set():
                kept.append(asyncio.Event())
                thread.made.note(kept[-1])

        maker = threading.Thread(target=make)
        sys.setswitchinterval(1e-6)
        maker.start()
        try:
            for _ in range(3000):
                thread.made.kill_processes()
        finally:
            sys.setswitchinterval(before)
            over.set()
            maker.join()
        thread.made.note(process := Process())
        thread.made.kill_processes()
        thread.made._made.discard(process)
    assert "a subprocess of it cannot be killed" in caplog.text


async def test_an_idle_loop_that_gets_no_turn_is_not_taken_for_a_blocked_one(tmp_path, monkeypatch):
    """As on a machine that is busy with other work; here it is given no time at all."""
    source = in_style("class P(BaseBackgroundPlugin): pass")
    async with running_host(tmp_path, {"p": source}) as host:
        thread = host.host.lives["p"].loop_thread()
        assert thread is not None
        while not thread.pulse.waits(frames_of_thread(thread.thread)[-1]):
            await trio.sleep(0.001)  # it tells Trio that the start is over
        monkeypatch.setattr(loops, "_SILENT", 0.0)
        thread.pulse.begin_question()
        assert thread.pulse.silent_for() > 0
        assert thread.blocked_at() is None
        assert "although cancelled: its event loop, which got no turn" in (
            host.life("p")._runtime.not_ended()
        )


@pytest.mark.slow("the loops of asyncio keep real time")
async def test_a_busy_loop_is_not_taken_for_a_blocked_one(tmp_path, told):
    source = in_style("""
        class P(BaseBackgroundPlugin):
            async def initialize(self):
                self.task = asyncio.create_task(self.work())
                await asyncio.Event().wait()  # PLACE

            async def work(self):
                while True:
                    sum(range(1000))
                    await asyncio.sleep(0)
    """)
    tables = {"p": {**ONCE, "initialize_timeout": 0.3}}
    async with running_host(tmp_path, {"p": source}, tables, wait=False) as host:
        await host.wait_for("p", State.FAILED, PATIENCE)
        reason = host.life("p").record.last.reason
        place = line_of(host, "p", "# PLACE")
    assert f"waiting at {place} in initialize" in reason
    assert "blocks its event loop" not in reason


# Points and routes from other threads


@given(
    limit=st.integers(1, 12),
    overflow=st.sampled_from(["drop_oldest", "drop_newest"]),
    steps=st.lists(
        st.tuples(
            st.sampled_from(["cross", "cross", "arrive", "offer", "take"]), st.integers(1, 15)
        ),
        max_size=30,
    ),
)
@examples(30)
def test_a_crossing_is_a_bounded_queue_before_the_queue(limit, overflow, steps):
    async def main() -> None:
        bounds = Bounds(limit, drop_oldest=overflow == "drop_oldest")
        mailbox = MemoryMailbox(bounds)
        crossing: list[int] = []
        model: list[int] = []
        made = dropped = crossing_dropped = 0

        def cut(queue: list[int]) -> int:
            excess = max(0, len(queue) - limit)
            queue[:] = queue[excess:] if overflow == "drop_oldest" else queue[:limit]
            return excess

        for step, count in [*steps, ("arrive", 0)]:
            new = [*map(Number, range(made, made + count))]
            if step == "cross":
                made += count
                mailbox.cross(new)
                crossing += new
                crossing_dropped += cut(crossing)
                assert mailbox._crossing.points == len(crossing) <= limit
            elif step == "offer":
                made += count
                mailbox.offer(new)
                model += new
                dropped += cut(model)
            elif step == "arrive":
                mailbox.arrive()
                model += crossing
                dropped += crossing_dropped + cut(model)
                crossing_dropped = 0
                crossing.clear()
            elif model:
                assert await mailbox.take(count) == model[:count]
                del model[:count]
            assert mailbox.ledger.balanced
            assert mailbox.ledger.queued == len(model)
            assert mailbox.ledger.lost == dropped
        assert mailbox.ledger.accepted == made
        left = await mailbox.take(1000) if model else []
        assert left == model

    trio.run(main)


PUBLISHER = """
    class P(BaseBackgroundPlugin):
        def publish(self, thread, count, size):
            for start in range(0, count, size):
                points = [
                    MonitoringPoint("numbers", 1.0, {"thread": thread}, {"n": n})
                    for n in range(start, min(start + size, count))
                ]
                self.app.publish("monitoring_event", points)

        async def from_the_loop(self, count, size):
            self.publish(0, count, size)
            tell("published")
"""

SINK = """
    class Sink(BaseEventPlugin):
        eventName = "monitoring_event"

        async def handleEvent(self, points, logger):
            journal.extend((point.tags["thread"], point.fields["n"]) for point in points)
"""


def on_loop(host: Any, coroutine: Any) -> Any:
    """Start a coroutine on the loop of plugin `p`; return its future."""
    loop = host.life("p")._runtime._loop.loop
    return asyncio.run_coroutine_threadsafe(coroutine, loop)


@pytest.mark.slow("the loops of asyncio keep real time")
@pytest.mark.parametrize("sink", [SINK, in_style(SINK)], ids=["trio", "asyncio"])
async def test_points_from_several_threads_keep_their_order_and_none_is_lost(tmp_path, told, sink):
    sources = {"p": in_style(PUBLISHER), "sink": sink}
    tables = {"sink": {"buffer_limit": 100_000}}
    async with running_host(tmp_path, sources, tables) as host:
        plugin = host.plugin("p")
        on_loop(host, plugin.from_the_loop(5000, 7))
        threads = [
            threading.Thread(target=plugin.publish, args=(n, 5000, n + 1)) for n in range(1, 4)
        ]
        for thread in threads:
            thread.start()
        with trio.fail_after(PATIENCE):
            while len(journal) < 20_000:
                assert all(d.ledger.balanced for d in host.life("sink").deliveries.values())
                await trio.sleep(0.001)  # so that the ledger is looked at again and again
        for thread in threads:
            thread.join()
        part = await host.receipt_of("sink")
    assert part.points["accepted"] == part.points["delivered"] == 20_000
    for n in range(4):
        assert [number for thread, number in journal if thread == n] == list(range(5000))


@pytest.mark.parametrize("overflow", ["drop_oldest", "drop_newest"])
@pytest.mark.parametrize("size", [1, 7, 1000])
async def test_the_bound_holds_while_the_service_s_own_loop_is_blocked(
    tmp_path, told, overflow, size
):
    sources = {"p": in_style(PUBLISHER), "sink": SINK}
    tables = {"sink": {"buffer_limit": 100, "overflow": overflow}}
    async with running_host(tmp_path, sources, tables) as host:
        (delivery,) = host.life("sink").deliveries.values()
        mailbox = delivery.mailbox
        most = []
        real_cross = mailbox.cross

        def cross(points: Any) -> None:
            real_cross(points)
            most.append(mailbox._crossing.points)

        mailbox.cross = cross
        done = on_loop(host, host.plugin("p").from_the_loop(1000, size))
        done.result(PATIENCE)  # this thread, which is Trio's, waits for it
        assert max(most) == 100
        assert mailbox.ledger.accepted == 0
        part = await host.receipt_of("sink")
        assert mailbox.ledger.balanced
    assert part.points["accepted"] == 1000
    assert part.points["delivered"] == 100
    assert part.points["dropped"] == {"overflow": 900}
    kept = range(900, 1000) if overflow == "drop_oldest" else range(100)
    assert [n for _, n in journal] == list(kept)


async def test_points_published_in_close_arrive(tmp_path, told):
    source = in_style("""
        class P(BaseBackgroundPlugin):
            async def close(self):
                self.app.publish(
                    "monitoring_event",
                    [MonitoringPoint("numbers", 1.0, {"thread": 0}, {"n": n}) for n in range(5)],
                )
    """)
    async with running_host(tmp_path, {"sink": SINK, "p": source}) as host:
        part = await host.receipt_of("sink")
    assert part.points["delivered"] == 5
    assert [n for _, n in journal] == list(range(5))


async def test_what_cannot_be_published_is_refused_on_the_loop_too(tmp_path, told):
    source = starting(
        "for event, points in [('monitoring_evnt', []), ('monitoring_event', [1])]:",
        "    try:",
        "        self.app.publish(event, points)",
        "    except (TypeError, ValueError) as error:",
        "        tell(str(error))",
    )
    async with running_host(tmp_path, {"p": source}):
        await told.wait_for("p")
    assert "monitoring_evnt" in told.items[0]
    assert "MonitoringPoint" in told.items[1]


async def test_routes_can_be_added_from_the_loop_and_from_a_thread(tmp_path, told):
    source = in_style("""
        class P(BaseBackgroundPlugin):
            def __init__(self, app):
                super().__init__(app)
                try:
                    self.addRoute("/early", self.answer)
                except RuntimeError as error:
                    tell(str(error))

            async def initialize(self):
                self.addRoute("/first", self.answer)

            async def start(self):
                self.addRoute("/second", self.answer)
                await asyncio.to_thread(self.addRoute, "/third/<int:n>", self.answer)
                try:
                    self.addRoute("/first", self.answer)
                except ValueError as error:
                    tell(str(error))
                tell("started")

            async def answer(self, request, n=0):
                return f"{request.path} {n}"
    """)
    async with running_host(tmp_path, {"p": source}) as host, serving(host) as client:
        await told.wait_for("started")
        assert (await client.get("/first")).text == "/first 0"
        assert (await client.get("/second")).text == "/second 0"
        assert (await client.get("/third/3")).text == "/third/3 3"
        assert "add routes in initialize()" in told.items[0]
        assert "'/first' was added before by this plugin" in told.items[1]


# What a plugin of the other style would do


async def test_there_is_no_nursery(tmp_path, told):
    source = starting("self.nursery.start_soon(slow)")
    async with running_host(tmp_path, {"p": source}, {"p": ONCE}, wait=False) as host:
        await host.wait_for("p", State.FAILED, PATIENCE)
        reason = host.life("p").record.last.reason
    assert "plugin 'p' is asyncio-style and has no Trio nursery" in reason
    assert "asyncio.create_task()" in reason


@pytest.mark.parametrize(
    "line",
    [
        "asyncio.get_running_loop()",
        "await asyncio.sleep(1)",
        "async with asyncio.timeout(1): pass",
        "import aiohttp; aiohttp.ClientSession()",
    ],
)
async def test_a_trio_style_plugin_that_needs_asyncio_is_told_so(tmp_path, told, line):
    source = f"""
        import asyncio

        class P(BaseBackgroundPlugin):
            async def start(self):
                {line}
    """
    async with running_host(tmp_path, {"p": source}, {"p": ONCE}, wait=False) as host:
        await host.wait_for("p", State.FAILED, PATIENCE)
        assert (
            'for asyncio code, write `runtime = "asyncio"` on the class'
            in host.life("p").record.last.reason
        )


# The documented event plugin


FLUSHING = """
    from cow.plugins.plugin_examples.request_monitoring_plugin_example import (
        BaseRequestMonitoringPlugin,
    )

    class P(BaseRequestMonitoringPlugin):
        waiting = 0

        async def flushPointToMonitoring(self, point, logger):
            n = point.fields["n"]
            journal.append(n)
            P.waiting += 1
            tell(("waiting", P.waiting))
            await self.flush(n)
"""


async def test_the_documented_event_plugin_flushes_all_points_at_once(tmp_path, told):
    source = in_style(
        FLUSHING
        + """
        async def flush(self, n):
            while P.waiting < 100:
                await asyncio.sleep(0)
    """
    )
    async with running_host(tmp_path, {"p": source}) as host:
        host.publish(numbered(100))
        part = await host.receipt_of("p")
    assert (part.points["delivered"], part.points["retries"]) == (100, 0)
    assert sorted(journal) == list(range(100))


async def test_only_points_that_failed_are_flushed_again(tmp_path, told):
    source = in_style(
        FLUSHING
        + """
        async def flush(self, n):
            await asyncio.sleep(0.01)
            if n == 3:
                raise PermanentDeliveryError("never")
            if n in (5, 7) and journal.count(n) < 3:
                raise OSError("not now")
    """
    )
    tables = {"p": {"retry_initial": 0.01, "retry_max": 0.01}}
    async with running_host(tmp_path, {"p": source}, tables) as host:
        host.publish(numbered(10))
        await told.wait_for(("waiting", 14))
        part = await host.receipt_of("p")
    assert part.points["delivered"] == 9
    assert part.points["rejected"] == 1
    assert part.points["retries"] == 2
    assert not part.points["dropped"]
    assert {n: journal.count(n) for n in range(10)} == {**dict.fromkeys(range(10), 1), 5: 3, 7: 3}


async def test_a_batch_that_takes_too_long_is_cancelled_with_every_flush(tmp_path, told):
    source = in_style(
        FLUSHING
        + """
        async def flush(self, n):
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                tell(("cancelled", n))
                raise
    """
    )
    tables = {"p": {"handle_timeout": 0.2, "max_attempts": 1}}
    async with running_host(tmp_path, {"p": source}, tables) as host:
        host.publish(numbered(5))
        await told.wait_for(*(("cancelled", n) for n in range(5)))
        part = await host.receipt_of("p")
    assert part.points["dropped"] == {"max_attempts": 5}
    assert part.state == "stopped"
    assert list(part.problems) == []


# Context


async def test_records_carry_the_plugin_s_name_wherever_they_are_made(tmp_path, told):
    source = in_style("""
        import logging

        library = logging.getLogger("some.library")

        class P(BaseEventPlugin, BaseBackgroundPlugin):
            eventName = "monitoring_event"

            def __init__(self, app):
                super().__init__(app)
                library.info("constructor")

            async def initialize(self):
                library.info("initialize")

            async def start(self):
                library.info("start")
                loop = asyncio.get_running_loop()
                loop.call_soon(library.info, "callback")
                await asyncio.create_task(self.task())
                await asyncio.to_thread(library.info, "thread")
                await loop.run_in_executor(None, library.info, "executor")
                self.logger.info("own")
                tell("started")

            async def task(self):
                library.info("task")

            async def handleEvent(self, points, logger):
                library.info("handleEvent")
                tell("handled")

            async def close(self):
                library.info("close")
    """)
    told.addFilter(names_plugin)
    async with running_host(tmp_path, {"p": source}) as host:
        host.publish(numbered(1))
        await told.wait_for("started", "handled")
        await host.stop()
    records = [record for record in told.records if record.name == "some.library"]
    said = {record.getMessage(): getattr(record, "plugin", None) for record in records}
    places = ["constructor", "initialize", "start", "callback", "task", "thread", "executor"]
    assert said == dict.fromkeys([*places, "handleEvent", "close"], "p")
    assert (await told.logged("own")).plugin == "p"


async def test_a_stop_while_an_instance_is_made_leaves_nothing(tmp_path):
    source = """
        class P(BaseBackgroundPlugin):
            runtime = "asyncio"

            def __init__(self, app):
                super().__init__(app)
                time.sleep(0.002)
    """
    async with running_host(tmp_path, {"p": source}, wait=False) as host:
        await host.wait_for("p", State.INITIALIZING)
        part = await host.receipt_of("p")
    assert (part.state, part.problems, part.leaked_threads) == ("stopped", [], [])
