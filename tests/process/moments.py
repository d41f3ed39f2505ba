"""Random moments, from a seed that a failure shows.

`LVA_STORM_SEED` chooses others. `LVA_STORM=1` runs the long forms of the tests, each time with another seed.
"""

from __future__ import annotations

import os
import random
import time

LONG = os.environ.get("LVA_STORM") == "1"
SEED = os.environ.get("LVA_STORM_SEED") or (str(time.time_ns() % 1_000_000) if LONG else "0")


def moment(what: str, after: str, number: int, longest: float) -> float:
    """Return a random time, in seconds, and print what it takes to have it again."""
    seconds = random.Random(f"{SEED}/{after}/{number}").uniform(0, longest)
    print(f"{what} {seconds:.4f} s after {after}; LVA_STORM_SEED={SEED}, number {number}")
    return seconds
