"""The process that workers are forked from; `remains` starts it.

It imports once what each worker needs, and runs nothing of a plugin's and no decoder: it has one thread. A
worker that it forks is as one that was just started: a session of its own, the descriptors that it was given
and no others, and the signal of its parent's death.

What analytics plugins start is in the tree of their worker, which adopts orphans. When the worker ends it
becomes this process's child, and is ended: all children are workers, or such remains.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import math
import os
import resource
import selectors
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Final, NoReturn

import pydantic

from lva.video.orphans import adopt_orphans, children
from lva.video.processes.end_timer import EndTimer
from lva.video.worker import main as worker

#: Seconds, after the end of the service, for the end of all that it has left.
PATIENCE: Final = 1.0
#: Most descriptors of this process, as far as it may have more than it was given: each worker needs two.
DESCRIPTORS: Final = 65_536


class Forks:
    """Forks a process for each order, and reports its end.

    An order is four descriptors: three for the worker, and a socket for reports. The first report is the
    process id with a pidfd, or an error's number below zero; the second is the exit code. A message without
    descriptors is the time at which this process and all workers end, see `lva.video.processes.end_timer`.

    Args:
        orders: The socket they come from.
        masters: A pidfd of the service's, and others of processes without which this one ends.
    """

    def __init__(self, orders: socket.socket, *masters: int) -> None:
        self._orders = orders
        self._masters = masters
        self._selector = selectors.DefaultSelector()
        for each in (orders.fileno(), *masters):
            self._selector.register(each, selectors.EVENT_READ)
        self._end_timer: EndTimer | None = None

    def serve(self) -> list[int]:
        """Return in the forked processes only, with the worker's descriptors.

        Resources: of each worker a pidfd and its socket for reports, until it is reaped; a forked process has
        closed all of them when this returns. Once a master has ended, or nobody can order any more, all
        workers are killed, and this process ends.

        Errors: if no process can be forked, that is reported; any other error ends this process, and with it,
        by the kernel, all workers.
        """
        while True:
            for key, _ in self._selector.select():
                if key.data is not None:
                    self._reap(key.fd, *key.data)
                elif key.fd in self._masters:
                    self._end()
                elif (descriptors := self._order()) is not None:
                    return descriptors

    def _order(self) -> list[int] | None:
        text, descriptors, _, _ = socket.recv_fds(self._orders, 32, 4)
        if not text:  # the service has gone, or wants no more
            self._end()
        if not descriptors:
            self._end_at(float(text))
            return None
        *descriptors, last = descriptors
        reports = socket.socket(fileno=last)
        try:
            pid = os.fork()
        except OSError as error:
            _report(reports, -(error.errno or 1))
            reports.close()
        else:
            if pid == 0:
                reports.close()
                self._close()
                return descriptors
            pidfd = os.pidfd_open(pid)
            self._selector.register(pidfd, selectors.EVENT_READ, (pid, reports))
            _report(reports, pid, pidfd)
        for descriptor in descriptors:
            os.close(descriptor)
        return None

    def _end_at(self, at: float) -> None:
        if self._end_timer is None:
            self._end_timer = EndTimer()
        self._end_timer.set(at if at < math.inf else None)

    def _close(self) -> None:
        """Close all that is no worker's."""
        for key in list(self._selector.get_map().values()):
            os.close(key.fd)
            if key.data is not None and key.data[1] is not None:
                key.data[1].close()
        self._selector.close()
        self._orders.detach()

    def _reap(self, pidfd: int, pid: int, reports: socket.socket | None) -> None:
        self._selector.unregister(pidfd)
        os.close(pidfd)
        if reports is not None:  # a worker, the first of its group and session
            with contextlib.suppress(
                ProcessLookupError
            ):  # until it is reaped, its number is nobody else's
                os.killpg(pid, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if reports is not None:
            _report(reports, code)
            reports.close()
        self._end_remains()

    def _end_remains(self) -> None:
        """End the children that a worker has left, or one of those; theirs are found as they are reaped."""
        known = {key.data[0] for key in self._selector.get_map().values() if key.data is not None}
        for pid in children(os.getpid()):
            if pid not in known:
                self._selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, None))
                os.kill(pid, signal.SIGKILL)

    def _end(self) -> NoReturn:
        """End all processes and this one."""
        until = time.monotonic() + PATIENCE
        for each in (self._orders.fileno(), *self._masters):
            self._selector.unregister(each)
        for key in self._selector.get_map().values():
            os.kill(key.data[0], signal.SIGKILL)
        self._end_remains()
        while self._selector.get_map() and (left := until - time.monotonic()) > 0:
            for key, _ in self._selector.select(left):
                self._reap(key.fd, *key.data)
        os._exit(0)


def _report(reports: socket.socket, number: int, *descriptors: int) -> None:
    with contextlib.suppress(ConnectionError):  # nobody waits for it any more
        socket.send_fds(reports, [str(number).encode()], descriptors)


def _import_common() -> None:
    """Import what most analytics plugins do. With more threads than one, NumPy starts them in doing so."""
    pydantic.create_model(
        "Parameters", number=(int, 1)
    )  # much of it is imported when it is first used
    if os.environ.get("OPENBLAS_NUM_THREADS") == "1":
        importlib.import_module("numpy")


def run(orders: int, *masters: int) -> None:
    """Fork workers; each goes on here as one. See `Forks`."""
    adopt_orphans()
    _import_common()
    alone = len([*Path("/proc/self/task").iterdir()]) == 1
    gc.disable()
    gc.freeze()  # what is not looked at is not copied
    server = os.getpid()
    given, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(given, min(most, DESCRIPTORS)), most))
    descriptors = Forks(socket.socket(fileno=orders), *masters).serve()
    resource.setrlimit(resource.RLIMIT_NOFILE, (given, most))
    gc.enable()
    os.setsid()
    arguments = [*map(str, descriptors), str(server)]
    if not alone:  # a process with threads may fork only to run another program
        for descriptor in descriptors:
            os.set_inheritable(descriptor, True)
        command = [sys.executable, "-P", "-m", worker.__name__, *arguments]
        os.execv(command[0], command)  # noqa: S606 - our own program
    if (numpy_random := sys.modules.get("numpy.random")) is not None:
        numpy_random.seed()  # older versions of NumPy import it at once; Python's own does so itself
    sys.argv[1:] = arguments
    worker.main()
