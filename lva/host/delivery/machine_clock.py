"""The clocks that tell how old stored points are, across restarts, and when the wall clock is set meanwhile.

A machine without a battery begins in the year 1970, or where it was when it was switched off, until NTP has
set its clock. Within a process ages count on the monotonic clock; this is for what outlives it.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Final

#: Before this time, in Unix seconds (2024), no clock is right.
PLAUSIBLE: Final = 1_704_067_200.0
#: A smaller step, in seconds, is no jump.
STEP: Final = 1.0
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class MachineClock:
    """The machine's clocks.

    Attributes:
        boot: Tells one run of the machine from another; empty where nobody knows.
    """

    def __init__(self) -> None:
        self.boot: str = ""
        with suppress(OSError):
            self.boot = _BOOT_ID.read_text(encoding="ascii").strip()

    def wall(self) -> float:
        """Return the time in Unix seconds, right or wrong."""
        return time.time()

    def since_boot(self) -> float:
        """Return for how many seconds the machine has run, sleep included; nobody can set this clock."""
        return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))

    def offset(self) -> float:
        """Return what the wall clock says of when the machine began to run."""
        return self.wall() - self.since_boot()


def told(jump: float) -> str:
    """Return for people by how much a clock was set: ``"forward by 9855 days"``."""
    amount, unit = (abs(jump) / 86_400, "days") if abs(jump) >= 172_800 else (abs(jump), "s")
    return f"{'forward' if jump > 0 else 'back'} by {amount:.0f} {unit}"
