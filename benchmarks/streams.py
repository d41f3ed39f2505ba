"""Frames a second through one stream, beside a bare decode loop of PyAV on the same file.

The file is H.264, as cameras send it, and the stream has an analytics plugin that does nothing. It needs the
extra ``video``.
"""

from __future__ import annotations

import hashlib
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import trio

from lva.video.definition import StreamDefinition
from lva.video.source import parse_source
from lva.video.stream import Stream, StreamServices
from lva.video.supervisor import Supervisor

SIZE, FRAMES, ROUNDS = (640, 360), 1500, 5
GOAL = 0.9
NOTHING = """
from lva import BaseAnalyticsPlugin

class Nothing(BaseAnalyticsPlugin):
    def handleFrame(self, frame):
        pass
"""
BARE = """
import av, sys, time
container = av.open(sys.argv[1])
stream = container.streams.video[0]
stream.thread_type = "NONE"
begun = time.perf_counter()
count = sum(1 for _ in container.decode(stream))
print(count, time.perf_counter() - begun, time.process_time())
"""


def write_video(path: Path) -> None:
    """Write a file of moving noise."""
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 255, (SIZE[1] * 2, SIZE[0] * 2, 3), np.uint8) // 4
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for number in range(FRAMES):
            x = number * 3 % SIZE[0]
            array = np.ascontiguousarray(noise[: SIZE[1], x : x + SIZE[0]])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(stream.encode(None))


def bare(path: Path) -> tuple[float, float]:
    """Return frames a second, and CPU milliseconds a frame, of a bare loop in a process of its own."""
    told = subprocess.run(
        [sys.executable, "-c", BARE, str(path)], check=True, capture_output=True, text=True
    )
    count, seconds, cpu = map(float, told.stdout.split())
    return count / seconds, cpu / count * 1000


class _Silent:
    def changed(self, change: object) -> None:
        """Ignore it."""

    def seen(self, event: object) -> None:
        """Ignore it."""


async def streamed(path: Path, plugin: Path) -> tuple[float, float]:
    """Return frames a second from the first frame on, and CPU milliseconds a frame, of a stream."""
    spec = {
        "name": "nothing", "path": str(plugin), "module": "lva_plugins.nothing", "class": "Nothing",
        "class_module": "lva_plugins.nothing", "parameters": {},
        "files": {str(plugin): hashlib.sha256(plugin.read_bytes()).hexdigest()},
    }  # fmt: skip
    definition = StreamDefinition.model_validate(
        {"name": "bench", "source": str(path), "analytics": [{"name": "nothing"}]}
    )
    services = StreamServices(
        lambda _: [spec], _Silent(), logging.getLogger("bench"), trio.lowlevel.checkpoint
    )
    source = parse_source(str(path), directories=[path.parent])
    stream = Stream("bench", definition, source, services)
    stream.move(stream.state, "created")
    begun, cpu = 0.0, 0.0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Supervisor(stream).run)
        while (decoded := stream.ledger.counts()["decoded"]) < FRAMES:
            if decoded and not begun:
                begun, first = time.perf_counter(), decoded
            if stream.worker is not None:
                times = psutil.Process(stream.worker.pid).cpu_times()
                cpu = times.user + times.system
            await trio.sleep(0.005)
        seconds = time.perf_counter() - begun
    assert stream.ledger.frames()["analysed"] == FRAMES
    return (FRAMES - first) / seconds, cpu / FRAMES * 1000


def main() -> None:
    """Print both and their ratio."""
    logging.disable()
    with tempfile.TemporaryDirectory() as name:
        path, plugin = Path(name, "video.mp4"), Path(name, "nothing.py")
        plugin.write_text(NOTHING, encoding="utf-8")
        write_video(path)
        ratios = []
        for _ in range(ROUNDS):
            bare_fps, bare_cpu = bare(path)
            fps, cpu = trio.run(streamed, path, plugin)
            ratios.append(fps / bare_fps)
            print(
                f"bare {bare_fps:7.0f} frames/s, {bare_cpu:.3f} ms CPU a frame"
                f"    stream {fps:7.0f} frames/s, {cpu:.3f} ms CPU a frame"
            )
    middle = statistics.median(ratios)
    print(
        f"ratio stream/bare: median {middle:.3f} (min {min(ratios):.3f}, max {max(ratios):.3f});"
        f" goal >= {GOAL:.2f}; {os.cpu_count()} processors"
    )


if __name__ == "__main__":
    main()
