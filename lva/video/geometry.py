"""Parts of a picture."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Region:
    """A rectangle in pixels, from the upper left corner of the picture.

    Attributes:
        x: Its left edge.
        y: Its upper edge.
        width: Its width.
        height: Its height.
    """

    x: int
    y: int
    width: int
    height: int

    def within(self, width: int, height: int) -> Region:
        """Return the part of it that is within a picture of this size.

        Raises:
            ValueError: No part of it is.
        """
        left, top = max(self.x, 0), max(self.y, 0)
        right, bottom = min(self.x + self.width, width), min(self.y + self.height, height)
        if right <= left or bottom <= top:
            raise ValueError(f"{self} is outside of the picture of {width}x{height}")
        return Region(left, top, right - left, bottom - top)
