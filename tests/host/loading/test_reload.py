"""A plugin's file is loaded anew while the plugin runs: all of it, or nothing of it.

In real time, since files are imported in threads.
"""

from __future__ import annotations

import gc
import hashlib
import logging
import os
import sys
import textwrap
import threading
import weakref
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
import trio

from lva.errors import ConfigurationError
from lva.host.changes import ActionRefusedError
from lva.host.life.states import State
from lva.host.loading import files as sourcefiles
from lva.host.loading import reload as reloading
from lva.host.loading.files import SourceFiles, look_at
from lva.host.loading.load import load_plugins
from lva.logs.masking import _secrets
from tests.host.test_changes import ledger
from tests.support import (
    JOURNALLED,
    RunningHost,
    host_settings,
    journal,
    numbered,
    running,
    running_host,
    until,
    write_plugin,
)

SINK = """
    VERSION = {version}

    class Sink(BaseEventPlugin):
        eventName = "monitoring_event"

        async def handleEvent(self, points, logger):
            await trio.sleep(0)
            journal.extend(point.fields["n"] for point in points)
"""
OLD = SINK.format(version=1)
NEW = SINK.format(version=2)


def rewrite(tmp_path: Path, name: str, source: str, preamble: str = JOURNALLED) -> None:
    write_plugin(tmp_path / "plugins", name, source, preamble)


async def test_the_new_code_takes_over_with_the_points_of_the_old(tmp_path):
    async with running_host(tmp_path, {"sink": OLD}) as host:
        assert host.module("sink").VERSION == 1
        before = host.life("sink")
        host.publish(numbered(5))
        await until(lambda: len(journal) == 5)
        rewrite(tmp_path, "sink", NEW)
        assert before.files.look()
        await host.host.changes.reload("sink")
        after = host.life("sink")
        assert host.module("sink").VERSION == 2
        assert sys.modules["lva_plugins"].sink is host.module("sink")
        assert type(host.plugin("sink")).__module__ == "lva_plugins.sink"
        assert after.loaded.sha256 != before.loaded.sha256
        assert not after.files.look()
        assert after.record.last.reason == "initialized"
        assert [step.reason for step in after.record.history].count("reloaded by an operator") == 2
        host.publish(numbered(5, 5))
        await until(lambda: ledger(host, "sink")["delivered"] == 10)
        assert journal == list(range(10))
        assert (await host.stop()).exit_code == 0


def taking_sigint() -> str:
    return "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n" + textwrap.dedent(NEW)


BROKEN = {
    "syntax": ("def", "invalid syntax"),
    "raises": (NEW + "\n    1 / 0", "ZeroDivisionError"),
    "SystemExit": (NEW + "\n    raise SystemExit(3)", "SystemExit"),
    "KeyboardInterrupt": (NEW + "\n    raise KeyboardInterrupt", "KeyboardInterrupt"),
    "no class": ("VERSION = 2", "no plugin class"),
    "signal": (taking_sigint(), "signal only works in main thread"),
    "configuration": (
        NEW + "\n        class Config(__import__('pydantic').BaseModel): url: str",
        "plugins.sink.config.url",
    ),
    "spool_bytes": (
        NEW + "\n        host_settings = {'spool_bytes': 2000000}",
        "change spool_bytes from 268435456 to 2000000, which takes a restart of the service",
    ),
    "spool": (
        NEW + "\n        host_settings = {'spool': 'disk'}",
        "takes a restart of the service",
    ),
}


def snapshot(host: RunningHost, name: str) -> dict[str, Any]:
    """Return everything that a broken file must leave alone."""
    life = host.life(name)
    return {
        "life": life,
        "instance": host.plugin(name),
        "history": list(life.record.history),
        "module": host.module(name),
        "attribute": getattr(sys.modules["lva_plugins"], name),
        "modules": sorted(key for key in sys.modules if key.startswith("lva_plugins")),
        "deliveries": list(life.deliveries.values()),
    }


@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_file_changes_nothing(tmp_path, name):
    source, said = BROKEN[name]
    async with running_host(tmp_path, {"sink": OLD}) as host:
        before = snapshot(host, "sink")
        rewrite(tmp_path, "sink", source)
        with pytest.raises(ConfigurationError) as caught:
            await host.host.changes.reload("sink")
        (problem,) = caught.value.problems
        assert problem.startswith("plugin 'sink': ")
        assert said in problem
        assert snapshot(host, "sink") == before
        assert host.life("sink").files.look()
        host.publish(numbered(5))
        await until(lambda: journal == [0, 1, 2, 3, 4])
        rewrite(tmp_path, "sink", NEW)
        await host.host.changes.reload("sink")
        assert host.module("sink").VERSION == 2
        assert (await host.stop()).exit_code == 0


@pytest.mark.parametrize("trouble", [Path.unlink, partial(Path.chmod, mode=0o666)])
async def test_a_file_that_may_not_be_loaded_changes_nothing(tmp_path, trouble):
    async with running_host(tmp_path, {"sink": OLD}) as host:
        before = snapshot(host, "sink")
        trouble(tmp_path / "plugins" / "sink.py")
        with pytest.raises(ConfigurationError):
            await host.host.changes.reload("sink")
        assert snapshot(host, "sink") == before


HANGING = """
    import sys
    import tests.host.loading.test_reload as test
    test.go_on.wait(20)
    VERSION = 3
    test.late.append(sys.modules[__name__].VERSION)

    class Sink(BaseEventPlugin):
        eventName = "monitoring_event"

        async def handleEvent(self, points, logger):
            pass
"""
go_on = threading.Event()
late: list[int] = []


async def test_an_import_that_hangs_is_left_behind(tmp_path):
    go_on.clear()
    late.clear()
    async with running_host(tmp_path, {"sink": OLD}, {"sink": {"initialize_timeout": 0.2}}) as host:
        before = snapshot(host, "sink")
        rewrite(tmp_path, "sink", HANGING)
        with pytest.raises(ConfigurationError, match=r"importing it: took longer than 0\.2 s"):
            await host.host.changes.reload("sink")
        assert snapshot(host, "sink") == before
        with pytest.raises(ConfigurationError, match="an earlier import has not returned"):
            await host.host.changes.reload("sink")
        await host.host.changes.restart("sink")  # the old code, which the import does not hinder
        assert host.module("sink") is before["module"]
        go_on.set()
        await until(lambda: "sink" not in reloading._importing)
        assert host.module("sink") is before["module"], "what comes late is put aside"
        assert sys.modules["lva_plugins"].sink is before["module"]
        rewrite(tmp_path, "sink", NEW)
        await host.host.changes.reload("sink")
        assert host.module("sink").VERSION == 2
        assert (await host.stop()).exit_code == 0


async def test_a_stop_does_not_wait_for_an_import(tmp_path):
    go_on.clear()
    async with running_host(tmp_path, {"sink": OLD}) as host:
        rewrite(tmp_path, "sink", HANGING)
        refused: list[Exception] = []

        async def reload() -> None:
            try:
                await host.host.changes.reload("sink")
            except ConfigurationError as error:
                refused.append(error)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(reload)
            await until(lambda: reloading._importing)
            receipt = await host.stop()
        assert "the service is stopping" in str(refused)
        assert [step.state.value for step in host.life("sink").record.history][-2:] == [
            "stopping",
            "stopped",
        ]
        assert receipt.exit_code == 0
        go_on.set()
        await until(lambda: not reloading._importing)


TWO = """
    class First(BaseEventPlugin):
        eventName = "monitoring_event"

        async def handleEvent(self, points, logger):
            {first}

    class Second(BaseEventPlugin):
        eventName = "monitoring_event"

        async def handleEvent(self, points, logger):
            journal.extend(point.fields["n"] for point in points)
"""


@pytest.mark.slow("a disk is waited for")
@pytest.mark.parametrize("spool", ["memory", "disk"])
async def test_a_class_that_is_gone_gives_its_points_up(tmp_path, spool):
    both = TWO.format(first="await trio.sleep_forever()")
    tables = {"p": {"spool": spool, "stop_timeout": 0.1}}
    async with running_host(tmp_path, {"p": both}, tables) as host:
        host.publish(numbered(4))
        await until(lambda: len(journal) == 4)
        rewrite(tmp_path, "p", "class Second" + both.partition("class Second")[2])
        await host.host.changes.reload("p")
        points = ledger(host, "p")
        assert points["accepted"] == 8
        assert points["delivered"] == 4
        expected = ({"class_removed": 4}, 0) if spool == "memory" else ({}, 4)
        assert (points["dropped"], points["kept"]) == expected
        host.publish(numbered(1, 4))
        await until(lambda: journal == [0, 1, 2, 3, 4])
        # It comes back: what its spool has kept is there again.
        rewrite(tmp_path, "p", TWO.format(first="journal.append(len(points))"))
        await host.host.changes.reload("p")
        if spool == "disk":
            await until(lambda: journal[5:] == [4])
        host.publish(numbered(1, 5))
        await until(lambda: set(journal[-2:]) == {1, 5})
        await until(lambda: not ledger(host, "p")["in_flight"])
        points = ledger(host, "p")
        assert (points["kept"], points["recovered"]) == (0, 0), "each point is in one place"
        assert (points["accepted"], points["dropped"]) == (11, expected[0])


async def test_a_stop_does_not_wait_for_a_class_that_is_gone(tmp_path):
    both = TWO.format(first="pass")
    async with running_host(tmp_path, {"p": both}) as host:
        rewrite(tmp_path, "p", "class Second" + both.partition("class Second")[2])
        await host.host.changes.reload("p")
        host.publish(numbered(3))
        with trio.fail_after(2):
            part = await host.receipt_of("p")
    assert part.points["delivered"] == 3


async def test_the_settings_of_the_new_file_hold_and_the_user_s_stay_above(tmp_path):
    defaults = (
        OLD + "\n        host_settings = {'batch_size': 2, 'buffer_limit': 3, 'max_attempts': 1}"
    )
    async with running_host(tmp_path, {"sink": OLD}, {"sink": {"max_attempts": 7}}) as host:
        rewrite(tmp_path, "sink", defaults)
        await host.host.changes.reload("sink")
        settings = host.life("sink").settings
        assert (settings.batch_size, settings.max_attempts) == (2, 7)
        await host.host.changes.stop("sink")
        host.publish(numbered(9))
        assert ledger(host, "sink")["dropped"] == {"overflow": 6}
        await host.host.changes.start("sink")
        await until(lambda: journal == [6, 7, 8])
        (delivery,) = host.life("sink").deliveries.values()
        assert delivery.batch_sizes.counts[:2] == [1, 1], "a call with two points, one with one"


async def test_all_modules_of_a_package_are_new_and_those_beside_it_stay(tmp_path):
    package = tmp_path / "plugins" / "cam"
    package.mkdir(parents=True)
    (tmp_path / "plugins" / "helper.py").write_text("STATE = []\n")

    def write(version: int) -> None:
        (package / "__init__.py").write_text("from .impl import Cam\nfrom ..helper import STATE\n")
        (package / "impl.py").write_text(
            f"from lva import *\nVERSION = {version}\nclass Cam(BaseBackgroundPlugin): version = VERSION\n"
        )

    write(1)
    settings = host_settings(tmp_path, ["cam"])
    async with running(load_plugins(settings), settings) as host:
        await host.wait_until_running()
        helper = sys.modules["lva_plugins.helper"]
        write(2)
        assert host.life("cam").files.look()
        await host.host.changes.reload("cam")
        assert host.plugin("cam").version == 2
        assert sys.modules["lva_plugins.cam.impl"].VERSION == 2
        assert host.module("cam").impl is sys.modules["lva_plugins.cam.impl"]
        assert sys.modules["lva_plugins.helper"] is helper
        assert host.module("cam").STATE is helper.STATE
        (package / "impl.py").write_text("def")
        with pytest.raises(ConfigurationError, match=r"impl\.py:1: invalid syntax"):
            await host.host.changes.reload("cam")
        assert sys.modules["lva_plugins.cam.impl"].VERSION == 2


async def test_models_and_data_classes_mean_the_new_module(tmp_path):
    source = """
        from dataclasses import dataclass
        from typing import ClassVar
        from pydantic import BaseModel

        @dataclass
        class Data:
            kind: ClassVar[str] = "data"
            inner: "Inner"

        class Config(BaseModel):
            inner: "Inner"

        class Inner(BaseModel):
            {field}: int = 0

        class P(BaseBackgroundPlugin):
            Config = Config
    """
    preamble = "from __future__ import annotations\nfrom lva import *\n"
    tables = {"p": {"config": {"inner": {}}}}
    rewrite(tmp_path, "p", source.format(field="old"), preamble)
    settings = host_settings(tmp_path, ["p"], tables)
    async with running(load_plugins(settings), settings) as host:
        await host.wait_until_running()
        rewrite(tmp_path, "p", source.format(field="new"), preamble)
        await host.host.changes.reload("p")
        module = host.module("p")
        assert type(host.plugin("p").config.inner) is module.Inner
        assert host.plugin("p").config.inner.new == 0


async def test_a_failed_plugin_is_mended_by_a_reload(tmp_path):
    failing = OLD + "\n        async def initialize(self): raise OSError"
    tables = {"sink": {"restart": "never"}}
    async with running_host(tmp_path, {"sink": failing}, tables, wait=False) as host:
        await host.wait_for("sink", State.FAILED)
        rewrite(tmp_path, "sink", NEW)
        await host.host.changes.reload("sink")
        assert host.life("sink").state.value is State.RUNNING
        host.publish(numbered(3))
        await until(lambda: journal == [0, 1, 2])


@pytest.mark.slow("threads and the garbage collector have their own time")
async def test_nothing_is_reloaded_into_a_life_that_does_not_end(tmp_path):
    stuck = (
        OLD
        + """
        release = trio.Event()

        async def close(self):
            with trio.CancelScope(shield=True):
                await self.release.wait()
    """
    )
    tables = {"sink": {"stop_timeout": 0.1, "close_timeout": 0.1}}
    async with running_host(tmp_path, {"sink": stuck}, tables) as host:
        old, module = host.plugin("sink"), host.module("sink")
        rewrite(tmp_path, "sink", NEW)
        with pytest.raises(ActionRefusedError, match="still alive"):
            await host.host.changes.reload("sink")
        assert host.module("sink") is module, "that is the code that is alive"
        old.release.set()
        await trio.testing.wait_all_tasks_blocked()
        await host.host.changes.reload("sink")
        assert host.module("sink").VERSION == 2


# Nothing of the old code stays

ASYNCIO = """
    import asyncio

    class Sink(BaseEventPlugin, BaseBackgroundPlugin):
        runtime = "asyncio"
        eventName = "monitoring_event"

        async def start(self):
            self.task = asyncio.create_task(asyncio.sleep(1000))

        async def handleEvent(self, points, logger):
            journal.extend(point.fields["n"] for point in points)
"""
LUNA = """
    from luna_plugins.base.plugins_meta.base_plugins import BaseBackgroundPlugin, BaseEventPlugin

    class Sink(BaseEventPlugin):
        eventName = "monitoring_event"

        async def handleEvent(self, points, logger):
            journal.extend(point.fields["n"] for point in points)
"""
TRIO = """
    import logging
    from pydantic import BaseModel, SecretStr

    logging.getLogger(__name__).addHandler(logging.NullHandler())

    class Sink(BaseEventPlugin, BaseBackgroundPlugin):
        eventName = "monitoring_event"

        class Config(BaseModel):
            password: SecretStr = SecretStr("hunter2hunter2")

        async def initialize(self):
            self.addRoute("/sink", self.answer)
            self.logger.addHandler(logging.NullHandler())

        def answer(self, request):
            return "here"

        async def start(self):
            self.nursery.start_soon(trio.sleep_forever)

        async def handleEvent(self, points, logger):
            journal.extend(point.fields["n"] for point in points)
"""


def counts() -> dict[str, int]:
    """Return how many there are of what a reload might leave behind."""
    loggers = [
        item
        for item in logging.Logger.manager.loggerDict.values()
        if isinstance(item, logging.Logger)
    ]
    return {
        "modules": len(sys.modules),
        "threads": threading.active_count(),
        "loggers": len(logging.Logger.manager.loggerDict),
        "handlers": sum(len(logger.handlers) for logger in loggers),
        "secrets": len(_secrets),
        "finders": len(sys.meta_path),
    }


def functions_and_classes() -> int:
    """Return how many of them there are, frozen or not; other objects come and go with what is under way."""
    gc.unfreeze()
    gc.collect()
    found = sum(isinstance(item, FunctionType | type) for item in gc.get_objects())
    gc.freeze()
    return found


@pytest.mark.slow("threads and the garbage collector have their own time")
@pytest.mark.parametrize("source", [TRIO, ASYNCIO, LUNA], ids=["trio", "asyncio", "luna"])
async def test_what_is_replaced_is_collected(tmp_path, source):
    async with running_host(tmp_path, {"sink": source}) as host:
        await host.host.changes.reload("sink")
        first = counts()
        old: list[weakref.ref[Any]] = []
        for _ in range(5):
            module = host.module("sink")
            old += [
                weakref.ref(item)
                for item in (module, module.Sink, host.plugin("sink"), host.life("sink"))
            ]
            del module
            await host.host.changes.reload("sink")
        host.host.routes.match("/sink")
        gc.collect()
        assert [ref() for ref in old if ref() is not None] == []
        # A worker thread of Trio's may come or go.
        assert {**counts(), "threads": 0} == {**first, "threads": 0}
        assert counts()["threads"] <= first["threads"] + 1
        assert (await host.stop()).exit_code == 0


@pytest.mark.soak
async def test_200_reloads_under_load(tmp_path):
    """Points flow to the reloaded plugin and to another all the time: both get each once, in order."""
    other = OLD.replace("journal.extend", "got.extend").replace(
        "class Sink", "got = []\n\n    class Sink"
    )
    published = 0
    over = False

    async def publish() -> None:
        nonlocal published
        while not over:
            host.publish(numbered(10, published))
            published += 10
            await trio.sleep(0.001)

    tables = {"sink": {"buffer_limit": 1_000_000}, "other": {"buffer_limit": 1_000_000}}
    async with running_host(tmp_path, {"sink": OLD, "other": other}, tables) as host:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish)
            for number in range(200):
                if number == 20:
                    before, objects = counts(), functions_and_classes()
                rewrite(tmp_path, "sink", SINK.format(version=number))
                await host.host.changes.reload("sink")
                assert number == host.module("sink").VERSION
            over = True
        await until(lambda: ledger(host, "sink")["delivered"] == published)
        await until(lambda: len(host.module("other").got) >= published)
        assert journal == list(range(published))
        assert host.module("other").got == list(range(published))
        assert host.life("other").record.lives == 1
        assert {**counts(), "threads": 0} == {**before, "threads": 0}
        assert threading.active_count() <= before["threads"] + 2
        # A second after a reload, what it replaced is freed; until then, a task waits for that.
        await until(lambda: functions_and_classes() < objects + 20)
        receipt = await host.stop()
        assert receipt.exit_code == 0
        assert receipt.plugins[0].lives == 201
        assert receipt.plugins[0].abandoned == 0


# Whether files on disk have changed


def test_changed_files_are_noticed(tmp_path):
    path = tmp_path / "cam.py"
    path.write_text("a")
    files = SourceFiles({path: hashlib.sha256(b"a").hexdigest()})
    assert not files.look()
    os.utime(path, (1e9, 1e9))
    assert not files.look(), "touched is not changed"
    path.write_text("b")
    assert files.look()
    path.write_text("a")
    assert not files.look(), "as it was"
    path.unlink()
    assert files.look()
    assert files.signature() == (None,)
    assert not SourceFiles({}).look()


async def test_a_file_that_does_not_let_go_of_its_reader_holds_up_nobody(tmp_path, monkeypatch):
    """A file system is asked in a thread: neither the event loop nor a page waits for one that hangs."""
    path = tmp_path / "cam.py"
    os.mkfifo(path)
    files = SourceFiles({path: "another"})
    monkeypatch.setattr(sourcefiles, "PATIENCE", 0.05)
    turns = 0

    def names() -> list[str]:
        return [thread.name for thread in threading.enumerate()]

    async def turn() -> None:
        nonlocal turns
        while True:
            await trio.sleep(0.001)
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(turn)
        await look_at([files])
        await look_at([files])
        nursery.cancel_scope.cancel()
    assert turns > 10
    assert not files.changed, "as it was seen last"
    await until(lambda: names().count("lva-files") == 1)  # the others come back
    assert trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0, (
        "others have threads"
    )
    path.open("w").close()
    await until(lambda: files.changed)
