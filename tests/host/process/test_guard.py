"""Who is named for a change of the process's state: whoever ran alone, and nobody for certain else."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trio

from lva.host.loading.finder import PluginFileError
from lva.host.loading.load import finder_for, load_plugin, load_plugins
from lva.host.process.guard import ProcessGuard, kept_by
from lva.host.process.pieces import Piece
from lva.host.process.state import ProcessState, note_own, own_descriptors
from lva.host.watch.clock import (
    StepClock,
    enter_plugin,
    install,
    leave_plugin,
    noting_who_ran,
    remove,
)
from lva.host.watch.readings import own_reader
from lva.logs.loggers import current_plugin
from tests.support import host_settings, write_plugin


@pytest.fixture(autouse=True)
def limit_kept() -> Iterator[None]:
    before = sys.getrecursionlimit()
    yield
    sys.setrecursionlimit(before)


@asynccontextmanager
async def guarded() -> AsyncIterator[ProcessGuard]:
    guard = ProcessGuard(dict)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(guard.run)
        await trio.testing.wait_all_tasks_blocked()
        yield guard
        nursery.cancel_scope.cancel()


def as_plugin(name: str, act: Callable[[], object]) -> None:
    token = enter_plugin(name)
    act()
    leave_plugin(token)


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.name, record.getMessage()) for record in caplog.records]


async def test_a_plugin_that_ran_alone_is_named(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    before = sys.getrecursionlimit()
    async with guarded():
        for _ in range(2):  # the second time it is put back in silence
            as_plugin("cam", lambda: sys.setrecursionlimit(5000))
            await trio.sleep(1)
            assert sys.getrecursionlimit() == before
    text = f"changed the recursion limit from {before} to 5000; put back"
    assert said(caplog) == [("lva.plugin.cam", text)]


@pytest.mark.parametrize(
    ("ran", "named"), [(["cam", "dog"], "cam, dog"), ([], "no plugin on an event loop")]
)
async def test_where_not_one_alone_ran_none_is_accused(
    caplog: pytest.LogCaptureFixture,
    autojump_clock: trio.testing.MockClock,
    ran: list[str],
    named: str,
) -> None:
    async with guarded():
        sys.setrecursionlimit(5000)
        for name in ran:
            as_plugin(name, lambda: None)
        await trio.sleep(1)
    ((logger, text),) = said(caplog)
    assert logger == "lva.host"
    assert text.startswith("somebody changed the recursion limit")
    assert text.endswith(f"running at that time: {named}")


async def test_a_thread_of_unknown_origin_may_have_done_it(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    over = threading.Event()
    thread = threading.Thread(target=over.wait, name="grabber")
    async with guarded():
        as_plugin("cam", thread.start)
        sys.setrecursionlimit(5000)
        await trio.sleep(1)
        over.set()
        thread.join()
    assert said(caplog)[0][1].endswith("running at that time: cam; threads: grabber")


def test_what_cannot_be_put_back_is_said_once() -> None:
    def refuse(_: object) -> None:
        raise OSError("not permitted")

    value = 1
    state = ProcessState([Piece("the colour", lambda: value, refuse)])
    value = 2
    assert [change.text for change in state.put_back()] == [
        "the colour from 1 to 2; it cannot be put back: not permitted"
    ]
    assert state.put_back() == []


def test_a_variable_that_a_plugin_adds_for_a_library_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TZ", raising=False)
    state = ProcessState()
    monkeypatch.setenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_transport;tcp")
    assert state.put_back() == []
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    (change,) = state.put_back()
    assert change.text == "the environment (TZ); put back"
    assert "TZ" not in os.environ


ready, go = threading.Event(), threading.Event()


@contextmanager
def loading_in_a_thread(tmp_path: Path) -> Iterator[None]:
    """Load a plugin as at a reload; its file is in the midst of its import inside, and loaded at the end."""
    source = f"from {__name__} import go, ready\nready.set(); go.wait(10)\n"
    write_plugin(
        tmp_path / "plugins", "slow", source + "class Slow(BaseBackgroundPlugin):\n    x = 1\n"
    )
    settings = host_settings(tmp_path, ("slow",))
    finder = finder_for(settings)
    finder.install()
    loaded: list[object] = []

    def load() -> None:
        try:
            loaded.append(load_plugin("slow", settings, finder).name)
        except PluginFileError as error:
            loaded.append(error)

    ready.clear()
    go.clear()
    thread = threading.Thread(target=load)
    thread.start()
    try:
        assert ready.wait(10)
        yield
    finally:
        go.set()
        thread.join()
    assert loaded == ["slow"]


def test_a_reload_is_not_blamed_for_a_signal_that_another_plugin_takes_meanwhile(
    tmp_path: Path,
) -> None:
    before = signal.getsignal(signal.SIGUSR2)
    try:
        with loading_in_a_thread(tmp_path):
            signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGUSR2) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR2, before)


def test_a_reload_is_not_blamed_for_a_descriptor_that_another_plugin_closes_meanwhile(
    tmp_path: Path,
) -> None:
    reader, writer = os.pipe()
    own = note_own(reader)
    try:
        with loading_in_a_thread(tmp_path):
            os.close(reader)
    finally:
        own_descriptors.discard(own)
        os.close(writer)


def test_each_of_several_plugins_is_named_for_what_its_import_changes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One note of the state serves all: what the first has changed is not laid at the second's door."""
    changes = {
        "ada": "import sys; sys.setrecursionlimit(4321)",
        "bob": "",
        "cleo": "import gc; gc.set_debug(4)",
    }
    for name, change in changes.items():
        source = f"{change}\nclass C(BaseBackgroundPlugin):\n    x = 1\n"
        write_plugin(tmp_path / "plugins", name, source)
    before = sys.getrecursionlimit()
    load_plugins(host_settings(tmp_path, tuple(changes)))
    assert (sys.getrecursionlimit(), gc.get_debug()) == (before, 0)
    assert said(caplog) == [
        ("lva.plugin.ada", f"changed the recursion limit from {before} to 4321; put back"),
        ("lva.plugin.cleo", "changed gc.get_debug() from 0 to 4; put back"),
    ]


def test_a_thread_that_loads_a_plugin_anew_puts_nothing_back(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """What changes meanwhile is not its doing, and handlers of signals can only be set in the main thread."""

    def load() -> None:
        with kept_by("cam"):
            gc.set_debug(gc.DEBUG_UNCOLLECTABLE)

    thread = threading.Thread(target=load)
    thread.start()
    thread.join()
    try:
        assert gc.get_debug() == gc.DEBUG_UNCOLLECTABLE
        assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []
    finally:
        gc.set_debug(0)


async def test_who_ran_is_known_with_a_clock_and_without_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The clock notes it in passing; before it is installed, and after, a hook of its own does."""
    clock = StepClock(10.0, own_reader().read, lambda: None)

    async def plugin() -> None:
        current_plugin.set("cam")
        await trio.lowlevel.checkpoint()

    async def names() -> list[str | None]:
        ran.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(plugin)
        return [name for name in ran if name is not None]

    with noting_who_ran() as ran:
        assert await names() == ["cam"]
        install(clock)
        assert await names() == ["cam"]
        remove(clock)
        assert await names() == ["cam"]
        install(clock)
    assert await names() == ["cam"]
    remove(clock)
    assert await names() == []
