"""Workers that are forked: they are as programs of their own, and no better or worse to end."""

from __future__ import annotations

import math
import os
import resource
import signal
import socket
import subprocess
import sys
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import psutil
import pytest
import trio

from lva.boot_clock import boot_time
from lva.video.processes.forks import ForkServer
from lva.video.processes.process import open_worker
from tests.support import until
from tests.video.worker.test_worker import spec

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
        assert psutil.Process(psutil.Process(server).ppid()).ppid() == os.getpid()
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
        assert os.getpid() in {each.pid for each in psutil.Process(worker.pid).parents()}


async def test_its_end_leaves_no_process():
    async with ForkServer() as forks, worker_at_work(forks) as worker:
        server = psutil.Process(worker.pid).parent()
        pids = worker.pid, server.pid, server.ppid()
    assert not any(map(psutil.pid_exists, pids))


async def test_a_low_limit_of_descriptors_is_each_worker_s_own(forks):
    """The kind is many workers: what they are forked from has two descriptors of each."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    low = len([*Path("/proc/self/fd").iterdir()]) + 20
    resource.setrlimit(resource.RLIMIT_NOFILE, (low, limits[1]))
    try:
        forks.warm_up()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    async with AsyncExitStack() as stack:
        for _ in range(low // 2):
            worker = await stack.enter_async_context(open_worker(spec("test:"), forks))
            stack.callback(worker.board.close)
        server = psutil.Process(worker.pid).ppid()
        assert len(psutil.Process(server).children()) == low // 2
        limit_of = partial(resource.prlimit, worker.pid, resource.RLIMIT_NOFILE)
        await until(lambda: limit_of()[0] == low)  # it is forked, and may not have run yet


async def test_no_room_for_a_descriptor_is_said():
    """The kind is a service that has as many as it may: a worker is forked, and its descriptor is cut off."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    forks = ForkServer()
    forks._child, forks._orders = "a process", trio.socket.from_stdlib_socket(ours)

    async def serve():
        await trio.lowlevel.wait_readable(theirs)
        _, descriptors, _, _ = socket.recv_fds(theirs, 16, 4)
        with socket.socket(fileno=descriptors.pop()) as reports:
            reports.send(b"123")
        for descriptor in descriptors:
            os.close(descriptor)

    with ours, theirs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            with pytest.raises(OSError, match="Too many open files"):
                await forks.fork(0, 1, 2)


async def test_they_end_at_a_time(forks):
    """The kind is what nobody is left to do: the service that would end its workers does not get to it."""
    async with worker_at_work(forks) as worker:
        await forks.end_at(boot_time() + 3600)
        await forks.end_at(boot_time() + 0.2)
        with trio.fail_after(10):
            assert await worker.wait() == -signal.SIGKILL
        with pytest.raises(TimeoutError, match="were to end"):
            await forks.fork(0, 0, 0)
    await forks.end_at(math.inf)
    async with worker_at_work(forks) as worker:
        assert worker.returncode is None


def test_the_kernel_ends_a_process_that_is_stopped():
    """So it does a child of it, by the signal of its parent's death."""
    program = """
import ctypes, os, signal
from lva.boot_clock import boot_time
from lva.video.processes.end_timer import EndTimer
child = os.fork()
if not child:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGSTOP)
os.waitpid(child, os.WUNTRACED)
timer = EndTimer()
timer.set(boot_time() + 3600)
timer.set(None)
timer.set(boot_time() + 0.2)
print(child, flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
print("goes on")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, timeout=20, check=False
    )
    assert (done.returncode, done.stderr) == (-signal.SIGKILL, b"")
    with suppress(psutil.NoSuchProcess):  # it has been reaped
        psutil.Process(int(done.stdout)).wait(10)
