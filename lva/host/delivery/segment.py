"""A run of points in a spool: in memory, on disk, or both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from lva.host.delivery.spool_file import Rows

#: Most points of one segment, and roughly most bytes.
MOST_POINTS: Final = 1000
MOST_BYTES: Final = 1024 * 1024
#: Most seconds between the first and the last point of segments that become one: they grow old together.
_SPAN: Final = 10.0


@dataclass(eq=False, slots=True)
class Segment:
    """A run of points that is stored, or will be, as one row, or as a few that follow one another.

    Attributes:
        number: Its place in the order, and the number of its first row.
        last: The number of its last row.
        since: When its oldest point was accepted, in Trio time.
        count: How many points it has.
        size: Its size in bytes, of the encoded points once it is stored.
        left: How many of the points are not settled yet.
        points: The points, or None while they are only on disk or no longer needed. Never None while a
            part of them is taken and a part is not.
        taken: How many points have been taken from it.
        stored: Whether it is on disk.
    """

    number: int
    since: float
    count: int = 0
    size: int = 0
    left: int = 0
    points: list[Any] | None = field(default_factory=list)
    taken: int = 0
    stored: bool = False
    last: int = 0

    def __post_init__(self) -> None:
        self.last = self.number

    def add(self, points: Sequence[Any], size: int) -> None:
        """Append points, none of which is settled, to those in memory."""
        assert self.points is not None
        self.points.extend(points)
        self.count += len(points)
        self.left += len(points)
        self.size += size

    @property
    def waiting(self) -> int:
        """How many points can still be taken from it."""
        return self.count - self.taken

    @property
    def rows(self) -> Rows:
        """The numbers of its first and its last row."""
        return self.number, self.last

    def absorb(self, after: Segment, most: int) -> bool:
        """Make another stored segment part of this one; return whether that can be.

        It can if both are small, follow one another, and nothing of them is taken.

        Args:
            after: The other.
            most: Most points of one segment.
        """
        if not (
            self.last + 1 == after.number
            and self.left == self.waiting == self.count
            and after.left == after.waiting == after.count
            and self.count + after.count <= most
            and self.size + after.size <= MOST_BYTES
            and after.since - self.since <= _SPAN
        ):
            return False
        if self.points is not None:
            self.points += after.points or ()
        self.last = after.last
        self.count += after.count
        self.left += after.left
        self.size += after.size
        return True
