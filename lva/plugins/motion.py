"""Sees motion: its start and its end, in the whole picture or in regions of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lva import AnalyticsEvent, AnalyticsStream, BaseAnalyticsPlugin
from lva.video.episodes import Episode
from lva.video.geometry import Region
from lva.video.shapes import Polygon, Rectangle, Shape, mask

if TYPE_CHECKING:
    import numpy as np

    from lva.video.frame import Frame

#: Longest edge of what is compared, in cells of some pixels each.
COMPARED = 160
#: What differs less than this many times a cell's noise is noise.
NOISES = 5.0
#: If this share of all cells differs, the light or the camera has changed, and nothing has moved.
ALL_OF_IT = 0.8
#: Every how manieth row and column is enough to estimate a median.
SAMPLED = 4
#: Cells that are darker say nothing about the exposure.
DARK = 16
#: How alike edges must be before and after, so that only the light on them has changed; 1 is the same.
SAME_EDGES = 0.75


class MotionRegion(BaseModel):
    """A part of the picture that is watched by itself: a rectangle or a polygon."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=100, description="Its name in events.")
    shape: Shape = Field(description="x, y, width, height; or points; and mode.")


class Config(BaseModel):
    """The parameters of `motion`."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    sensitivity: int = Field(
        50,
        ge=1,
        le=100,
        description="How easily it fires; each 25 more halve threshold and min_area.",
    )
    threshold: float = Field(
        20, ge=1, le=255, description="How much a cell's brightness must differ, of 255."
    )
    min_area: float = Field(
        0.005, gt=0, le=1, description="The share of the region that must differ."
    )
    adapt_seconds: float = Field(
        10.0, gt=0, le=86400, description="How quickly what changed becomes background."
    )
    start_seconds: float = Field(
        0.2, ge=0, le=3600, description="For how long there must be motion until it starts."
    )
    end_seconds: float = Field(2.0, ge=0, le=3600, description="Seconds without it until it ends.")
    cooldown_seconds: float = Field(
        0.0, ge=0, le=86400, description="For how long after an end there is no other start."
    )
    regions: list[MotionRegion] = Field(
        [],
        max_length=50,
        description="Parts that are watched each by itself, with name and shape; all, if empty.",
    )
    ignore: list[Shape] = Field(
        [], max_length=50, description="Parts that never count, such as a clock in the picture."
    )
    image: bool = Field(True, description="Whether the start has a JPEG of the frame.")

    @model_validator(mode="after")
    def _names_differ(self) -> Config:
        names = [region.name for region in self.regions]
        if len(set(names)) < len(names):
            raise ValueError("regions: give each a name of its own")
        return self


class Motion(BaseAnalyticsPlugin):
    """Compares each frame with a background that follows slowly.

    What is compared are cells of some pixels each. A change of the light is no motion: it leaves the edges in
    the picture where they are; nor is a change of all the picture, or a camera's noise, which is measured.
    """

    Config: ClassVar[type[BaseModel] | None] = Config

    def __init__(self, config: Any, logger: logging.Logger) -> None:
        super().__init__(config, logger)
        easier = 2.0 ** ((config.sensitivity - 50) / 25)
        self._threshold = config.threshold / easier
        self._min_area = min(config.min_area / easier, 1.0)

    def open(self, stream: AnalyticsStream) -> None:
        """Begin without a background."""
        self._background: Any = None
        self._before: Any = None
        self._pts = 0.0
        self._view: Any = None
        names = [region.name for region in self.config.regions] or [None]
        times = self.config.start_seconds, self.config.end_seconds, self.config.cooldown_seconds
        self._episodes = {name: Episode(*times) for name in names}

    def handleFrame(self, frame: Frame) -> Iterator[AnalyticsEvent]:
        """Yield ``motion_start`` and ``motion_end``, for each region."""
        differs = self._differing(frame)
        for (name, episode), cells in zip(self._episodes.items(), self._masks, strict=True):
            moving = differs & cells
            share = float(moving.sum()) / max(int(cells.sum()), 1)
            seen = (
                True if share >= self._min_area else None if share > self._min_area / 2 else False
            )
            change = episode.update(seen, frame.pts)
            if change is None:
                continue
            data: dict[str, Any] = {} if name is None else {"region": name}
            if change == "start":
                data |= {"area": round(share, 4), "box": self._box(moving, frame).as_dict()}
                picture = frame.jpeg() if self.config.image else b""
                yield AnalyticsEvent("motion_start", data, picture)
            else:
                data["seconds"] = round(episode.seconds, 3)
                yield AnalyticsEvent("motion_end", data)

    def _differing(self, frame: Frame) -> np.ndarray[Any, Any]:
        """Return which cells differ from the background, and let that follow."""
        import numpy as np

        small = frame.small(COMPARED)
        view = small.shape, frame.size, frame.roi, frame.droi
        elapsed, self._pts = frame.pts - self._pts, frame.pts
        if view != self._view or elapsed < 0:  # another size, or another connection
            self._view = view
            self._masks = self._new_masks(frame, small.shape)
            self._background = small.copy()
            self._before = small
            return np.zeros(small.shape, bool)
        noise = _spread(small - self._before) / 2**0.5
        self._before = small
        change = _changed(small, self._background)
        differs = _without_specks(np.abs(change) > max(self._threshold, NOISES * noise))
        if differs.mean() >= ALL_OF_IT or _only_light(differs, small, self._background, noise):
            self._background = small.copy()
            return np.zeros(small.shape, bool)
        self._background += (small - self._background) * -np.expm1(
            -elapsed / self.config.adapt_seconds
        )
        return differs

    def _new_masks(self, frame: Frame, shape: tuple[int, int]) -> list[np.ndarray[Any, Any]]:
        """Return which cells count, for each region."""
        import numpy as np

        # Shapes are of the whole picture: a grid over all of it, of which the region of interest is a part.
        roi, (width, height) = frame.roi, frame.size
        side = self._cell(frame, shape)

        def cells(part: Rectangle | Polygon) -> np.ndarray[Any, Any]:
            return mask(part, width, height, shape, (roi.x, roi.y), side)

        droi = frame.droi
        counts = cells(Rectangle(x=droi.x, y=droi.y, width=droi.width, height=droi.height))
        for part in self.config.ignore:
            counts &= ~cells(part)
        found = [counts & cells(region.shape) for region in self.config.regions]
        for region, inside in zip(self.config.regions, found, strict=True):
            if not inside.any():
                self.logger.warning(
                    "region %s is outside of the part of the picture that is looked at", region.name
                )
        return found or [np.asarray(counts)]

    @staticmethod
    def _cell(frame: Frame, shape: tuple[int, ...]) -> tuple[int, int]:
        """Return the width and height of a cell in pixels."""
        return frame.roi.width // shape[1], frame.roi.height // shape[0]

    def _box(self, moving: np.ndarray[Any, Any], frame: Frame) -> Region:
        """Return the box around cells, in pixels of the whole picture."""
        import numpy as np

        rows, columns = np.flatnonzero(moving.any(1)), np.flatnonzero(moving.any(0))
        across, down = self._cell(frame, moving.shape)
        left, top = int(columns[0]) * across, int(rows[0]) * down
        right, bottom = (int(columns[-1]) + 1) * across, (int(rows[-1]) + 1) * down
        box = Region(frame.roi.x + left, frame.roi.y + top, right - left, bottom - top)
        return box.overlap(frame.droi) or box


def _spread(values: np.ndarray[Any, Any]) -> float:
    """Return the standard deviation of most of these values, whatever the others are."""
    import numpy as np

    values = values[::SAMPLED, ::SAMPLED]
    return 1.4826 * float(np.median(np.abs(values - np.median(values))))


def _changed(now: np.ndarray[Any, Any], background: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return how much each cell differs, without what is the same for all: exposure, or a veil of light."""
    import numpy as np

    some, of = now[::SAMPLED, ::SAMPLED], background[::SAMPLED, ::SAMPLED]
    shift = np.median(some - of)
    bright = of > DARK
    if bright.mean() >= 0.5:
        scale = np.median(some[bright] / of[bright])
        if np.median(np.abs(some - of * scale)) < np.median(np.abs(some - of - shift)):
            return np.asarray(now - background * scale)
    return np.asarray(now - background - shift)


def _without_specks(cells: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Leave out cells without two neighbours in a row or column: noise, and a leaf here and there."""
    import numpy as np

    near = np.zeros(cells.shape, np.uint8)
    near[1:] += cells[:-1]
    near[:-1] += cells[1:]
    near[:, 1:] += cells[:, :-1]
    near[:, :-1] += cells[:, 1:]
    return cells & (near >= 2)


def _only_light(
    differs: np.ndarray[Any, Any],
    now: np.ndarray[Any, Any],
    background: np.ndarray[Any, Any],
    noise: float,
) -> bool:
    """Return whether where cells differ the edges are still the same: a lamp, a cloud, a shadow.

    Where the background has no edges there is nothing to tell by.
    """
    import numpy as np

    if not differs.any():
        return False
    before, after = _edges(background)[:, differs], _edges(now)[:, differs]
    strength = float(np.sqrt((before**2).mean() * (after**2).mean()))
    if float(np.sqrt((before**2).mean())) < max(2.0, 3 * noise):
        return False
    return float((before * after).mean()) >= SAME_EDGES * strength


def _edges(picture: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return how brightness changes from each cell to the next, to the right and downwards."""
    import numpy as np

    edges = np.zeros((2, *picture.shape), np.float32)
    edges[0, :, :-1] = np.diff(picture, axis=1)
    edges[1, :-1] = np.diff(picture, axis=0)
    return edges
