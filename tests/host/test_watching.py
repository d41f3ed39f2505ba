"""Plugins are reloaded when their files are saved, and only those."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from lva.host import watching
from lva.host.loading.files import SourceFiles
from tests.host.loading.test_reload import NEW, OLD, SINK, rewrite
from tests.support import RunningHost, journal, numbered, running_host, until


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "INTERVAL", 0.05)


@asynccontextmanager
async def watched(tmp_path: Any, sources: dict[str, str | None]) -> AsyncIterator[RunningHost]:
    async with running_host(tmp_path, sources) as host, trio.open_nursery() as nursery:
        nursery.start_soon(watching.watch, host.host)
        yield host
        await host.stop()  # which ends the watch


def version(host: RunningHost, name: str) -> int | None:
    """Return which version of a plugin is loaded; None for a moment in each reload."""
    return getattr(sys.modules.get(f"lva_plugins.{name}"), "VERSION", None)


async def rest() -> None:
    """Let the watch look twice, and do what follows."""
    await trio.sleep(3 * watching.INTERVAL)


@pytest.mark.slow("files have times of their own")
async def test_what_was_saved_is_reloaded(tmp_path, caplog):
    caplog.set_level("INFO")
    async with watched(tmp_path, {"a": OLD, "b": OLD}) as host:
        await until(lambda: "when one of its own is saved: a, b" in caplog.text)
        rewrite(tmp_path, "a", NEW)
        await until(lambda: version(host, "a") == 2)
        await rest()
        assert host.life("a").record.lives == 2, "once for each save"
        assert [step.reason for step in host.life("a").record.history].count(
            "its file was saved"
        ) == 2
        assert host.life("b").record.lives == 1


@pytest.mark.slow("files have times of their own")
async def test_a_broken_file_is_reported_once_and_the_next_save_mends_it(tmp_path, caplog):
    async with watched(tmp_path, {"a": OLD}) as host:
        rewrite(tmp_path, "a", "def")
        await until(lambda: "a.py:6: invalid syntax" in caplog.text)
        await rest()
        assert caplog.text.count("invalid syntax") == 1
        assert host.life("a").record.lives == 1
        host.publish(numbered(3))
        await until(lambda: journal == [0, 1, 2])
        rewrite(tmp_path, "a", SINK.format(version=3))
        await until(lambda: version(host, "a") == 3)


@pytest.mark.slow("files have times of their own")
async def test_touched_or_missing_files_and_stopped_plugins_are_left_alone(tmp_path):
    async with watched(tmp_path, {"touched": OLD, "gone": OLD, "stopped": OLD}) as host:
        await host.host.changes.stop("stopped")
        rewrite(tmp_path, "stopped", NEW)
        (tmp_path / "plugins" / "touched.py").touch()
        (tmp_path / "plugins" / "gone.py").unlink()
        await rest()
        assert [host.life(name).record.lives for name in ("touched", "gone", "stopped")] == [
            1,
            1,
            1,
        ]
        await host.host.changes.start("stopped")
        await until(lambda: version(host, "stopped") == 2)
        rewrite(tmp_path, "gone", NEW)
        await until(lambda: version(host, "gone") == 2)


@pytest.mark.slow("files have times of their own")
async def test_a_save_during_another_action_is_not_forgotten(tmp_path):
    source = """
        release = trio.Event()

        async def close(self):
            await self.release.wait()
    """
    async with watched(tmp_path, {"a": OLD + source}) as host:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(host.host.changes.restart, "a")
            rewrite(tmp_path, "a", NEW)
            await rest()
            assert host.module("a").VERSION == 1
            host.module("a").Sink.release.set()
        await until(lambda: version(host, "a") == 2)


async def test_no_file_system_is_asked_on_the_event_loop(tmp_path):
    """One that does not answer would hold up everybody; so whoever looks at files does so in a thread."""
    loop = threading.get_ident()
    on_the_loop: list[bool] = []

    class Asked(type(Path())):  # type: ignore[misc] # whichever this system's is
        def stat(self, **options: Any) -> os.stat_result:
            on_the_loop.append(threading.get_ident() == loop)
            return super().stat(**options)

        def open(self, *arguments: Any, **options: Any) -> Any:
            on_the_loop.append(threading.get_ident() == loop)
            return super().open(*arguments, **options)

    async with watched(tmp_path, {"a": OLD}) as host:
        life = host.life("a")
        life.files = SourceFiles({Asked(life.loaded.path): "another"})
        host.host.describe()
        await host.host.look_at_files()
        await until(lambda: life.record.lives == 2)
    assert on_the_loop
    assert not any(on_the_loop)
