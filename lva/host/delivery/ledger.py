"""The account of one event class's points. At every moment::

accepted = delivered + rejected + dropped + queued + in_flight + kept
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final, cast

from typing_extensions import TypedDict

from lva.documents import Count

#: Reasons for which points are dropped.
OVERFLOW: Final = "overflow"
ATTEMPTS: Final = "max_attempts"
AGE: Final = "max_age"
SHUTDOWN: Final = "shutdown"
FAILED: Final = "plugin_failed"
DAMAGED: Final = "spool_damaged"
REMOVED: Final = "class_removed"
#: Those of points that nobody would deliver any more: each is dropped once, and that is said there.
ENDS: Final = frozenset({SHUTDOWN, FAILED, REMOVED})


class LedgerCounts(TypedDict):
    """What became of the points since the service started.

    accepted = delivered + rejected + dropped + queued + in_flight + kept.
    """

    accepted: Count
    """Entered the mailbox, those from an earlier run included."""
    delivered: Count
    """Were in a call of handleEvent() that returned."""
    rejected: Count
    """Were called wrong for ever."""
    dropped: dict[str, Count]
    """Will not be delivered, by reason."""
    queued: Count
    """Wait in the mailbox."""
    in_flight: Count
    """Are in a call, or wait for their next attempt."""
    kept: Count
    """Are left in the spool for the next run."""
    recovered: Count
    """Of the accepted, those that an earlier run had left."""
    refused: Count
    """Came when no more were taken; not among the accepted."""
    filtered: Count
    """Were not for the plugin, by its settings; not among the accepted."""
    retries: Count
    """Calls that were repeated attempts."""


@dataclass(slots=True)
class Ledger:
    """The account of one event class's points, since the service started; see `LedgerCounts`."""

    accepted: int = 0
    delivered: int = 0
    rejected: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    queued: int = 0
    in_flight: int = 0
    kept: int = 0
    recovered: int = 0
    refused: int = 0
    filtered: int = 0
    retries: int = 0

    @property
    def waiting(self) -> int:
        """Points that are neither delivered nor dropped, and not left to the next run."""
        return self.queued + self.in_flight

    @property
    def lost(self) -> int:
        """Dropped points, for whatever reason."""
        return self.dropped.total()

    @property
    def balanced(self) -> bool:
        """Whether every accepted point is in exactly one place."""
        return self.accepted == (
            self.delivered + self.rejected + self.lost + self.queued + self.in_flight + self.kept
        )

    def add(self, other: Ledger) -> None:
        """Add the counts of another ledger to these."""
        for name in self.__slots__:
            value = getattr(other, name)
            if name == "dropped":
                self.dropped.update(value)
            else:
                setattr(self, name, getattr(self, name) + value)

    def take_back(self, recovered: int) -> None:
        """Count as queued what was kept, now that the spool is open again.

        Args:
            recovered: How many points were found in it.
        """
        if (missing := self.kept - recovered) > 0:
            self.dropped[DAMAGED] += missing
        came = max(0, recovered - self.kept)
        self.accepted += came
        self.recovered += came
        self.queued += recovered
        self.kept = 0

    def as_dict(self) -> LedgerCounts:
        """Return the counts for status pages and the receipt."""
        counts = {name: getattr(self, name) for name in self.__slots__}
        return cast("LedgerCounts", {**counts, "dropped": dict(self.dropped)})
