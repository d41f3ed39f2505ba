"""A plugin that uses up all threads harms nobody else."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import trio
from trio._core._thread_cache import THREAD_CACHE

from lva.errors import ConfigurationError
from lva.host.life.states import State
from lva.host.process.threads import in_thread
from tests.support import RunningHost, journal, numbered, running_host

MADE = """
    class P(BaseBackgroundPlugin):
        def __init__(self, app):
            super().__init__(app)
            journal.append("made")
"""
REFUSING = """
    class P(BaseEventPlugin):
        eventName = "monitoring_event"

        async def handleEvent(self, points, logger):
            raise PermanentDeliveryError("never")
"""
AWAY = REFUSING.replace("PermanentDeliveryError", "OSError")


class _NoIdle(dict):
    """Idle threads of Trio's that get no work, even those that become idle from now on."""

    def popitem(self):
        raise KeyError


class Exhaustion:
    """Lets the system have no thread left, from `begin` to `end`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def begin(self) -> None:
        def start(_thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        self._monkeypatch.setattr(threading.Thread, "start", start)
        self._monkeypatch.setattr(THREAD_CACHE, "_idle_workers", _NoIdle())

    def end(self) -> None:
        self._monkeypatch.undo()


@pytest.fixture
def exhaustion(monkeypatch):
    exhaustion = Exhaustion(monkeypatch)
    yield exhaustion
    exhaustion.end()


async def goes_on(host: RunningHost) -> None:
    """Check that the host lives, after a while."""
    await trio.sleep(0.3)
    assert not host.host.stop.failed
    assert not host.host.stop.requested.is_set()


async def test_a_plugin_that_cannot_be_made_is_tried_again(tmp_path, exhaustion):
    async with running_host(tmp_path, {"p": MADE}, {"p": {"backoff_initial": 0.5}}) as host:
        exhaustion.begin()
        await host.host.changes.restart("p")
        assert host.life("p").state.value is State.BACKOFF
        assert "can't start new thread" in str(host.life("p").record.last_error)
        await goes_on(host)
        exhaustion.end()
        await host.wait_for("p", State.RUNNING, within=20)
        assert journal == ["made", "made"]


async def test_a_file_that_cannot_be_imported_now_can_be_later(tmp_path, exhaustion):
    async with running_host(tmp_path, {"p": MADE}) as host:
        exhaustion.begin()
        with pytest.raises(ConfigurationError, match="can't start new thread"):
            await host.host.changes.reload("p")
        assert host.life("p").state.value is State.RUNNING
        exhaustion.end()
        await host.host.changes.reload("p")
        assert host.life("p").record.lives == 2


async def test_points_are_spooled_all_the_same(tmp_path, exhaustion):
    tables = {"p": {"spool": "disk"}}
    async with running_host(tmp_path, {"p": AWAY}, tables) as host:
        exhaustion.begin()
        host.publish(numbered(3))
        await goes_on(host)
        part = await host.receipt_of("p")
        assert (part.points["kept"], part.state) == (3, "stopped")
    exhaustion.end()
    async with running_host(tmp_path, {"p": AWAY}, tables) as host:
        assert host.life("p").record.deliveries.total().recovered == 3


async def test_dead_letters_are_written_all_the_same(tmp_path, exhaustion):
    async with running_host(tmp_path, {"p": REFUSING}, {"p": {"dead_letters": True}}) as host:
        exhaustion.begin()
        host.publish(numbered(3))
        await goes_on(host)
    (file,) = (tmp_path / "state" / "dead_letters").iterdir()
    assert len(file.read_text().splitlines()) == 3


async def test_errors_of_the_work_are_not_taken_for_a_lack_of_threads():
    done: list[Any] = []

    def work() -> None:
        done.append(threading.current_thread())
        raise RuntimeError("its own")

    with pytest.raises(RuntimeError, match="its own"):
        await in_thread(work, trio.CapacityLimiter(1))
    (thread,) = done
    assert thread is not threading.main_thread()
