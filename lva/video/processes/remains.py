"""Ends what workers leave when the process that they are forked from is killed. Run as ``python -m``.

That process goes on in a child of this one, which imports next to nothing, has no other work, and outlives
it. Workers end with that process, by the signal of their parent's death; what their analytics plugins started
becomes a child of this one then. Each of the two ends with the other: both would have to be killed at once
for something to be left.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from contextlib import suppress
from typing import Final

from lva.video.orphans import adopt_orphans, children

#: Seconds, after the end of the service, for the child to end all; and then for what it has left.
PATIENCE: Final = 1.5
_AFTER_KILL: Final = 1.0


def watch(child: int, service: int) -> None:
    """Wait for the child's end; end all that is left then.

    Args:
        child: Its process id.
        service: A pidfd of the service's, which the child does not outlive for long.
    """
    pidfd = os.pidfd_open(child)
    ended, _, _ = select.select([pidfd, service], [], [])
    if pidfd not in ended and not select.select([pidfd], [], [], PATIENCE)[0]:
        os.kill(child, signal.SIGKILL)  # it is stopped, or hangs
    os.waitpid(child, 0)
    until = time.monotonic() + _AFTER_KILL
    while (left := [*children(os.getpid())]) and time.monotonic() < until:
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        for pid in left:  # until it is reaped, its number is nobody else's; its children come then
            _reap(pid, until)


def _reap(pid: int, until: float) -> None:
    pidfd = os.pidfd_open(pid)
    if select.select([pidfd], [], [], max(0.0, until - time.monotonic()))[0]:
        os.waitpid(pid, 0)
    os.close(pidfd)


def main() -> None:
    """Start the child, and watch it."""
    orders, parent = (int(argument) for argument in sys.argv[1:3])
    service, here = os.pidfd_open(parent), os.pidfd_open(os.getpid())
    if os.getppid() != parent:  # it has ended
        os._exit(3)
    adopt_orphans()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    child = os.fork()
    if child:
        os.close(orders)
        watch(child, service)
        os._exit(0)
    os.setsid()  # this process's group is ended with it
    from lva.video.processes import forking

    with suppress(KeyboardInterrupt):
        forking.run(orders, service, here)


if __name__ == "__main__":
    main()
