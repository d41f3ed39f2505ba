"""How often values of each size were seen."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

BATCH_SIZES: Final = (1, 10, 100, 1000, 10_000, 100_000)
DURATIONS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0)


class Histogram:
    """Counts values in Prometheus' manner.

    Args:
        bounds: The upper bounds of the buckets, rising; one without a bound follows.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds: Sequence[float] = bounds
        self.counts: list[int] = [0] * (len(bounds) + 1)
        self.sum: float = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value
