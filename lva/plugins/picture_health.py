"""Says when a stream's picture is black, too dark, covered, blurred or frozen, and when it is well again."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, Field

from lva import AnalyticsEvent, AnalyticsStream, BaseAnalyticsPlugin
from lva.video.episodes import Episode
from lva.video.looking import LookingConfig, Looks

if TYPE_CHECKING:
    import numpy as np

    from lva.video.frame import Frame

#: Longest edge of what is looked at, in cells; edges in a picture are measured in these.
LOOKED_AT = 640
#: Every how manieth row and column is looked at for edges, and within how many cells an edge lies.
EVERY = 6
REACH = 16
#: The share of places whose edges are the strongest, and the least step of brightness that is an edge.
STRONGEST = 0.05
LEAST_STEP = 8.0
#: How far a measure must go back over its limit until a state ends.
MARGIN = 1.15


class Config(LookingConfig):
    """The parameters of `picture_health`."""

    black_level: float = Field(
        32, ge=0, le=255, description="Black: nearly no cell is brighter than this, of 255."
    )
    black_share: float = Field(
        0.98, gt=0.5, le=1, description="Black: the share of cells that must be that dark."
    )
    dark_level: float = Field(
        45, ge=0, le=255, description="Too dark: the mean brightness is lower than this."
    )
    covered_contrast: float = Field(
        24,
        ge=0,
        le=255,
        description="Covered: brightness is nowhere further apart than this, but for a tenth.",
    )
    blurred_sharpness: float = Field(
        0.14,
        ge=0,
        le=1,
        description="Blurred: edges are less sharp; 1 for one cell (of 640), 0.14 for seven.",
    )
    frozen_level: float = Field(
        0.005,
        ge=0,
        le=255,
        description="Frozen: the mean difference from the picture before is at most this.",
    )
    frozen_seconds: float = Field(
        30.0, ge=0, le=86400, description="For how long a picture must be the same."
    )
    start_seconds: float = Field(
        3.0, ge=0, le=3600, description="For how long any other state must last until it starts."
    )
    end_seconds: float = Field(
        3.0, ge=0, le=3600, description="For how long a state must be over until it ends."
    )


class PictureHealth(BaseAnalyticsPlugin):
    """Measures brightness, contrast, sharpness and change, and compares each with a limit.

    A black picture is not called dark, too; and what is too dark or covered is not judged for its sharpness.
    """

    Config: ClassVar[type[BaseModel] | None] = Config

    def __init__(self, config: Any, logger: logging.Logger) -> None:
        super().__init__(config, logger)
        self._before: Any = None
        self._looks = Looks(self.config.interval)

    def open(self, stream: AnalyticsStream) -> None:
        """Begin with a picture that is well."""
        times = self.config.start_seconds, self.config.end_seconds
        self._episodes = {
            state: Episode(*times) for state in ("black", "dark", "covered", "blurred")
        }
        self._episodes["frozen"] = Episode(self.config.frozen_seconds, 0.0)

    def handleFrame(self, frame: Frame) -> Iterator[AnalyticsEvent]:
        """Yield ``black_start``, ``black_end`` and so on, with what was measured."""
        if not self._looks.is_due(frame.pts):
            return
        for state, (seen, measure) in self._states(frame).items():
            episode = self._episodes[state]
            change = episode.update(seen, frame.pts)
            if change == "start":
                picture = frame.jpeg() if self.config.image else b""
                yield AnalyticsEvent(f"{state}_start", {"measure": round(measure, 4)}, picture)
            elif change == "end":
                yield AnalyticsEvent(f"{state}_end", {"seconds": round(episode.seconds, 3)})

    def _states(self, frame: Frame) -> dict[str, tuple[bool | None, float]]:
        """Return for each state whether it is there, None if that cannot be said, and the measure of it."""
        import numpy as np

        config = self.config
        small = frame.small(LOOKED_AT)
        same = self._before is not None and self._before.shape == small.shape
        moved = np.abs(small - self._before) if same else None
        self._before = small
        low, high = np.percentile(small[::2, ::2], (5, 95))
        light = float((small > config.black_level).mean())
        mean = float(small.mean())
        black = _below(light, 1 - config.black_share)
        dark = False if black else _below(mean, config.dark_level)
        covered = False if black or dark else _below(float(high - low), config.covered_contrast)
        noise = 0.0 if moved is None else 1.4826 * float(np.median(moved[::3, ::3])) / 2**0.5
        sharp = None if black or dark or covered else _sharpness(small, noise)
        blurred = False if sharp is None else _below(sharp, config.blurred_sharpness)
        changed = None if moved is None else float(moved.mean())
        return {
            "black": (black, 1 - light),
            "dark": (dark, mean),
            "covered": (covered, float(high - low)),
            "blurred": (blurred, sharp or 0.0),
            "frozen": (changed is not None and changed <= config.frozen_level, changed or 0.0),
        }


def _below(measure: float, limit: float) -> bool | None:
    """Return whether a measure is below its limit; None for a little above, so that a state does not flap."""
    if measure <= limit:
        return True
    return None if measure <= limit * MARGIN else False


def _sharpness(picture: np.ndarray[Any, Any], noise: float) -> float | None:
    """Return which part of a strong edge's step is between two neighbours; None if noise hides all edges.

    That is 1 for an edge of one cell, a half for two, and so on, whatever the picture's contrast; 0 if there
    are no edges. Noise, which would pass for sharp edges, is taken off.
    """
    import numpy as np

    parts, steps = [], []
    for lines in (picture[::EVERY], picture[:, ::EVERY].T):
        if lines.shape[1] <= REACH:
            continue
        step = np.abs(lines[:, REACH:] - lines[:, :-REACH])
        largest = np.abs(np.diff(lines, axis=1))
        width = 1
        while width < REACH:  # the largest of 2, of 4, of 8, of 16 neighbours
            largest = np.maximum(largest[:, :-width], largest[:, width:])
            width *= 2
        steps.append(step.ravel())
        parts.append(largest[:, : step.shape[1]].ravel())
    if not steps:
        return None
    step, largest = np.concatenate(steps), np.concatenate(parts)
    strong = step >= max(float(np.quantile(step, 1 - STRONGEST)), LEAST_STEP + 4 * noise)
    if not strong.any():
        return None if 4 * noise > LEAST_STEP else 0.0
    clean = np.sqrt(np.maximum(largest[strong] ** 2 - (3 * noise) ** 2, 0))
    return float(np.median(np.minimum(clean / step[strong], 1)))
