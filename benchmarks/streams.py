"""Frames a second through one stream, beside others that decode the same file: PyAV, OpenCV and ffmpeg.

The file is H.264, as cameras send it; the stream has an analytics plugin that does nothing. All take turns,
each in a process of its own, and are measured from the first frame on. They decode with the threads that they
choose themselves, a bare loop of PyAV also with those of the stream. It needs the extra ``video``; OpenCV and
ffmpeg are left out where they are missing.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import trio
from video import cpu_seconds, write_video

from lva.video.definition import StreamDefinition
from lva.video.source import parse_source
from lva.video.supervision.stream import Stream, StreamServices
from lva.video.supervision.supervisor import Supervisor
from lva.video.worker.decoder import MOST_THREADS

#: Seconds between two looks at a worker's counts; each takes a little of the processors.
LOOK = 0.02
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "10"))
FILES = (((640, 360), 3000), ((1280, 720), 1000))
THREADS = min(MOST_THREADS, len(os.sched_getaffinity(0)))
NOTHING = """
from lva import BaseAnalyticsPlugin

class Nothing(BaseAnalyticsPlugin):
    def handleFrame(self, frame):
        pass
"""
# Each prints the seconds from the first frame on, the CPU seconds from then on, and the frames.
PYAV = """
import av, sys, time
container = av.open(sys.argv[1])
stream = container.streams.video[0]
if int(sys.argv[2]):
    stream.thread_type, stream.codec_context.thread_count = "AUTO", int(sys.argv[2])
frames = container.decode(stream)
next(frames)
begun, cpu = time.perf_counter(), time.process_time()
count = sum(1 for _ in frames)
print(time.perf_counter() - begun, time.process_time() - cpu, count)
"""
OPENCV = """
import cv2, sys, time
capture = cv2.VideoCapture(sys.argv[1], cv2.CAP_FFMPEG)
capture.read()
begun, cpu = time.perf_counter(), time.process_time()
count = 0
while capture.read()[0]:
    count += 1
print(time.perf_counter() - begun, time.process_time() - cpu, count)
"""
PIPE = """
import resource, subprocess, sys, time
path, size = sys.argv[1], int(sys.argv[2]) * int(sys.argv[3]) * 3 // 2
command = ["ffmpeg", "-v", "error", "-i", path, "-f", "rawvideo", "-pix_fmt", "yuv420p", "-"]
with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
    child.stdout.read(size)
    begun = time.perf_counter()
    cpu = time.process_time() + time.clock_gettime(~child.pid << 3 | 2)
    count = 0
    while len(child.stdout.read(size)) == size:
        count += 1
    seconds = time.perf_counter() - begun
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(seconds, time.process_time() + used.ru_utime + used.ru_stime - cpu, count)
"""
#: Frames a second, and CPU milliseconds a frame.
Result = tuple[float, float]


def script(text: str, *arguments: object) -> Result:
    """Run a program that prints its seconds, CPU seconds and frames."""
    command = [sys.executable, "-c", text, *map(str, arguments)]
    told = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, cpu, count = map(float, told.stdout.split())
    return count / seconds, cpu / count * 1000


class _Silent:
    def changed(self, change: object) -> None:
        """Ignore it."""

    def seen(self, event: object) -> None:
        """Ignore it."""


async def streamed(path: Path, plugin: Path, frames: int) -> Result:
    """Let a stream's worker look at a file."""
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
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Supervisor(stream).run)
        while not (first := stream.ledger.counts()["decoded"]) or stream.worker is None:
            await trio.sleep(0.002)
        pid, begun = stream.worker.pid, time.perf_counter()
        cpu = cpu_seconds(pid)
        while (decoded := stream.ledger.decoded) < frames:
            seconds, used = time.perf_counter() - begun, cpu_seconds(pid) - cpu
            seen = decoded - first
            await trio.sleep(LOOK)
        while stream.worker is not None:
            await trio.sleep(LOOK)
    assert stream.ledger.frames()["analysed"] == frames
    return seen / seconds, used / seen * 1000


def contestants(path: Path, size: tuple[int, int], frames: int) -> dict[str, Callable[[], Result]]:
    """Return what is measured, by name."""
    plugin = path.with_name("nothing.py")
    plugin.write_text(NOTHING, encoding="utf-8")
    found: dict[str, Callable[[], Result]] = {
        "stream": lambda: trio.run(streamed, path, plugin, frames),
        "PyAV": lambda: script(PYAV, path, THREADS),
        "PyAV, its defaults": lambda: script(PYAV, path, 0),
    }
    if importlib.util.find_spec("cv2") is not None:
        found["cv2.VideoCapture"] = lambda: script(OPENCV, path)
    else:
        print("cv2.VideoCapture is left out: opencv-python-headless is not installed")
    if shutil.which("ffmpeg") is not None:
        found["ffmpeg, raw pipe"] = lambda: script(PIPE, path, *size)
    else:
        print("ffmpeg is left out: it is not installed")
    return found


def compare(path: Path, size: tuple[int, int], frames: int) -> None:
    """Print all of them for one file, and the stream's ratio to each."""
    write_video(path, size, frames)
    found: dict[str, list[Result]] = {}
    ordered = list(contestants(path, size, frames).items())
    for _ in range(ROUNDS):
        for name, measure in ordered:
            found.setdefault(name, []).append(measure())
        ordered.reverse()
    print(f"{size[0]}x{size[1]}, {frames} frames, {ROUNDS} rounds")
    for name, results in sorted(found.items(), key=lambda item: item[0] != "stream"):
        fps, cpu = (statistics.median(column) for column in zip(*results, strict=True))
        pairs = [ours[0] / theirs[0] for ours, theirs in zip(found["stream"], results, strict=True)]
        costs = [ours[1] / theirs[1] for ours, theirs in zip(found["stream"], results, strict=True)]
        print(
            f"  {name:20} {fps:6.0f} frames/s  {cpu:.3f} ms CPU a frame"
            f"   stream/it: {statistics.median(pairs):5.2f} frames/s"
            f" (min {min(pairs):.2f}, max {max(pairs):.2f}), {statistics.median(costs):.2f} CPU"
        )


def main() -> None:
    """Compare on files of two sizes."""
    logging.disable()
    print(f"{len(os.sched_getaffinity(0))} processors; load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as name:
        for size, frames in FILES:
            compare(Path(name, f"{size[0]}.mp4"), size, frames)
    print("goals: at least 0.90 of PyAV, more than 1 of cv2.VideoCapture and of ffmpeg")


if __name__ == "__main__":
    main()
