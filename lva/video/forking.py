"""The process that workers are forked from. Run as ``python -m lva.video.forking``.

It imports once what each worker needs, and runs nothing of a plugin's and no decoder: it has one thread. A
worker that it forks is as one that was just started: a session of its own, the descriptors that it was given
and no others, and the signal of its parent's death.

What analytics plugins start becomes this process's child when its own parent ends, and is ended with the
worker; what cannot be known to be a worker's ends with the service, which this process outlives for that.
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

from lva.video import worker
from lva.video.end_timer import EndTimer
from lva.video.orphans import adopt_orphans, children, is_of_worker, mark_as_worker

#: Seconds, after the end of the service, for the end of all that it has left.
PATIENCE: Final = 1.0
#: Most descriptors of this process, as far as it may have more than it was given: each worker needs two.
DESCRIPTORS: Final = 65_536


class Forks:
    """Forks a process for each order, and reports its end.

    An order is four descriptors: three for the worker, and a socket for reports. The first report is the
    process id with a pidfd, or an error's number below zero; the second is the exit code. A message without
    descriptors is the time at which this process and all workers end, see `lva.video.end_timer`.

    Args:
        orders: The socket they come from.
        service: A pidfd of the service's.
    """

    def __init__(self, orders: socket.socket, service: int) -> None:
        self._orders = orders
        self._service = service
        self._selector = selectors.DefaultSelector()
        for each in (orders, service):
            self._selector.register(each, selectors.EVENT_READ)
        self._ending = False
        self._killed: set[int] = set()  # of the processes that were adopted
        self._end_timer: EndTimer | None = None

    def serve(self) -> list[int]:
        """Return in the forked processes only, with the worker's descriptors."""
        while True:
            for key, _ in self._selector.select():
                if key.data is not None:
                    self._reap(key.fd, *key.data)
                elif key.fd == self._service:
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
        if reports is not None or pid in self._killed:
            self._killed.discard(pid)
            self._end_orphans(pid)

    def _end_orphans(self, pid_of_worker: int) -> None:
        """End the children that a worker has left; all children, once the service has gone.

        Others, which may be a living worker's, are only adopted, and reaped once they end.
        """
        known = [key.data for key in self._selector.get_map().values() if key.data is not None]
        workers = {pid for pid, reports in known if reports is not None}
        adopted = {pid for pid, reports in known if reports is None}
        for pid in children():
            if pid in workers:
                continue
            if pid not in adopted:
                self._selector.register(os.pidfd_open(pid), selectors.EVENT_READ, (pid, None))
            if self._ending or is_of_worker(pid, pid_of_worker):
                os.kill(pid, signal.SIGKILL)
                self._killed.add(pid)

    def _end(self) -> NoReturn:
        """End all processes and this one."""
        until = time.monotonic() + PATIENCE
        self._ending = True
        for each in (self._orders, self._service):
            self._selector.unregister(each)
        for key in self._selector.get_map().values():
            os.kill(key.data[0], signal.SIGKILL)
        self._end_orphans(0)
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


def main() -> None:
    """Fork workers; each goes on here as one."""
    orders, parent = (int(argument) for argument in sys.argv[1:3])
    service = os.pidfd_open(parent)
    if os.getppid() != parent:  # it has ended
        os._exit(3)
    adopt_orphans()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _import_common()
    alone = len([*Path("/proc/self/task").iterdir()]) == 1
    gc.disable()
    gc.freeze()  # what is not looked at is not copied
    server = os.getpid()
    given, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(given, min(most, DESCRIPTORS)), most))
    descriptors = Forks(socket.socket(fileno=orders), service).serve()
    resource.setrlimit(resource.RLIMIT_NOFILE, (given, most))
    gc.enable()
    os.setsid()
    mark_as_worker()
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


if __name__ == "__main__":
    main()
