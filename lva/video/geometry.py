"""Rectangles of a picture in pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: What coordinates are in: pixels of the whole picture, or percent of its width and height.
Mode = Literal["abs", "percent"]


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
        part = self.overlap(Region(0, 0, width, height))
        if part is None:
            here = f"{self.width}x{self.height} at {self.x},{self.y}"
            raise ValueError(f"{here} is outside of the picture of {width}x{height}")
        return part

    def holds(self, other: Region) -> bool:
        """Return whether all of another region is within this one."""
        return (
            self.x <= other.x
            and self.y <= other.y
            and other.x + other.width <= self.x + self.width
            and other.y + other.height <= self.y + self.height
        )

    def overlap(self, other: Region) -> Region | None:
        """Return the part that is within another region; None if there is none."""
        left, top = max(self.x, other.x), max(self.y, other.y)
        right = min(self.x + self.width, other.x + other.width)
        bottom = min(self.y + self.height, other.y + other.height)
        if right <= left or bottom <= top:
            return None
        return Region(left, top, right - left, bottom - top)

    def as_dict(self) -> dict[str, int]:
        """Return it for the data of an event."""
        return {"x": self.x, "y": self.y, "width": self.width, "height": self.height}


def scale(mode: Mode, width: int, height: int) -> tuple[float, float]:
    """Return what coordinates are multiplied with to be pixels of a picture of this size."""
    return (width / 100, height / 100) if mode == "percent" else (1.0, 1.0)


def placed(
    x: float, y: float, width: float, height: float, mode: Mode, size: tuple[int, int]
) -> Region:
    """Return a rectangle's part of a picture, at least one pixel.

    Args:
        x, y, width, height: The rectangle, in the mode's units.
        mode: Pixels or percent.
        size: Width and height of the picture in pixels.

    Raises:
        ValueError: No part of it is within the picture.
    """
    across, down = scale(mode, *size)
    left, top = round(x * across), round(y * down)
    right, bottom = round((x + width) * across), round((y + height) * down)
    if mode == "percent":  # the last percent of a small picture is less than a pixel
        left, top = min(left, size[0] - 1), min(top, size[1] - 1)
    return Region(left, top, max(right - left, 1), max(bottom - top, 1)).within(*size)
