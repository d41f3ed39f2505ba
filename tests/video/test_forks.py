"""Workers that are forked: they are as programs of their own, and no better or worse to end."""

from __future__ import annotations

import os
import signal
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
import trio

from lva.video.forks import ForkServer
from lva.video.process import open_worker
from tests.video.test_worker import spec

pytestmark = pytest.mark.slow("starts real worker processes")


@pytest.fixture
async def forks():
    async with ForkServer() as forks:
        yield forks


@asynccontextmanager
async def worker_at_work(forks, source="test:?rate=25"):
    """A worker that has sent frames."""
    async with open_worker(spec(source), forks) as worker:
        await worker.send({"type": "connect", "timeout": 3})
        with trio.fail_after(30):
            while (received := await worker.receive()) is not None:
                if received[0]["type"] == "frames":
                    break
        yield worker
    worker.board.close()


def descriptors(pid: int) -> set[str]:
    return {str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()}


async def test_a_forked_worker_is_as_one_that_was_started(forks):
    """The kind is what a process inherits: session, environment, descriptors, threads, exit code."""
    async with worker_at_work(forks) as one, worker_at_work(forks) as other:
        server = psutil.Process(one.pid).ppid()
        assert psutil.Process(server).ppid() == os.getpid()
        assert os.getsid(one.pid) == one.pid
        assert not any("LUNA" in name for name in psutil.Process(other.pid).environ())
        shared = descriptors(one.pid) & descriptors(other.pid)
        assert not [name for name in shared if name.startswith(("socket:", "anon_inode:"))]
        await one.stop()
        assert (one.rung, one.returncode) == ("message", 0)
        other.kill()
        assert await other.wait() == -signal.SIGKILL
        assert not psutil.pid_exists(one.pid)
        assert not psutil.pid_exists(other.pid)


async def test_the_process_that_workers_are_forked_from_may_die(forks):
    """The kind is the one process that all workers have in common: they end with it, and others come."""
    async with worker_at_work(forks) as worker:
        os.kill(psutil.Process(worker.pid).ppid(), signal.SIGKILL)
        with trio.fail_after(10):
            assert await worker.wait() == -signal.SIGKILL
    async with worker_at_work(forks) as worker:
        assert worker.returncode is None
        assert psutil.Process(psutil.Process(worker.pid).ppid()).ppid() == os.getpid()


async def test_its_end_leaves_no_process():
    async with ForkServer() as forks, worker_at_work(forks) as worker:
        pids = worker.pid, psutil.Process(worker.pid).ppid()
    assert not any(map(psutil.pid_exists, pids))
