"""Rectangles and polygons as users write them: in pixels, or in percent of the picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeAlias

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from lva.video.geometry import Mode, Region, placed, scale

if TYPE_CHECKING:
    import numpy as np


class _Shape(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")


class Rectangle(_Shape):
    """A rectangle of the picture, from its upper left corner."""

    x: float = Field(0.0, ge=0)
    y: float = Field(0.0, ge=0)
    width: float = Field(gt=0)
    height: float = Field(gt=0)
    mode: Mode = Field("abs", description="abs: pixels; percent: of the picture.")

    @model_validator(mode="after")
    def _within(self) -> Rectangle:
        if self.mode == "abs":
            if not all(value.is_integer() for value in (self.x, self.y, self.width, self.height)):
                raise ValueError("x, y, width and height are whole numbers where mode is abs")
        elif self.x + self.width > 100 or self.y + self.height > 100:
            raise ValueError("x + width and y + height are at most 100 where mode is percent")
        return self

    def region(self, width: int, height: int) -> Region:
        """Return its part of a picture of this size, at least one pixel.

        Raises:
            ValueError: No part of it is within the picture.
        """
        return placed(self.x, self.y, self.width, self.height, self.mode, (width, height))

    def corners(self) -> list[tuple[float, float]]:
        """Return its corners."""
        right, bottom = self.x + self.width, self.y + self.height
        return [(self.x, self.y), (right, self.y), (right, bottom), (self.x, bottom)]


class Polygon(_Shape):
    """A polygon of the picture; it is closed by itself."""

    points: list[tuple[float, float]] = Field(
        min_length=3, max_length=100, description="Corners, as pairs of x and y."
    )
    mode: Mode = Field("abs", description="abs: pixels; percent: of the picture.")

    @model_validator(mode="after")
    def _within(self) -> Polygon:
        most = 100.0 if self.mode == "percent" else float("inf")
        if not all(0 <= value <= most for point in self.points for value in point):
            limit = " and at most 100" if self.mode == "percent" else ""
            raise ValueError(f"points: each number is at least 0{limit}")
        return self

    def corners(self) -> list[tuple[float, float]]:
        """Return its corners."""
        return self.points


def _kind(value: Any) -> str:
    points = "points" in value if isinstance(value, Mapping) else isinstance(value, Polygon)
    return "polygon" if points else "rectangle"


#: A rectangle, or what has points: a polygon. So it is clear of which of them a wrong one lacks something.
Shape: TypeAlias = Annotated[
    Annotated[Rectangle, Tag("rectangle")] | Annotated[Polygon, Tag("polygon")],
    Discriminator(_kind),
]


def mask(
    shape: Rectangle | Polygon,
    width: int,
    height: int,
    cells: tuple[int, int],
    origin: tuple[float, float] = (0, 0),
    cell: tuple[float, float] | None = None,
) -> np.ndarray[Any, Any]:
    """Return which cells of a grid over a picture are within a shape, by their centres.

    Args:
        shape: The rectangle or polygon; what is outside of the picture is cut off.
        width, height: The picture's size in pixels.
        cells: Rows and columns of the grid.
        origin: x and y of the grid's upper left corner.
        cell: Width and height of a cell in pixels; as large as fills the picture, if left out.

    Returns:
        numpy.ndarray: Of booleans, rows by columns.
    """
    import numpy as np

    rows, columns = cells
    across, down = scale(shape.mode, width, height)
    corners = [(x * across, y * down) for x, y in shape.corners()]
    cell_width, cell_height = cell or (width / columns, height / rows)
    x = origin[0] + (np.arange(columns) + 0.5) * cell_width
    y = (origin[1] + (np.arange(rows) + 0.5) * cell_height)[:, np.newaxis]
    inside = np.zeros((rows, columns), bool)
    # Even-odd rule: each edge to the left of which a centre is turns it inside out.
    for (x1, y1), (x2, y2) in zip(corners, [*corners[1:], corners[0]], strict=True):
        if y1 != y2:
            crosses = (y1 <= y) != (y2 <= y)
            inside ^= crosses & (x < x1 + (y - y1) * ((x2 - x1) / (y2 - y1)))
    return inside
