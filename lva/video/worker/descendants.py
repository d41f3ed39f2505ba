"""What analytics plugins have started, counted in the worker; the service compares it with its limits.

The worker adopts what is left by processes below it, so that all of them are in its tree.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from lva.video.board import Board
from lva.video.orphans import children

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def note_descendants(board: Board) -> None:
    """Count the processes below this one, and write it down; what nobody can wait for is reaped."""
    alive = ended = size = 0
    here = os.getpid()
    ahead = [*children(here)]
    while ahead:
        pid = ahead.pop()
        memory = _memory(pid)
        if memory is not None:
            alive += 1
            size += memory
            ahead += children(pid)
        elif not _reap_adopted(pid, here):
            ended += 1
    board["processes"], board["ended_processes"], board["processes_bytes"] = alive, ended, size


def _memory(pid: int) -> int | None:
    """Return the memory of a process in bytes, what it shares by its share; None if it has ended."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii")
        (line,) = (line for line in text.splitlines() if line.startswith("Pss:"))
        return int(line.split()[1]) * 1024
    except ProcessLookupError:
        return None
    except (OSError, ValueError):  # another user's by now, or a kernel without it
        with suppress(OSError):
            return int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]) * _PAGE
        return None


def _reap_adopted(pid: int, here: int) -> bool:
    """Reap a process that has ended, if it is sure that its own parent has, too: else that may wait for it.

    It is so if neither this process nor itself began its session: its parent, or one before it, has.
    """
    with suppress(OSError):
        if os.getsid(pid) not in {pid, os.getsid(here)}:
            return os.waitpid(pid, os.WNOHANG)[0] == pid
    return False
