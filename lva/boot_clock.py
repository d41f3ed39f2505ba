"""The clock of what must not depend on the date: it is never set, and goes on during a suspension."""

from __future__ import annotations

import time
from typing import Final

BOOT_CLOCK: Final = time.CLOCK_BOOTTIME


def boot_time() -> float:
    """Return the seconds since the machine was started."""
    return time.clock_gettime(BOOT_CLOCK)
