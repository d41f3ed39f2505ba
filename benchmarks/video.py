"""What the benchmarks of streams share: video, and what a process needs of processor and memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np


def write_video(path: Path, size: tuple[int, int], frames: int) -> None:
    """Write an H.264 file of moving noise, 25 frames a second."""
    with av.open(str(path), "w") as container:
        for _ in encode(container, size, frames, 25):
            pass


def encode(
    container: Any, size: tuple[int, int], frames: int, rate: int, gop: int = 250
) -> Iterator[int]:
    """Write moving noise as H.264 into a container, a slice for each picture; yield after each frame."""
    width, height = size
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 255, (height, width * 2, 3), np.uint8) // 4
    options = {"preset": "veryfast", "tune": "zerolatency"} if gop < 250 else {"preset": "veryfast"}
    stream = container.add_stream("libx264", rate=rate, options=options)
    stream.width, stream.height, stream.pix_fmt, stream.gop_size = width, height, "yuv420p", gop
    # Else each picture would be as many slices as there are processors.
    stream.codec_context.thread_type = "FRAME"
    for number in range(frames):
        x = number * 3 % width
        array = np.ascontiguousarray(noise[:, x : x + width])
        container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        yield number
    container.mux(stream.encode(None))


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of all threads of a process so far, to the nanosecond."""
    return time.clock_gettime(~pid << 3 | 2)  # clock_getcpuclockid(3)


def memory(pid: int) -> dict[str, float]:
    """Return what a process needs, in MiB: `Pss`, `Pss_Anon`, `Pss_File`, `Private_Dirty` and others."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
    fields = (line.split() for line in lines)
    return {name.rstrip(":"): int(kibibytes) / 1024 for name, kibibytes, *_ in fields}
