"""Processes that outlived the one that started them: this process adopts those below it, and finds them."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

_PR_SET_CHILD_SUBREAPER: Final = 36
_MARK: Final = "LVA_WORKER"


def adopt_orphans() -> None:
    """Become the parent of all processes below this one whose own parent ends."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children() -> Iterator[int]:
    """Yield the process id of each child of this process, of ended ones too; it has one thread.

    The kernel's own list is one short read; where there is none, all processes are looked at.
    """
    here = os.getpid()
    with suppress(FileNotFoundError):
        yield from map(int, Path(f"/proc/{here}/task/{here}/children").read_text("ascii").split())
        return
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it ended meanwhile
            if path.read_text("latin-1").rpartition(")")[2].split()[1] == str(here):
                yield int(path.parent.name)


def mark_as_worker() -> None:
    """Let what this process starts be known by its environment, even if it leaves the session."""
    os.environ[_MARK] = str(os.getpid())


def is_of_worker(pid: int, worker: int) -> bool:
    """Return whether a process was started by a worker: it is of its session, or has its mark."""
    with suppress(OSError):
        if os.getsid(pid) == worker:
            return True
        return f"{_MARK}={worker}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(
            b"\0"
        )
    return False
