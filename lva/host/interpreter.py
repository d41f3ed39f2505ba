"""What the interpreter keeps from a thread that watches: its lock, and its garbage collections.

A C function that keeps the interpreter's lock (a big `json.dumps`, a regular expression that goes astray)
lets no other thread run, the watching one included, and by the time that one may run, what was going on may
be over. So an alarm is set that goes off in the midst of it: a signal, whose handler Python runs in the main
thread as its very next thing.
"""

from __future__ import annotations

import atexit
import gc
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, Generic, TypeVar

T = TypeVar("T")

#: How many sightings of the alarm are kept until somebody takes them.
_MOST_SEEN: Final = 1000
#: The system rounds the interval of a timer by less, in seconds.
_SAME_TIMER: Final = 0.001
#: Shorter collections, in seconds, are not kept.
_WORTH_KEEPING: Final = 0.005


class StarvationAlarm(Generic[T]):
    """Looks at the main thread when no other has run for long, and then again and again.

    Its signal is SIGPROF, which is there for profilers, by a timer that counts the processor time of the
    process. It hardly ever goes off, since whoever can run sets it anew each time. System calls go on after
    it. A program that handles SIGPROF itself keeps it, and has no alarm; so does one that begins to later,
    such as a profiler that a plugin starts.

    Args:
        look: Called in the main thread with its frame; may not fail, and is to be quick.
    """

    def __init__(self, look: Callable[[FrameType | None], T]) -> None:
        self._look = look
        self._seen: deque[T] = deque(maxlen=_MOST_SEEN)
        self._installed = False
        self._then = 0.0

    def install(self) -> None:
        """Handle the signal, if this is the main thread and nobody else does."""
        if threading.current_thread() is threading.main_thread() and signal.getsignal(
            signal.SIGPROF
        ) in {signal.SIG_DFL, signal.SIG_IGN}:
            signal.signal(signal.SIGPROF, self._handle)
            signal.siginterrupt(signal.SIGPROF, False)
            self._installed = True
            # Python sets the default back when it ends, and a late signal would then be its end.
            atexit.register(self.remove)

    def set(self, first: float, then: float) -> None:
        """Let it go off after so many seconds of processor time, and not as told before. Any thread.

        Args:
            first: Until the first time; 0 for never.
            then: From each time to the next.
        """
        if self._still_ours():
            self._then = then
            signal.setitimer(signal.ITIMER_PROF, first, then)

    def take(self) -> list[T]:
        """Return, and forget, what was seen; the oldest first. Any thread."""
        seen = []
        while self._seen:
            seen.append(self._seen.popleft())
        return seen

    def remove(self) -> None:
        """Let it never go off again. In the main thread."""
        if self._still_ours():
            self._installed = False
            atexit.unregister(self.remove)
            signal.setitimer(signal.ITIMER_PROF, 0)
            # A signal that is under way must not meet the default, which is to end the process.
            signal.signal(signal.SIGPROF, signal.SIG_IGN)

    def _still_ours(self) -> bool:
        """Return whether the signal is handled here; if it is no longer, let go of it for good."""
        if self._installed and signal.getsignal(signal.SIGPROF) != self._handle:
            self._installed = False
            # The default would end the process. A timer that somebody else has set since is theirs.
            interval = signal.getitimer(signal.ITIMER_PROF)[1]
            if abs(interval - self._then) < _SAME_TIMER:
                signal.setitimer(signal.ITIMER_PROF, 0)
        return self._installed

    def _handle(self, _number: int, frame: FrameType | None) -> None:
        self._seen.append(self._look(frame))


class Collections:
    """When garbage was collected lately, which holds up every thread and is nobody's fault."""

    def __init__(self) -> None:
        self._begun: float | None = None
        self._recent: deque[tuple[float, float]] = deque(maxlen=100)

    def install(self) -> None:
        """Begin to take note."""
        gc.callbacks.append(self._note)

    def remove(self) -> None:
        """Take note no longer."""
        gc.callbacks.remove(self._note)

    def seconds_between(self, moment: float, end: float) -> float:
        """Return how much of some time collections took; one that is about to end counts, too."""
        taken = [*self._recent]
        if (begun := self._begun) is not None:
            taken.append((begun, end))
        return sum(max(0.0, min(until, end) - max(since, moment)) for since, until in taken)

    def recent_since(self, moment: float) -> list[tuple[float, float]]:
        """Return when collections began and ended (`time.monotonic()`) that ended after a moment."""
        return [times for times in list(self._recent) if times[1] > moment]

    def _note(self, phase: str, _info: dict[str, Any]) -> None:
        now = time.monotonic()
        if phase == "start":
            self._begun = now
        elif self._begun is not None:
            if now - self._begun >= _WORTH_KEEPING:
                self._recent.append((self._begun, now))
            self._begun = None
