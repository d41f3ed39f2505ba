"""Locks on open files that end with the process that took them: no child that it forks keeps one.

A lock belongs to what was opened, and a forked child has that open too. One that outlives the service would
keep the next one out.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import Final

#: The descriptors with locks that this process has taken.
_held: Final[set[int]] = set()


def take(descriptor: int) -> None:
    """Lock an open file for this process alone, until `close`.

    Raises:
        BlockingIOError: Somebody else has locked it.
        OSError: It cannot be locked.
    """
    _held.add(descriptor)  # first: another thread may fork at any time
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        _held.discard(descriptor)
        raise


def close(descriptor: int) -> None:
    """Close a file, locked or not.

    Raises:
        OSError: It is not open.
    """
    _held.discard(descriptor)
    os.close(descriptor)


def _let_go() -> None:
    for descriptor in _held:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)
