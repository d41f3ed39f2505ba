"""An alarm that sees the line inside a C function which keeps the interpreter.

Such a function (a big `json.dumps`, a regular expression that goes astray) lets no other thread run, one that
watches included, and by the time that one may run, it is over. So a signal goes off in the midst of it, whose
handler Python runs in the main thread as its very next thing.
"""

from __future__ import annotations

import atexit
import signal
import threading
from collections.abc import Callable
from types import FrameType

from lva.host.watch.thread_timer import Timer, new_timer


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
        self._installed = False
        self._timer: Timer

    def install(self) -> None:
        """Handle the signal, if this is the main thread and nobody else does."""
        if threading.current_thread() is threading.main_thread() and signal.getsignal(
            signal.SIGPROF
        ) in {signal.SIG_DFL, signal.SIG_IGN}:
            signal.signal(signal.SIGPROF, self._handle)
            signal.siginterrupt(signal.SIGPROF, False)
            self._timer = new_timer()
            self._installed = True
            # Python sets the default back when it ends, and a late signal would then be its end.
            atexit.register(self.remove)

    def put_off(self) -> None:
        """Let the time until it goes off begin anew. Any thread."""
        if self._still_ours():
            self._timer.set(self._first, self._then)

    def remove(self) -> None:
        """Let it never go off again. In the main thread."""
        if self._still_ours():
            self._installed = False
            atexit.unregister(self.remove)
            self._timer.close()
            # A signal that is under way must not meet the default, which is to end the process.
            signal.signal(signal.SIGPROF, signal.SIG_IGN)

    def _still_ours(self) -> bool:
        """Return whether the signal is handled here; if it is no longer, let go of it for good."""
        if self._installed and signal.getsignal(signal.SIGPROF) != self._handle:
            self._installed = False
            self._timer.close()  # the default would end the process
        return self._installed

    def _handle(self, _number: int, frame: FrameType | None) -> None:
        if not self._look(frame) and self._still_ours():
            self._timer.set(0, 0)
