"""Processor time of the shipped analytics plugins for each frame, by the size of the frames.

A frame's arrays are made when they are asked for, so that this is part of what is measured; decoding is not.
It needs the extra ``video``, and shows those plugins whose libraries are installed.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import time
from pathlib import Path

import av
import numpy as np

import lva
from lva import AnalyticsStream, BaseAnalyticsPlugin
from lva.video.frame import Frame

SIZES = ((320, 240), (640, 360), (1280, 720), (1920, 1080))
FRAMES = 60


def pictures(width: int, height: int) -> list[av.VideoFrame]:
    """Return pictures as a decoder gives them: moving ones, with a camera's noise."""
    container = av.open(
        f"testsrc2=size={width}x{height}:rate=10,noise=alls=8:allf=t", format="lavfi"
    )
    decoded = container.decode(video=0)
    return [next(decoded).reformat(format="yuv420p") for _ in range(FRAMES)]


def plugins() -> dict[str, type[BaseAnalyticsPlugin]]:
    """Return the shipped analytics classes by their plugins' names."""
    found = {}
    for path in sorted((Path(lva.__file__).parent / "plugins").glob("[!_]*.py")):
        try:
            module = importlib.import_module(f"lva.plugins.{path.stem}")
        except ImportError as error:
            print(f"{path.stem}: {error}")
            continue
        for cls in vars(module).values():
            own = inspect.isclass(cls) and cls.__module__ == module.__name__
            if own and issubclass(cls, BaseAnalyticsPlugin):
                found[path.stem] = cls
    return found


def measured(cls: type[BaseAnalyticsPlugin], shown: list[av.VideoFrame]) -> tuple[float, float]:
    """Return the mean and the largest processor time of a frame, in milliseconds."""
    config = {} if cls.Config is None else cls.Config()
    plugin = cls(config, logging.getLogger("bench"))
    plugin.open(AnalyticsStream("1", "bench"))
    taken = []
    for number, picture in enumerate(shown):
        frame = Frame(picture, number + 1, number / 10, number == 0)
        begun = time.thread_time()
        list(plugin.handleFrame(frame) or ())
        taken.append((time.thread_time() - begun) * 1000)
    plugin.close()
    return float(np.mean(taken[1:])), max(taken[1:])


def main() -> None:
    print("ms of one core a frame (largest)")
    for size in SIZES:
        shown = pictures(*size)
        for name, cls in plugins().items():
            mean, largest = measured(cls, shown)
            print(f"{size[0]:5}x{size[1]:<5} {name:16} {mean:7.2f} ({largest:.1f})")


if __name__ == "__main__":
    main()
