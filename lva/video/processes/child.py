"""Processes that the service starts for streams, and how each tells that it has ended."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import trio


class Child(Protocol):
    """A process.

    Attributes:
        pid: Its process id.
        pidfd: A descriptor that stands for it, and is ready once it has ended; who has the child closes it.
    """

    pid: int
    pidfd: int

    async def exit_code(self) -> int:
        """Wait until it has ended, with its group; return its code, negative for a signal."""


class OwnChild:
    """A process that is reaped by us.

    Raises:
        OSError: There is no descriptor for it; the process has ended then.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.pid: int = process.pid
        try:
            self.pidfd: int = os.pidfd_open(process.pid)
        except OSError:
            process.kill()
            process.wait()
            raise
        self._process = process

    async def exit_code(self) -> int:
        """Wait until it has ended; see `Child`."""
        await trio.lowlevel.wait_readable(self.pidfd)
        with suppress(ProcessLookupError):  # until it is reaped, the number is nobody else's
            os.killpg(self.pid, signal.SIGKILL)
        return self._process.wait()


def has_ended(child: Child) -> bool:
    """Return whether a process has ended, reaped or not."""
    poll = select.poll()
    poll.register(child.pidfd, select.POLLIN)
    return bool(poll.poll(0))


def start_module(module: str, *descriptors: int) -> OwnChild:
    """Run a module of ours in a process that gets descriptors, and our process id, as its arguments.

    It is started in this very thread. The kernel sends a child the signal of its parent's death when the
    *thread* that started it ends: a worker thread's end would be taken for the service's.

    Resources: the process and its pidfd are the caller's, to be ended and to be closed.

    Raises:
        OSError: No process can be had.
    """
    arguments = [sys.executable, "-P", "-m", module, *map(str, (*descriptors, os.getpid()))]
    return OwnChild(
        subprocess.Popen(  # noqa: S603 - our own program, no text of a user's
            arguments,
            pass_fds=descriptors,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=_environment(),
        )
    )


def _environment() -> dict[str, str]:
    """Return its environment: no secrets of the service's settings, one thread for each library."""
    kept = {k: v for k, v in os.environ.items() if not k.upper().startswith("LUNA_VIDEO_AGENT")}
    package = str(Path(__file__).parents[3])
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")
    threads = dict.fromkeys(names, "1")
    return {
        **threads,
        **kept,
        "PYTHONPATH": os.pathsep.join(filter(None, [package, kept.get("PYTHONPATH")])),
    }
