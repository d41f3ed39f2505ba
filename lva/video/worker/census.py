"""What an analytics plugin used and left, counted within its worker for the test kit; the worker's side."""

from __future__ import annotations

import json
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from lva.video.orphans import children

#: The worker's own threads.
OWN: Final = frozenset({"control", "heartbeat", "reader", "previews"})
#: Frames between two looks at the memory, and seconds that threads and children have to end.
EVERY: Final = 20
PATIENCE: Final = 0.3
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class Census:
    """Made before the plugin is loaded.

    Args:
        path: Where the result is written, as JSON.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._threads = set(threading.enumerate())
        self._files = set(_files())
        self._children = _children()
        self._seconds: list[float] = []
        self._memory: list[int] = []

    def note(self, seconds: float) -> None:
        """Note how long a frame took."""
        self._seconds.append(seconds)
        if len(self._seconds) % EVERY == 0:
            statm = Path("/proc/self/statm").read_text(encoding="ascii")
            self._memory.append(int(statm.split()[1]) * _PAGE)

    def write(self) -> None:
        """Write what there is after the plugin's close."""
        self._path.write_text(
            json.dumps(
                {
                    "left": self._left(),
                    "seconds": self._seconds,
                    "memory": self._memory,
                    "every": EVERY,
                }
            ),
            encoding="utf-8",
        )

    def _left(self) -> list[str]:
        patience = time.monotonic() + PATIENCE
        while (left := self._now_left()) and time.monotonic() < patience:
            time.sleep(0.01)
        return left

    def _now_left(self) -> list[str]:
        left = [
            f"the thread {thread.name!r}"
            for thread in set(threading.enumerate()) - self._threads
            if thread.name not in OWN
        ]
        left += [f"the open file {target}" for target in sorted(set(_files()) - self._files)]
        return left + [f"the child process {pid}" for pid in sorted(_children() - self._children)]


def _files() -> list[str]:
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found.append(f"{entry.readlink()} (descriptor {entry.name})")
    return [item for item in found if "/proc/" not in item]


def _children() -> set[int]:
    return {*children(os.getpid())}
