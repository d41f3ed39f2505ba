"""Whether a thread that did not run slept by its own choice, or may have been kept from running.

When a thread is to give the interpreter to another one, CPython lets it wait until that one has taken it,
without an end and without waking up in between. If the other one gets no processor, that looks like a sleep.
"""

from __future__ import annotations

import threading
from collections import deque
from contextlib import suppress
from time import perf_counter
from typing import Final

from lva.host.watch.readings import Reading, ThreadReader

_MOST_KEPT: Final = 1000


class OthersWaits:
    """For how long other threads have waited for a processor. In the watching thread only.

    Resources: a descriptor for each thread, until `close`.

    Args:
        watched: The `threading.get_native_id()` of the thread that is none of the others.
    """

    def __init__(self, watched: int) -> None:
        self._watched = watched
        self._readers: dict[int, ThreadReader] = {}
        self._queued: dict[int, float] = {}
        self._sum = 0.0
        #: When it was looked, and the sum of all waits until then.
        self._sums: deque[tuple[float, float]] = deque(maxlen=_MOST_KEPT)
        self.look()

    def look(self) -> None:
        """Take note of the waits until now; of a thread that is new, since its beginning."""
        ids = {thread.native_id for thread in threading.enumerate()} - {None, self._watched}
        for ended in self._readers.keys() - ids:
            self._forget(ended)
        for native_id in ids:
            assert native_id is not None
            if native_id not in self._readers:
                self._readers[native_id] = ThreadReader(native_id, None)
            try:
                queued = self._readers[native_id].queued()
            except OSError:  # the thread has ended
                self._forget(native_id)
                continue
            self._sum += queued - self._queued.get(native_id, 0.0)
            self._queued[native_id] = queued
        self._sums.append((perf_counter(), self._sum))

    def between(self, begun: float, ended: float) -> float:
        """Return the sum of all waits between two times that are over, at most, in seconds."""
        if self._sums[-1][0] < ended:
            self.look()
        before = [until for at, until in self._sums if at <= begun]
        after = [until for at, until in self._sums if at >= ended]
        return after[0] - (before[-1] if before else self._sums[0][1])

    def _forget(self, native_id: int) -> None:
        self._queued.pop(native_id, None)
        with suppress(OSError):  # a plugin may have closed it
            self._readers.pop(native_id).close()

    def close(self) -> None:
        """Give the descriptors back."""
        for native_id in list(self._readers):
            self._forget(native_id)


class SeenAsleep:
    """What looks from another thread, which then had the interpreter, tell of one stretch of a thread."""

    def __init__(self) -> None:
        self._begun = 0.0
        self._own = 0.0
        self._certain = 0.0
        self._last: Reading

    def note(self, begun: float, before: Reading, now: Reading) -> None:
        """Take note of a look at the thread, if it did not run.

        Args:
            begun: When the stretch began.
            before: What was known of the thread before it began.
            now: What is known by the look.
        """
        if now.runnable:
            return
        if begun != self._begun:
            self._begun, self._certain = begun, 0.0
            if now.turns == before.turns is not None:
                self._certain = now.at - begun - (now.used - before.used)
        else:
            self._certain += _one_sleep(self._last, now)
        self._last = now
        waited = now.queued - before.queued + now.may_have_waited_since(before)
        self._own = now.at - begun - waited

    def own(self, begun: float) -> float:
        """Return what the stretch that began then took by its own doing until the last look, in seconds."""
        return self._own if begun == self._begun else 0.0

    def certain(self, begun: float, after: Reading) -> float:
        """Return for how long it slept by its own choice beyond doubt, in seconds, until a last reading."""
        return self._certain + _one_sleep(self._last, after) if begun == self._begun else 0.0


def _one_sleep(asleep: Reading, now: Reading) -> float:
    """Return for how long a thread that was seen asleep has slept on.

    Who waits for the interpreter is woken again and again. Whom another thread keeps waiting until it has
    taken the interpreter is woken once that looks.
    """
    if asleep.turns is None or now.turns is None or now.turns - asleep.turns > 1:
        return 0.0
    return max(0.0, now.at - asleep.at - (now.queued - asleep.queued) - (now.used - asleep.used))
