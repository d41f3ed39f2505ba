"""What the benchmarks of streams share: a file of video, and the CPU time of a process."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import av
import numpy as np


def write_video(path: Path, size: tuple[int, int], frames: int) -> None:
    """Write an H.264 file of moving noise, 25 frames a second."""
    width, height = size
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 255, (height, width * 2, 3), np.uint8) // 4
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(frames):
            x = number * 3 % width
            array = np.ascontiguousarray(noise[:, x : x + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(stream.encode(None))


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of all threads of a process so far, to the nanosecond."""
    return time.clock_gettime(~pid << 3 | 2)  # clock_getcpuclockid(3)
