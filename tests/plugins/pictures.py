"""Generated pictures for the tests of analytics plugins."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import av
import numpy as np

from lva import AnalyticsEvent, AnalyticsStream, BaseAnalyticsPlugin
from lva.video.frame import Frame
from lva.video.geometry import Region

WIDTH, HEIGHT = 160, 120


def scene(width: int = WIDTH, height: int = HEIGHT) -> Any:
    """Return a picture with edges: 40 rectangles of different brightness on a slope."""
    random = np.random.default_rng(3)
    picture = np.full((height, width), 90, np.float32)
    for _ in range(40):
        x, y = random.integers(0, width), random.integers(0, height)
        w, h = random.integers(width // 30, width // 6), random.integers(height // 30, height // 5)
        picture[y : y + h, x : x + w] = random.integers(30, 220)
    return picture + np.linspace(0, 30, width)[np.newaxis]


def noisy(picture: Any, sigma: float, seed: int) -> Any:
    """Return a picture with a camera's noise."""
    return picture + np.random.default_rng(seed).normal(0, sigma, picture.shape)


def blurred(picture: Any, sigma: float) -> Any:
    """Return a picture out of focus."""
    reach = np.arange(-int(3 * sigma) - 1, int(3 * sigma) + 2)
    kernel = np.exp(-(reach**2) / (2 * sigma**2))
    kernel /= kernel.sum()
    padded = np.pad(picture, len(reach) // 2, mode="edge")
    for axis in (0, 1):
        padded = np.apply_along_axis(np.convolve, axis, padded, kernel, "valid")
    return padded


def frame(
    picture: Any, pts: float, number: int = 1, roi: Region | None = None, droi: Region | None = None
) -> Frame:
    """Return a frame of a picture, whose numbers are cut to those of bytes."""
    array = np.clip(picture, 0, 255).astype(np.uint8)
    return Frame(av.VideoFrame.from_ndarray(array, format="gray"), number, pts, True, roi, droi)


def seen(
    cls: type[BaseAnalyticsPlugin],
    pictures: Iterable[Any],
    rate: float = 10,
    view: tuple[Region | None, Region | None] = (None, None),
    **config: Any,
) -> list[tuple[float, AnalyticsEvent]]:
    """Return the events of an analytics plugin, each with its time, as it looks at pictures.

    Args:
        cls: The plugin.
        pictures: Pictures or frames.
        rate: Pictures a second.
        view: The stream's region of interest, and that of results.
        config: The plugin's parameters.
    """
    assert cls.Config is not None
    plugin = cls(cls.Config(**config), logging.getLogger("lva.test"))
    plugin.open(AnalyticsStream("1", "door"))
    found = []
    for number, picture in enumerate(pictures):
        shown = (
            picture
            if isinstance(picture, Frame)
            else frame(picture, number / rate, number + 1, *view)
        )
        found += [(shown.pts, event) for event in plugin.handleFrame(shown) or ()]  # type: ignore[union-attr]
    plugin.close()
    return found


def types(found: list[tuple[float, AnalyticsEvent]]) -> list[str]:
    """Return the types of events."""
    return [event.event_type for _, event in found]
