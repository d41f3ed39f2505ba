"""When garbage was collected lately: that holds up every thread, and is no plugin's doing."""

from __future__ import annotations

import gc
import threading
import time
from collections import deque
from typing import Any, Final, NamedTuple

#: Shorter collections, in seconds, are not kept.
_WORTH_KEEPING: Final = 0.005


class Collection(NamedTuple):
    """One garbage collection: when it began and ended (`time.perf_counter()`), and in which thread."""

    begun: float
    ended: float
    thread: int


class Collections:
    """Takes note of the interpreter's garbage collections, between `install` and `remove`."""

    def __init__(self) -> None:
        self._begun = 0.0
        self._recent: deque[Collection] = deque(maxlen=100)

    def install(self) -> None:
        """Begin to take note."""
        gc.callbacks.append(self._note)

    def remove(self) -> None:
        """Take note no longer."""
        gc.callbacks.remove(self._note)

    def seconds_between(self, begun: float, ended: float, thread: int | None = None) -> float:
        """Return how much of a time collections took; those in one thread, or all. Any thread may call."""
        return sum(
            max(0.0, min(one.ended, ended) - max(one.begun, begun))
            for one in list(self._recent)
            if thread in {None, one.thread}
        )

    def _note(self, phase: str, _info: dict[str, Any]) -> None:
        now = time.perf_counter()
        if phase == "start":
            self._begun = now
        elif now - self._begun >= _WORTH_KEEPING:
            self._recent.append(Collection(self._begun, now, threading.get_ident()))
