"""A worker process by itself, with the test in the service's place."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from errno import EMFILE
from pathlib import Path

import pytest
import trio

from lva.video.definition import StreamDefinition
from lva.video.processes.child import start_module
from lva.video.processes.process import open_worker
from lva.video.source import parse_source
from lva.video.supervision.stream import Stream, StreamServices
from lva.video.supervision.supervisor import Supervisor

pytestmark = pytest.mark.slow("starts real worker processes")


class Nobody:
    def changed(self, change): ...

    def seen(self, event): ...


def spec(source: str) -> dict[str, object]:
    """Return what a worker is sent of a stream without analytics."""
    definition = StreamDefinition(name="door", source=source)
    services = StreamServices(
        lambda _: [], Nobody(), logging.getLogger("lva.test"), trio.lowlevel.checkpoint
    )
    stream = Stream("id", definition, parse_source(source), services)
    return Supervisor(stream)._spec()


@pytest.mark.parametrize("source", ["test:?live=0", "test:?rate=50"])
async def test_a_worker_that_is_asked_to_stop_closes_its_plugins_and_ends(source):
    """The kind is a worker in the midst of its frames: those of a file, and those of a live source."""
    async with open_worker(spec(source)) as worker:
        await worker.send({"type": "connect", "timeout": 3})
        kinds: list[str] = []
        with trio.fail_after(30):
            while (received := await worker.receive()) is not None:
                kinds.append(received[0]["type"])
                if kinds[-1] == "frames":
                    await worker.send({"type": "stop"})
            assert await worker.wait() == 0
        assert kinds[-1] == "closed"
        assert "disconnected" not in kinds  # it did not take its stop for the end of the file
    worker.board.close()


async def test_nonsense_in_the_shared_memory_names_nobody():
    """The kind is a native plugin that writes anywhere in its process."""
    plugin = {"name": "model"}
    async with open_worker({**spec("test:"), "analytics": [plugin]}) as worker:
        for step, number, named in (
            (2, 0, True),
            (0, 0, False),
            (99, 0, False),
            (-1, 0, False),
            (2, -1, False),
            (2, 9, False),
        ):
            worker.board["step"], worker.board["step_analytics"] = step, number
            assert (worker.step() is not None) is named
    worker.board.close()


def descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


class Gone:
    """A child that has ended, and was reaped by somebody else before anybody looked at it."""

    def __init__(self) -> None:
        with subprocess.Popen(["true"]) as process:
            self.pid, self.pidfd = process.pid, os.pidfd_open(process.pid)

    async def exit_code(self) -> int:
        return 0


class Forks:
    async def fork(self, *_: int) -> Gone:
        return Gone()


async def test_a_worker_that_cannot_be_watched_leaves_no_descriptor(no_collection):
    """The kind is a process that is there, and whose files in /proc cannot be opened."""
    before = descriptors()
    with pytest.raises(FileNotFoundError):
        async with open_worker(spec("test:"), Forks()):
            raise AssertionError("it has ended")
    assert descriptors() == before


def no_more(*_: object, **__: object) -> int:
    raise OSError(EMFILE, os.strerror(EMFILE))


async def test_a_worker_of_which_half_can_be_watched_leaves_no_descriptor(
    monkeypatch, no_collection
):
    really = os.open
    monkeypatch.setattr(
        os, "open", lambda path, *args: (no_more if "statm" in str(path) else really)(path, *args)
    )
    before = descriptors()
    with pytest.raises(OSError, match="Too many open files"):
        async with open_worker(spec("test:")):
            raise AssertionError("it cannot be watched")
    assert descriptors() == before


@pytest.mark.parametrize(
    "short",
    [
        pytest.param(lambda patch: patch.setattr(os, "pipe2", no_more), id="pipe"),
        pytest.param(lambda patch: patch.setattr(os, "memfd_create", no_more), id="board"),
        pytest.param(lambda patch: patch.setattr(os, "pidfd_open", no_more), id="pidfd"),
    ],
)
async def test_a_worker_for_which_descriptors_are_short_leaves_none(
    monkeypatch, no_collection, short
):
    text, before = spec("test:"), descriptors()
    with monkeypatch.context() as patch:
        short(patch)
        with pytest.raises(OSError, match="Too many open files") as caught:
            async with open_worker(text):
                raise AssertionError("it cannot be watched")
    assert descriptors() == before, caught


def test_a_process_without_a_descriptor_to_watch_it_by_is_ended(monkeypatch):
    """Nobody would wait for it, or end it."""
    started: list[subprocess.Popen[bytes]] = []
    really = subprocess.Popen

    def start(*args: object, **options: object) -> subprocess.Popen[bytes]:
        started.append(really([sys.executable, "-c", "import time; time.sleep(60)"]))
        return started[0]

    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setattr(os, "pidfd_open", no_more)
    try:
        with pytest.raises(OSError, match="Too many open files"):
            start_module("lva.video.worker.main")
        assert started[0].returncode == -9
    finally:
        started[0].kill()
        started[0].wait()
