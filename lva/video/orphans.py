"""Processes below this one: their list, and those that outlived the one that started them."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

_PR_SET_CHILD_SUBREAPER: Final = 36


def adopt_orphans() -> None:
    """Become the parent of all processes below this one whose own parent ends; no child of this one does."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def children(parent: int) -> Iterator[int]:
    """Yield the process id of each child of a process, of ended ones too.

    The kernel's own lists, one for each thread, are short reads; where there are none, all processes are
    looked at.
    """
    try:
        threads = [*Path(f"/proc/{parent}/task").iterdir()]
    except OSError:  # it has ended, and was reaped
        return
    for thread in threads:
        try:
            pids = (thread / "children").read_text("ascii")
        except FileNotFoundError:
            if thread.exists():
                yield from _by_parent(parent)
                return
        except ProcessLookupError:  # the thread has ended
            continue
        else:
            yield from map(int, pids.split())


def _by_parent(parent: int) -> Iterator[int]:
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it ended meanwhile
            if path.read_text("latin-1").rpartition(")")[2].split()[1] == str(parent):
                yield int(path.parent.name)
