"""An alarm that sees the line inside a C function which keeps the interpreter.

Such a function (a big `json.dumps`, a regular expression that goes astray) lets no other thread run, one that
watches included, and by the time that one may run, it is over. So a signal goes off in the midst of it, whose
handler Python runs in the main thread as its very next thing.
"""

from __future__ import annotations

import atexit
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Final

from lva.posix_timers import PosixTimer

#: The system rounds the interval of a timer by less, in seconds.
_SAME_TIMER: Final = 0.001


class Alarm:
    """Looks at the main thread when it has not put the alarm off for some time, then again and again.

    Its signal is SIGPROF, which is there for profilers, by a timer that counts the processor time of that
    thread. System calls go on after it. A program that handles SIGPROF itself keeps it, and has no alarm; so
    does one that begins to later, such as a profiler that a plugin starts.

    Args:
        first: The processor time until it goes off, in seconds.
        then: The same from each time to the next.
        look: Called in the main thread with its frame; returns whether to look again. May not fail, and is to
            be quick.
    """

    def __init__(self, first: float, then: float, look: Callable[[FrameType | None], bool]) -> None:
        self._first = first
        self._then = then
        self._look = look
        self._timer: PosixTimer | _ProcessTimer | None = None

    def install(self) -> None:
        """Handle the signal, if this is the main thread and nobody else does."""
        if threading.current_thread() is threading.main_thread() and signal.getsignal(
            signal.SIGPROF
        ) in {signal.SIG_DFL, signal.SIG_IGN}:
            signal.signal(signal.SIGPROF, self._handle)
            signal.siginterrupt(signal.SIGPROF, False)
            self._timer = _new_timer()
            # Python sets the default back when it ends, and a late signal would then be its end.
            atexit.register(self.remove)

    def put_off(self) -> None:
        """Let the time until it goes off begin anew. Any thread."""
        self._set(self._first, self._then)

    def remove(self) -> None:
        """Let it never go off again. In the main thread."""
        if self._still_ours():
            atexit.unregister(self.remove)
            self._let_go()
            # A signal that is under way must not meet the default, which is to end the process.
            signal.signal(signal.SIGPROF, signal.SIG_IGN)

    def _handle(self, _number: int, frame: FrameType | None) -> None:
        if not self._look(frame):
            self._set(0, 0)

    def _set(self, first: float, then: float) -> None:
        if self._timer is not None and self._still_ours():
            with suppress(OSError):  # a forked child has no timer
                self._timer.set_after(first, then)

    def _still_ours(self) -> bool:
        """Return whether the signal is handled here; if it is no longer, let go of it for good."""
        if self._timer is not None and signal.getsignal(signal.SIGPROF) != self._handle:
            self._let_go()  # the default would end the process
        return self._timer is not None

    def _let_go(self) -> None:
        if self._timer is not None:
            self._timer.close()
            self._timer = None


class _ProcessTimer:
    """Counts the processor time of the process, where a thread has no timer of its own."""

    def __init__(self) -> None:
        self._then = 0.0

    def set_after(self, first: float, then: float) -> None:
        self._then = then
        signal.setitimer(signal.ITIMER_PROF, first, then)

    def close(self) -> None:
        """Let it never go off again; one that somebody else has set since is theirs."""
        if abs(signal.getitimer(signal.ITIMER_PROF)[1] - self._then) < _SAME_TIMER:
            signal.setitimer(signal.ITIMER_PROF, 0)


def _new_timer() -> PosixTimer | _ProcessTimer:
    """Return a timer of this thread's processor time.

    One of the whole process goes off while the thread sleeps and others compute. To be woken, and to wait for
    a processor in the midst of a sleep, would make the sleep look like a wait.
    """
    if sys.platform == "linux":
        with suppress(OSError):
            return PosixTimer(
                time.CLOCK_THREAD_CPUTIME_ID, signal.SIGPROF, threading.get_native_id()
            )
    return _ProcessTimer()
