"""Ends this process at a time, by the kernel: also when it is stopped by a signal, or never gets to run.

Its clock goes on while the machine is suspended.
"""

from __future__ import annotations

import signal
from typing import Final

from lva.boot_clock import BOOT_CLOCK
from lva.posix_timers import PosixTimer

#: A time that is over; zero would be never.
_OVER: Final = 1e-9


class EndTimer:
    """One timer of this process; it is not a forked child's.

    Resources: a timer of the kernel's, until the process ends.

    Raises:
        OSError: The kernel has none for us.
    """

    def __init__(self) -> None:
        self._timer = PosixTimer(BOOT_CLOCK, signal.SIGKILL)

    def set(self, at: float | None) -> None:
        """End the process at a time, instead of the one before; at once, if that is over.

        Args:
            at: As `lva.boot_clock.boot_time` will return it; None for never.
        """
        self._timer.set_at(0 if at is None else max(_OVER, at))
