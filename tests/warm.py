"""A warm interpreter: it has imported the service, and forks for each one that a test starts.

Most of the start of `lva run` is importing, half a second of a core each time. What is forked is a process
of its own in all that tests look at: its group, signals, descriptors, environment and exit code. What depends
on how an interpreter begins (its options, its locale) is not: `starts_alike` tells.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

#: Most bytes of one order: a command line and an environment.
_LONGEST: Final = 1 << 20
#: Variables that Python or its C library read when an interpreter begins.
_READ_AT_START: Final = re.compile(r"PYTHON|LC_|LANG|TZ$|LD_|MALLOC_")


def starts_alike(environment: Mapping[str, str], warm: Mapping[str, str]) -> bool:
    """Return whether an interpreter would begin in the same way in both environments."""
    return _at_start(environment) == _at_start(warm)


def _at_start(environment: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in environment.items() if _READ_AT_START.match(key)}


class WarmProcess:
    """`lva` with some arguments, forked from a warm interpreter; used like `subprocess.Popen`.

    Args:
        arguments: Those of `lva`.
        cwd: Its current directory.
        environment: Its environment.
        apart: Whether its standard error comes by itself.

    Attributes:
        pid: Its process, which leads a group of its own.
        returncode: Its exit code once it has ended and somebody has waited; negative for a signal.
        stdout: What it prints, standard error included unless that is apart.
        stderr: What it prints there, if that is apart.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        cwd: Path,
        environment: Mapping[str, str],
        apart: bool = False,
    ) -> None:
        self._reports, reports = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pipes = [os.pipe() for _ in range(1 + apart)]
        readers = [open(reader, encoding="utf-8", errors="replace") for reader, _ in pipes]
        writers = [writer for _, writer in pipes]
        nothing = os.open(os.devnull, os.O_RDONLY)
        order = {"arguments": [*arguments], "cwd": str(cwd), "environment": dict(environment)}
        descriptors = [reports.fileno(), nothing, writers[0], writers[-1]]
        with reports:
            socket.send_fds(_orders(), [json.dumps(order).encode()], descriptors)
        for descriptor in (nothing, *writers):
            os.close(descriptor)
        self.stdout: IO[str] = readers[0]
        self.stderr: IO[str] | None = readers[1] if apart else None
        self.pid = int(self._reports.recv(64))
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        if self.returncode is None and select.select([self._reports], [], [], 0)[0]:
            self._take_report()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end and return the exit code.

        Raises:
            subprocess.TimeoutExpired: It still runs after so many seconds.
        """
        if self.returncode is None:
            if not select.select([self._reports], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("lva", timeout or 0.0)
            self._take_report()
        assert self.returncode is not None
        return self.returncode

    def _take_report(self) -> None:
        with self._reports:
            self.returncode = os.waitstatus_to_exitcode(int(self._reports.recv(64)))

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL, unless it has ended."""
        self.send_signal(signal.SIGKILL)


@functools.cache
def _orders() -> socket.socket:
    """Start the warm interpreter of this test process; it ends when this end of the socket is closed."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        theirs.set_inheritable(True)
        os.posix_spawn(
            sys.executable,
            [sys.executable, __file__, str(theirs.fileno())],
            warm_environment(),
            setpgroup=0,
        )
    return ours


def warm_environment() -> dict[str, str]:
    """Return the environment that the warm interpreter begins in."""
    from tests.support import clean_environment  # late: the warm interpreter needs no pytest

    return clean_environment()


# In the warm interpreter


def _take_orders(orders: socket.socket) -> None:
    """Fork for each order. Returns in the new processes only, as the process that was asked for."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the shepherds
    while True:
        data, descriptors, _, _ = socket.recv_fds(orders, _LONGEST, 4)
        if not data:
            os._exit(0)
        if os.fork() == 0:
            orders.close()
            _shepherd(data, descriptors)
            return
        for descriptor in descriptors:
            os.close(descriptor)


def _shepherd(data: bytes, descriptors: list[int]) -> None:
    """Fork, and report the process and its end. Returns in the forked process only."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        _become(json.loads(data), descriptors)
        return
    reports = socket.socket(fileno=descriptors[0])
    for descriptor in descriptors[1:]:
        os.close(descriptor)
    with contextlib.suppress(BrokenPipeError):  # the test has gone away
        reports.send(str(pid).encode())
        reports.send(str(os.waitpid(pid, 0)[1]).encode())
    os._exit(0)


def _become(order: dict[str, Any], descriptors: list[int]) -> None:
    """Be as if this process had just been started with these arguments, streams, and environment."""
    for standard, descriptor in enumerate(descriptors[1:]):
        os.dup2(descriptor, standard)
    for descriptor in descriptors:
        os.close(descriptor)
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["environment"])
    sys.path[0] = order["cwd"]
    sys.argv[1:] = order["arguments"]
    sys.stdin = open(0, encoding="utf-8", closefd=False)
    sys.stdout = open(1, "w", encoding="utf-8", buffering=1, closefd=False)
    sys.stderr = open(
        2, "w", encoding="utf-8", buffering=1, errors="backslashreplace", closefd=False
    )


if __name__ == "__main__":
    import lva.app  # noqa: F401 - to have it
    import lva.server.serve  # noqa: F401 - to have it
    from lva.cli import main

    gc.collect()
    gc.freeze()
    _take_orders(socket.socket(fileno=int(sys.argv[1])))
    gc.unfreeze()
    main()
